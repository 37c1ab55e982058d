"""Where the held-out scores of a cross-validation agree with people and where they miss, as Markdown.

    python tools/analyse_misses.py runs/cv --recipe scorer --data AGIQA-3K/data.csv

reads the folder of an `aigc ablate` (or a table of `aigc eval --predictions`) and writes agreement by generator
(the first part of an image's name), by style and by the length of the prompt, the images that were missed most, and how
often the 90% intervals hold. Consistency is read as the images of other prompts show, as in a model with such folds.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aigc_cli.metrics.by_name import estimate
from aigc_cli.metrics.splits import grouped_folds
from aigc_cli.recipe import resolve
from aigc_cli.uncertainty.consistency import recalibration
from aigc_cli.uncertainty.intervals import FOLDS, crossfit_intervals
from aigc_cli.workflows.ablate.summary import shown
from aigc_cli.workflows.experiment.predictions import read_predictions
from aigc_cli.workflows.experiment.rated import TARGETS

WORST = 10
SPAN = 5.0  # of AGIQA-3K's scale, from 0


def groupings(table: pd.DataFrame) -> Mapping[str, pd.Series]:
    """The group of each image, by generator, style and prompt length."""
    words = table["prompt"].map(lambda prompt: len(str(prompt).split()))
    length = pd.cut(words, [0, 4, 8, np.inf], labels=["1 to 4 words", "5 to 8 words", "9 words or more"])
    return {
        "generator": table["name"].str.replace(r"_\d+\.\w+$", "", regex=True),
        "style": table["style"].replace("", "none named"),
        "prompt length": length.astype(str),
    }


def read(table: pd.DataFrame) -> pd.DataFrame:
    """The table with consistency read as the images of other prompts show, within the scale."""
    c, q, human = (table[name].to_numpy(float) for name in ("consistency", "quality", "human_consistency"))
    prompts, found = table["group"].to_numpy(), np.empty(len(table))
    for held_out in grouped_folds(list(prompts), FOLDS, 1):
        rest = np.setdiff1d(np.arange(len(table)), held_out)
        by_others = recalibration(c[rest], q[rest], human[rest], list(prompts[rest]))
        found[held_out] = by_others(c[held_out], q[held_out])
    return table.assign(consistency=found.clip(0, SPAN))


def by_group(table: pd.DataFrame, title: str, group: pd.Series) -> list[str]:
    """One table: SROCC of both targets and the mean error (predicted less human) of each group."""
    lines = [
        f"| {title} | n | SROCC quality | mean error | SROCC consistency | mean error |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in table.groupby(group):
        cells = [f"{name}", f"{len(part)}"]
        for target in TARGETS:
            predicted, human = part[target], part[f"human_{target}"]
            cells += [
                shown(estimate("srocc", predicted, human, list(part["group"])), digits=2),
                f"{(predicted - human).mean():+.2f}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def worst(table: pd.DataFrame, target: str) -> list[str]:
    """The images whose score is farthest from people's."""
    error = table[target] - table[f"human_{target}"]
    lines = [f"| image | prompt | {target}: people | predicted |", "|---|---|---|---|"]
    for index in error.abs().sort_values(ascending=False).index[:WORST]:
        row = table.loc[index]
        lines.append(f"| {row['name']} | {row['prompt']} | {row[f'human_{target}']:.2f} | {row[target]:.2f} |")
    return lines


def held(table: pd.DataFrame) -> list[str]:
    """How often intervals made from the images of other prompts hold, and their mean width in MOS."""
    lines = [
        "| images | n | quality: held | width, MOS | consistency: held | width, MOS |",
        "|---|---|---|---|---|---|",
    ]
    unusual, low, high = np.array(table["out_of_domain"].astype(float).fillna(0.5).tolist()), {}, {}
    for target in TARGETS:
        predicted, human = (table[column].to_numpy(float) for column in (target, f"human_{target}"))
        found = crossfit_intervals(predicted / SPAN, human / SPAN, unusual, list(table["group"]))
        assert found is not None, "too few images or prompts for intervals"
        low[target], high[target] = SPAN * found[0], SPAN * found[1]
    generator = groupings(table)["generator"]
    everything = pd.Series("all", index=table.index)
    for group in (everything, generator):
        for name, part in table.groupby(group):
            cells = [f"{name}", f"{len(part)}"]
            for target in TARGETS:
                rows, wanted = part.index.to_numpy(), part[f"human_{target}"].to_numpy(float)
                inside = (low[target][rows] <= wanted) & (wanted <= high[target][rows])
                cells += [f"{inside.mean():.1%}", f"{(high[target] - low[target])[rows].mean():.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def page(rows: Sequence[Mapping[str, Any]], data: Path) -> str:
    """All tables, from predictions (see `read_predictions`) and the ratings that they are of."""
    ratings = pd.read_csv(data, dtype=str, keep_default_na=False)[["name", "prompt", "style"]]
    table = read(pd.DataFrame(list(rows)).merge(ratings, on="name", validate="one_to_one"))
    lines: list[str] = []
    for title, group in groupings(table).items():
        lines += [*by_group(table, title, group), ""]
    for target in TARGETS:
        lines += [*worst(table, target), ""]
    return "\n".join([*lines, *held(table)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("predictions", type=Path, help="an ablation's folder, or a table of predictions")
    parser.add_argument("--recipe", default="scorer")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    print(page(read_predictions(arguments.predictions, resolve({}, arguments.recipe).recipe), arguments.data))


if __name__ == "__main__":
    main()
