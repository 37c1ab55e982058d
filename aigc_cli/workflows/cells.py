"""What an ablation keeps of a cross-validation: every finished cell is a file, a failed one a reason."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from aigc_cli.io.results import read_metadata, read_rows, write_table
from aigc_cli.recipe import Recipe
from aigc_cli.workflows.crossval import Cell, Column
from aigc_cli.workflows.ratings import TARGETS


@dataclass(frozen=True)
class Failure:
    """A cell that could not be trained, and why."""

    fold: int
    seed: int
    reason: str


def cell_file(folder: Path, data: str, weights: str, recipe: Recipe, folds: int, fold: int) -> Path:
    """Where a cell lies; its name is a digest of everything that its predictions depend on."""
    key = {"data": data, "weights": weights, "recipe": asdict(recipe), "folds": folds, "fold": fold}
    return folder / f"{sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.parquet"


def save_cell(path: Path, cell: Cell, about: Mapping[str, str]) -> None:
    """Writes one finished cell; `about` says for a person which variant it belongs to."""
    rows = [
        {
            "name": name,
            "group": group,
            "quality": cell.predicted["quality"][i],
            "consistency": cell.predicted["consistency"][i],
            "human_quality": cell.human["quality"][i],
            "human_consistency": cell.human["consistency"][i],
            "clip_cosine": cell.cosine[i],
        }
        for i, (name, group) in enumerate(zip(cell.names, cell.groups, strict=True))
    ]
    facts = {"fold": cell.fold, "seed": cell.seed, "seconds": cell.seconds, "trainable": cell.trainable}
    write_table(path, "predictions", rows, {**about, "cell": json.dumps(facts)})


def load_cell(path: Path) -> Cell:
    """Reads what `save_cell` wrote; AigcError when the file is damaged."""
    rows, facts = read_rows(path), json.loads(read_metadata(path)["cell"])

    def column(name: str) -> Column:
        return np.array([row[name] for row in rows], dtype=np.float64)

    return Cell(
        facts["fold"],
        facts["seed"],
        [row["name"] for row in rows],
        [row["group"] for row in rows],
        {target: column(target) for target in TARGETS},
        {target: column(f"human_{target}") for target in TARGETS},
        column("clip_cosine"),
        facts["seconds"],
        facts["trainable"],
    )
