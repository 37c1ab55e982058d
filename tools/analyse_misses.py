"""Shows where held-out predictions agree with human scores and where they do not, as Markdown.

    python tools/analyse_misses.py runs/cv --recipe scorer --data AGIQA-3K/data.csv

reads the folder of `aigc crossval` or `aigc ablate`, or a table of predictions. It prints agreement by generator (the
first part of an image's name), by style and by prompt length, the images with the largest errors, and how often the 90%
intervals contain the human score.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aigc_cli.images.sample import MOS_COLUMNS
from aigc_cli.metrics.by_name import estimate_metric
from aigc_cli.recipe import resolve_recipe
from aigc_cli.uncertainty.intervals import crossfit_intervals
from aigc_cli.workflows.ablate.summary import format_estimate
from aigc_cli.workflows.experiment.predictions import read_predictions

WORST = 10
MAX_MOS = 5.0  # AGIQA-3K's scale is 0 to 5


def group_images(table: pd.DataFrame) -> Mapping[str, pd.Series]:
    """{kind of group: group of each image}: generator, style and prompt length."""
    words = table["prompt"].map(lambda prompt: len(str(prompt).split()))
    length = pd.cut(words, [0, 4, 8, np.inf], labels=["1 to 4 words", "5 to 8 words", "9 words or more"])
    return {
        "generator": table["name"].str.replace(r"_\d+\.\w+$", "", regex=True),
        "style": table["style"].replace("", "none named"),
        "prompt length": length.astype(str),
    }


def format_groups(table: pd.DataFrame, title: str, group: pd.Series) -> list[str]:
    """One table: SROCC and mean error (predicted minus human) of both targets for each group."""
    lines = [
        f"| {title} | n | SROCC quality | mean error | SROCC consistency | mean error |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in table.groupby(group):
        cells = [f"{name}", f"{len(part)}"]
        for target in MOS_COLUMNS:
            predicted, human = part[target], part[f"human_{target}"]
            cells += [
                format_estimate(estimate_metric("srocc", predicted, human, list(part["group"])), ".2f"),
                f"{(predicted - human).mean():+.2f}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def format_worst(table: pd.DataFrame, target: str) -> list[str]:
    """The images with the largest errors."""
    error = table[target] - table[f"human_{target}"]
    lines = [f"| image | prompt | {target}: human | predicted |", "|---|---|---|---|"]
    for index in error.abs().sort_values(ascending=False).index[:WORST]:
        row = table.loc[index]
        lines.append(f"| {row['name']} | {row['prompt']} | {row[f'human_{target}']:.2f} | {row[target]:.2f} |")
    return lines


def format_coverage(table: pd.DataFrame) -> list[str]:
    """How often intervals fitted on other prompts contain the human score, and their mean width in MOS."""
    lines = [
        "| images | n | quality: coverage | width, MOS | consistency: coverage | width, MOS |",
        "|---|---|---|---|---|---|",
    ]
    unusual, low, high = np.array(table["out_of_domain"].astype(float).fillna(0.5).tolist()), {}, {}
    for target in MOS_COLUMNS:
        predicted, human = (table[column].to_numpy(float) for column in (target, f"human_{target}"))
        found = crossfit_intervals(predicted / MAX_MOS, human / MAX_MOS, unusual, list(table["group"]))
        assert found is not None, "too few images or prompts for intervals"
        low[target], high[target] = MAX_MOS * found[0], MAX_MOS * found[1]
    generator = group_images(table)["generator"]
    everything = pd.Series("all", index=table.index)
    for group in (everything, generator):
        for name, part in table.groupby(group):
            cells = [f"{name}", f"{len(part)}"]
            for target in MOS_COLUMNS:
                rows, wanted = part.index.to_numpy(), part[f"human_{target}"].to_numpy(float)
                inside = (low[target][rows] <= wanted) & (wanted <= high[target][rows])
                cells += [f"{inside.mean():.1%}", f"{(high[target] - low[target])[rows].mean():.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def format_page(rows: Sequence[Mapping[str, Any]], data: Path) -> str:
    """All tables.

    Args:
        rows: predictions, see `read_predictions`.
        data: the table of ratings, with name, prompt and style.
    """
    ratings = pd.read_csv(data, dtype=str, keep_default_na=False)[["name", "prompt", "style"]]
    table = pd.DataFrame(list(rows)).merge(ratings, on="name", validate="one_to_one")
    lines: list[str] = []
    for title, group in group_images(table).items():
        lines += [*format_groups(table, title, group), ""]
    for target in MOS_COLUMNS:
        lines += [*format_worst(table, target), ""]
    return "\n".join([*lines, *format_coverage(table)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("predictions", type=Path, help="folder of crossval or ablate, or a table of predictions")
    parser.add_argument("--recipe", default="scorer")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    recipe = resolve_recipe({}, arguments.recipe).recipe
    print(format_page(read_predictions(arguments.predictions, recipe), arguments.data))


if __name__ == "__main__":
    main()
