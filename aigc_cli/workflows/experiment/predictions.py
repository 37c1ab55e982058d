"""Scores of images by models that were not trained on them, as folds and as tables, beside human scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import TARGETS, Sample
from aigc_cli.metrics.formulas import Values
from aigc_cli.recipe import Recipe
from aigc_cli.storage.results import read_parquet_rows, read_table_metadata, write_table

FOLDS_FOLDER = "cells"


@dataclass(frozen=True)
class FoldResult:
    """One recipe's predictions of a fold that it was not trained on.

    Attributes:
        fold, seed: the fold that was held out, from 0, and the seed of the training.
        names, groups: the n images of the fold, and the prompt of each, or what else keeps the folds apart.
        predicted, human: {target: (n,)} in MOS; human scores are NaN where an image was not rated.
        cosine: (n,) CLIP cosine of the backbone before training.
        seconds, trainable: training time, and the number of trained parameters.
        out_of_domain: (n,) in [0, 1]; NaN where the model was trained on too few images.
        mismatched: (n,) consistency in MOS with the prompt of an image of about the same human quality (see
            `swap_prompts`); None when all prompts are the same.
    """

    fold: int
    seed: int
    names: Sequence[str]
    groups: Sequence[str]
    predicted: Mapping[str, Values]
    human: Mapping[str, Values]
    cosine: Values
    seconds: float
    trainable: int
    out_of_domain: Values | None = None
    mismatched: Values | None = None

    def select_rated(self, target: str) -> tuple[Values, Values, list[str]]:
        """(predicted, human, groups) of the images that were rated for `target`."""
        rows = np.flatnonzero(~np.isnan(self.human[target]))
        return self.predicted[target][rows], self.human[target][rows], [self.groups[i] for i in rows.tolist()]


@dataclass(frozen=True)
class FoldFailure:
    """A fold that could not be trained, and why."""

    fold: int
    seed: int
    reason: str


def save_fold(path: Path, found: FoldResult, about: Mapping[str, str]) -> None:
    """Writes one finished fold; `about` is further metadata."""
    facts = {"fold": found.fold, "seed": found.seed, "seconds": found.seconds, "trainable": found.trainable}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, "predictions", make_fold_rows(found), {**about, "cell": json.dumps(facts)})


def make_fold_rows(found: FoldResult) -> list[dict[str, Any]]:
    """The fold as rows of the predictions table."""
    return [
        {
            "name": name,
            "group": group,
            **{target: found.predicted[target][i] for target in TARGETS},
            **{f"human_{target}": found.human[target][i] for target in TARGETS},
            "clip_cosine": found.cosine[i],
            "out_of_domain": None if found.out_of_domain is None else found.out_of_domain[i],
            "mismatched": None if found.mismatched is None else found.mismatched[i],
        }
        for i, (name, group) in enumerate(zip(found.names, found.groups, strict=True))
    ]


def load_fold(path: Path) -> FoldResult:
    """Reads what `save_fold` wrote; AigcError when the file is damaged."""
    rows, facts = read_parquet_rows(path), json.loads(read_table_metadata(path)["cell"])

    def read_column(name: str) -> Values:
        return np.array([row[name] for row in rows], dtype=np.float64)

    optional = ("out_of_domain", "mismatched")
    known: Any = {name: read_column(name) for name in optional if any(row.get(name) is not None for row in rows)}
    return FoldResult(
        names=[row["name"] for row in rows],
        groups=[row["group"] for row in rows],
        predicted={target: read_column(target) for target in TARGETS},
        human={target: read_column(f"human_{target}") for target in TARGETS},
        cosine=read_column("clip_cosine"),
        **facts,
        **known,
    )


ABLATION_PLAN, PREDICTIONS = "ablation.json", "predictions.parquet"


def make_rated_rows(
    samples: Sequence[Sample], predicted: Mapping[str, Any], cosine: Any, **labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of the predictions table: scores of one model {target: (n,)} in MOS, its cosine (n,), columns of text."""
    return [
        {
            "name": sample.name,
            "group": sample.topic,
            "quality": float(predicted["quality"][row]),
            "consistency": float(predicted["consistency"][row]) if sample.prompt else None,
            **{f"human_{target}": sample.get_mos(target) for target in TARGETS},
            "clip_cosine": float(cosine[row]) if sample.prompt else None,
            **{name: texts[row] for name, texts in labels.items()},
        }
        for row, sample in enumerate(samples)
    ]


