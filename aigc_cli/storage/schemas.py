"""The columns of all result tables, fixed and versioned.

To remove, rename or move a column, increase `SCHEMA_VERSION`. A new column goes to the end. New and renamed columns
go into `LATER_COLUMNS`, so that tables of earlier versions can be read.
"""

from typing import Literal

import pyarrow as pa

from aigc_cli.prompts.record import RECORDED_SETTINGS

SCHEMA_VERSION = 3

ERROR_BARS = (
    *("quality_low", "quality_high", "consistency_low", "consistency_high"),  # ends of the 90% intervals, in MOS
    *("out_of_domain", "quality_percentile", "consistency_percentile"),
)
LATER_COLUMNS = frozenset(  # missing in tables of earlier versions; read as null
    {"prompt_raw", "prompt_split", *RECORDED_SETTINGS, *ERROR_BARS}
)

_text, _real, _whole, _flag = pa.string(), pa.float64(), pa.int64(), pa.bool_()


def _make_schema(*columns: tuple[pa.DataType, str]) -> pa.Schema:
    """Return a schema with the columns in the given order, as (type, names separated by spaces)."""
    return pa.schema([(name, kind) for kind, names in columns for name in names.split()])


SCHEMAS: dict[str, pa.Schema] = {
    "scores": _make_schema(
        (_text, "name path prompt prompt_source"),
        (_real, "quality consistency quality_base quality_delta consistency_base consistency_delta clip_cosine"),
        (_flag, "prompt_split"),
        (_whole, "width height"),
        (_text, "status reason prompt_raw model sampler"),
        (_whole, "steps"),
        (_real, "cfg"),
        (_text, "seed"),
        (_real, " ".join(ERROR_BARS)),
    ),
    "metrics": _make_schema(
        (_text, "run split group target metric"), (_real, "value ci_low ci_high"), (_whole, "n"), (_text, "reason")
    ),
    "epochs": _make_schema(
        (_text, "run"),
        (_whole, "epoch"),
        (_text, "split"),
        (
            _real,
            "loss loss_q loss_c srocc_q srocc_c plcc_q plcc_c lr seconds saturated_q saturated_c unused_q unused_c",
        ),
    ),
    "ablation": _make_schema(
        (_text, "variant"),
        (_whole, "fold seed"),
        (_text, "target metric"),
        (_real, "value seconds"),
        (_whole, "trainable_parameters"),
        (_text, "reason"),
    ),
    "stress": _make_schema(
        (_text, "model perturbation target"), (_whole, "n"), (_real, "change ci_low ci_high lower srocc")
    ),
    "comparison": _make_schema(
        (_text, "table baseline target group"),
        (_whole, "pairs prompts"),
        (_real, "mean baseline_mean difference ci_low ci_high win_rate win_low win_high"),
        (_text, "verdict reason"),
    ),
    "predictions": _make_schema(
        (_text, "name group"),
        (_real, "quality consistency human_quality human_consistency clip_cosine out_of_domain mismatched"),
    ),
    "splits": _make_schema((_text, "name prompt split"), (_whole, "fold repeat")),
}

Kind = Literal["scores", "metrics", "epochs", "ablation", "comparison", "predictions", "splits", "stress"]
