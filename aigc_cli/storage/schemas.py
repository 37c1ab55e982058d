"""The columns of every result table: fixed and versioned."""

from typing import Literal

import pyarrow as pa

from aigc_cli.prompts.programs import SETTINGS

SCHEMA_VERSION = 2

_text, _real, _whole, _flag = pa.string(), pa.float64(), pa.int64(), pa.bool_()

ERROR_BARS = (
    *("quality_low", "quality_high", "consistency_low", "consistency_high"),  # the 90% interval
    *("out_of_domain", "quality_percentile", "consistency_percentile"),
)
LATER = frozenset({"prompt_raw", *SETTINGS, *ERROR_BARS})  # columns that tables of earlier versions lack; null there

SCHEMAS: dict[str, pa.Schema] = {
    "scores": pa.schema(
        [
            ("name", _text),
            ("path", _text),
            ("prompt", _text),
            ("prompt_source", _text),
            ("quality", _real),
            ("consistency", _real),
            ("quality_base", _real),
            ("quality_delta", _real),
            ("consistency_base", _real),
            ("consistency_delta", _real),
            ("clip_cosine", _real),
            ("prompt_truncated", _flag),
            ("width", _whole),
            ("height", _whole),
            ("status", _text),
            ("reason", _text),
            *[(name, _text) for name in ("prompt_raw", "model", "sampler")],
            ("steps", _whole),
            ("cfg", _real),
            ("seed", _text),
        ]
        + [(name, _real) for name in ERROR_BARS]
    ),
    "metrics": pa.schema(
        [
            ("run", _text),
            ("split", _text),
            ("group", _text),
            ("target", _text),
            ("metric", _text),
            ("value", _real),
            ("ci_low", _real),
            ("ci_high", _real),
            ("n", _whole),
            ("reason", _text),
        ]
    ),
    "epochs": pa.schema(
        [("run", _text), ("epoch", _whole), ("split", _text)]
        + [(name, _real) for name in ("loss", "loss_q", "loss_c", "srocc_q", "srocc_c", "plcc_q", "plcc_c")]
        + [("lr", _real), ("seconds", _real)]
        + [(name, _real) for name in ("saturated_q", "saturated_c", "unused_q", "unused_c")]
    ),
    "ablation": pa.schema(
        [
            ("variant", _text),
            ("fold", _whole),
            ("seed", _whole),
            ("target", _text),
            ("metric", _text),
            ("value", _real),
            ("seconds", _real),
            ("trainable_parameters", _whole),
            ("reason", _text),
        ]
    ),
    "stress": pa.schema(
        [("model", _text), ("perturbation", _text), ("target", _text), ("n", _whole)]
        + [(name, _real) for name in ("change", "ci_low", "ci_high", "lower", "srocc")]
    ),
    "comparison": pa.schema(
        [("table", _text), ("baseline", _text), ("target", _text), ("group", _text), ("pairs", _whole)]
        + [("prompts", _whole)]
        + [(name, _real) for name in ("mean", "baseline_mean", "difference", "ci_low", "ci_high")]
        + [(name, _real) for name in ("win_rate", "win_low", "win_high")]
        + [("verdict", _text), ("reason", _text)]
    ),
    "predictions": pa.schema(
        [("name", _text), ("group", _text)]
        + [(name, _real) for name in ("quality", "consistency", "human_quality", "human_consistency", "clip_cosine")]
        + [("out_of_domain", _real), ("mismatched", _real)]
    ),
    "splits": pa.schema([("name", _text), ("prompt", _text), ("split", _text), ("fold", _whole), ("repeat", _whole)]),
}

Kind = Literal["scores", "metrics", "epochs", "ablation", "comparison", "predictions", "splits", "stress"]