def save_predictions(path: Path, rows: Sequence[Mapping[str, Any]], recipe: Recipe, about: Mapping[str, str]) -> None:
    """Writes rows of the predictions table, which may have the further columns `split` and `repeat`."""
    scale = {"mos_min": str(recipe.mos_min), "mos_max": str(recipe.mos_max)}
    extra = [name for name in ("split", "repeat") if rows and name in rows[0]]
    write_table(path, "predictions", rows, {**about, **scale, "recipe": json.dumps(asdict(recipe))}, extra)


def read_predictions(place: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Reads scores of images by models of `recipe` that were not trained on them.

    Args:
        place: a table that `save_predictions` wrote, the folder of a training or a cross-validation, or that of an
            ablation: then the variant that equals `recipe`, with the recipe's seed or else the first seed.

    Raises:
        AigcError: there are no predictions, some are missing, or they are of another recipe.
    """
    if (place / ABLATION_PLAN).is_file():
        return [row for found in _find_variant(place, recipe) for row in make_fold_rows(found)]
    table = place / PREDICTIONS if place.is_dir() else place
    rows, about = [row for row in read_parquet_rows(table) if _is_held_out(row)], read_table_metadata(table)
    if about.get("schema") != "predictions" or not rows:
        raise AigcError(f"Expected predictions in {table}, found another table.", "Name an ablation's folder.")
    if other := _list_differences(json.loads(about.get("recipe", "{}")), recipe):
        raise AigcError(f"Expected predictions of this recipe in {table}, found {other}.", "Use that recipe.")
    return rows


def _find_variant(place: Path, recipe: Recipe) -> list[FoldResult]:
    try:
        plan = json.loads((place / ABLATION_PLAN).read_text(encoding="utf-8"))
        found = {name: _list_differences(settings, recipe) for name, settings in plan["variants"].items()}
        folds = int(plan["folds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AigcError(
            f"Expected the plan of an ablation in {place / ABLATION_PLAN}, found {error!r}.", "Run `aigc ablate` again."
        ) from error
    same = [name for name, other in found.items() if not other]
    if not same:
        listed = "; ".join(f"'{name}' with {other}" for name, other in list(found.items())[:3])
        raise AigcError(f"Expected a variant of this recipe in {place}, found {listed}.", "Use one of those recipes.")
    files = sorted((place / FOLDS_FOLDER).glob("*.parquet"))
    results = [load_fold(path) for path in files if read_table_metadata(path).get("variant", "") in same]
    seeds = sorted({one.seed for one in results}, key=lambda seed: (seed != recipe.seed, seed))
    chosen = {one.fold: one for one in results if one.seed == seeds[0]} if seeds else {}
    if len(chosen) < folds:
        raise AigcError(
            f"Expected {folds} folds of '{same[0]}' in {place}, found {len(chosen)}.", "Finish it with --resume."
        )
    return [one for _, one in sorted(chosen.items())]


def _is_held_out(row: Mapping[str, Any]) -> bool:
    """Whether a prediction is of the first repeat and by a model that was not trained on the prompt."""
    return row.get("repeat") in (None, "0") and not (row.get("split") or "").startswith(("train", "val", "image-level"))


def _list_differences(settings: Mapping[str, Any], recipe: Recipe) -> str:
    """The differences between a recipe's `settings` and `recipe` that change predictions, in words."""
    free = ("seed",) if recipe.selects_checkpoint else ("seed", "val_fraction")
    mine = asdict(recipe)
    changed = [key for key in settings.keys() & mine.keys() if key not in free and settings[key] != mine[key]]
    return ", ".join(f"{key} {settings[key]} for {mine[key]}" for key in sorted(changed))
