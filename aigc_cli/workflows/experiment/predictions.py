"""What an ablation keeps of a cross-validation: every finished cell is a file, a failed one a reason."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.recipe import Recipe
from aigc_cli.storage.results import read_metadata, read_rows, write_table
from aigc_cli.workflows.experiment.folds import Cell, Column
from aigc_cli.workflows.experiment.rated import TARGETS

PLAN, CELLS, PREDICTIONS = "ablation.json", "cells", "predictions.parquet"


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
    facts = {"fold": cell.fold, "seed": cell.seed, "seconds": cell.seconds, "trainable": cell.trainable}
    write_table(path, "predictions", prediction_rows(cell), {**about, "cell": json.dumps(facts)})


def prediction_rows(cell: Cell) -> list[dict[str, Any]]:
    """Rows of the predictions table."""
    return [
        {
            "name": name,
            "group": group,
            "quality": cell.predicted["quality"][i],
            "consistency": cell.predicted["consistency"][i],
            "human_quality": cell.human["quality"][i],
            "human_consistency": cell.human["consistency"][i],
            "clip_cosine": cell.cosine[i],
            "out_of_domain": None if cell.out_of_domain is None else cell.out_of_domain[i],
            "mismatched": None if cell.mismatched is None else cell.mismatched[i],
        }
        for i, (name, group) in enumerate(zip(cell.names, cell.groups, strict=True))
    ]


def rated_rows(
    samples: Sequence[Sample], sides: Mapping[str, Any], cosine: Any, **labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of the predictions table, of one model.

    Args:
        samples: the n rated images.
        sides: quality and consistency in MOS, each (n,).
        cosine: (n,) of the backbone before training.
        labels: further columns of text.
    """
    return [
        {
            "name": sample.name,
            "group": sample.prompt,
            **{target: float(sides[target][row]) for target in TARGETS},
            **{f"human_{target}": getattr(sample, column) for target, column in TARGETS.items()},
            "clip_cosine": float(cosine[row]),
            **{name: texts[row] for name, texts in labels.items()},
        }
        for row, sample in enumerate(samples)
    ]


def save_predictions(path: Path, rows: Sequence[Mapping[str, Any]], recipe: Recipe, about: Mapping[str, str]) -> None:
    """Writes scores of images by models of `recipe` that had not seen them, for `read_predictions` and `aigc plot`.

    Args:
        rows: of the predictions table; they may also say which `split` and `repeat` they are of.
        about: further metadata.
    """
    scale = {"mos_min": str(recipe.mos_min), "mos_max": str(recipe.mos_max)}
    extra = [name for name in ("split", "repeat") if rows and name in rows[0]]
    write_table(path, "predictions", rows, {**about, **scale, "recipe": json.dumps(asdict(recipe))}, extra)


def read_predictions(place: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Scores of images by models of `recipe` that had not seen them.

    Args:
        place: a table that `save_predictions` wrote, a run folder that holds one, or the folder of an ablation: then
            those of the variant that is `recipe`, of its seed or else of the first one.

    Raises:
        AigcError: there are none, some are missing, or they are of another recipe.
    """
    if not (place / PLAN).is_file():
        table = place / PREDICTIONS if place.is_dir() else place
        rows, said = [row for row in read_rows(table) if _counts(row)], read_metadata(table)
        if said.get("schema") != "predictions" or not rows:
            raise AigcError(f"Expected predictions in {table}, found another table.", "Name an ablation's folder.")
        if other := _differences(json.loads(said["recipe"]) if "recipe" in said else {}, recipe):
            raise AigcError(f"Expected predictions of this recipe in {table}, found {other}.", "Use that recipe.")
        return rows
    try:
        plan = json.loads((place / PLAN).read_text(encoding="utf-8"))
        found = {name: _differences(settings, recipe) for name, settings in plan["variants"].items()}
        folds = int(plan["folds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AigcError(
            f"Expected the plan of an ablation in {place / PLAN}, found {error!r}.", "Ablate anew."
        ) from error
    same = [name for name, other in found.items() if not other]
    if not same:
        listed = "; ".join(f"'{name}' with {other}" for name, other in list(found.items())[:3])
        raise AigcError(f"Expected a variant of this recipe in {place}, found {listed}.", "Use one of those recipes.")
    cells = [load_cell(path) for path in _cells_of(place, same)]
    seeds = sorted({cell.seed for cell in cells}, key=lambda seed: (seed != recipe.seed, seed))
    chosen = {cell.fold: cell for cell in cells if cell.seed == seeds[0]} if seeds else {}
    if len(chosen) < folds:
        raise AigcError(
            f"Expected {folds} folds of '{same[0]}' in {place}, found {len(chosen)}.", "Finish it with --resume."
        )
    return [row for _, cell in sorted(chosen.items()) for row in prediction_rows(cell)]


def _counts(row: Mapping[str, Any]) -> bool:
    """Whether a prediction is of the first repeat and of a model that had not seen the prompt."""
    return row.get("repeat") in (None, "0") and not (row.get("split") or "").startswith(("train", "val", "image-level"))


def _cells_of(place: Path, variants: Sequence[str]) -> list[Path]:
    files = sorted((place / CELLS).glob("*.parquet"))
    return [path for path in files if read_metadata(path).get("variant") in variants]


def _differences(settings: Mapping[str, Any], recipe: Recipe) -> str:
    """What of a recipe's `settings` matters to a prediction and is another than in `recipe`, in words."""
    free = ("seed",) if recipe.chooses else ("seed", "val_fraction")
    mine = asdict(recipe)
    changed = [key for key in settings.keys() & mine.keys() if key not in free and settings[key] != mine[key]]
    return ", ".join(f"{key} {settings[key]} for {mine[key]}" for key in sorted(changed))


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
        *(column(name) if rows and rows[0].get(name) is not None else None for name in ("out_of_domain", "mismatched")),
    )
