"""`aigc recommend --run`: what a finished run's curves show, and the next run to try. Imports no torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.recipe import Recipe, read_recipe
from aigc_cli.storage.files import read_json
from aigc_cli.storage.results import read_rows
from aigc_cli.training.diagnosis import NOTHING_LEFT, Curves, diagnose, next_change
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.recommend.by_size import Recommendation, source_options, train_command

FILES = ("run.json", "recipe.yaml", "epochs.parquet")
DIVERGED = "diverged: "


def advise(run: Path) -> Recommendation:
    """The faults that the curves of a run show, and the run's recipe with the one change to try next.

    The recommendation's `seen["run"]` holds the faults with their figures, the change, and notes; its command is None
    when there is nothing to change.

    Raises:
        AigcError: `run` is no run folder, not finished, or not as it was written.
    """
    said = _description(run)
    recipe = Recipe(**read_recipe(run / "recipe.yaml"))
    try:
        status, images, source = said["status"], said["images"], Source.from_json(said["source"])
        options = source_options(source.data, source.images, source.columns or {}, source.sep, source.splits)
        ending = status.removeprefix(DIVERGED) if status.startswith(DIVERGED) else ""
        curves = Curves.of(read_rows(run / "epochs.parquet"), ending)
        faults = diagnose(curves, recipe.residual)
        answer = next_change(faults, recipe, curves)
        n = sum(images.values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AigcError(
            f"Expected a run of this version in {run}, found {type(error).__name__}: {error}.", "Train again."
        ) from error
    fault, change = answer or (None, {})
    reasons = dict.fromkeys(change, f"{fault.rule.name}: {fault.figures}") if fault else {}
    seen = {
        "run": str(run),
        "epochs": len(curves.train),
        "images": images,
        "faults": [
            {"fault": found.rule.name, "meaning": found.rule.says, "figures": found.figures} for found in faults
        ],
        "change": change,
        "notes": _notes(curves, bool(faults), bool(change)),
    }
    command = train_command(str(run / "recipe.yaml"), change, options) if change else None
    return Recommendation(n, Recipe(**{**asdict(recipe), **change}), reasons, command, seen={"run": seen})


def _description(run: Path) -> dict[str, Any]:
    """run.json, which a run writes last."""
    missing = [name for name in FILES if not (run / name).is_file()]
    if len(missing) == len(FILES):
        hint = (
            f"Did you mean {run.parent}?" if (run.parent / FILES[0]).is_file() else "Name a folder such as runs/NAME."
        )
        raise AigcError(f"Expected a run folder of `aigc train` at {run}, found none of its files.", hint)
    if missing:
        raise AigcError(
            f"Expected a finished run in {run}, found no {missing[0]}.",
            "Is it still training? If it was interrupted, train again.",
        )
    try:
        said = read_json(run / FILES[0])
    except (OSError, ValueError) as error:
        raise AigcError(f"Expected JSON in {run / FILES[0]}: {error}.", "Train again.") from error
    if not isinstance(said, dict):
        raise AigcError(f"Expected a run's description in {run / FILES[0]}, found {said!r:.40}.", "Train again.")
    return said


def _notes(curves: Curves, faulty: bool, answered: bool) -> list[str]:
    notes = []
    if not curves.val and not curves.diverged:
        notes.append("No validation part: overfitting can't be seen. Train with --val-fraction 0.2 to see it.")
    if not faulty:
        notes.append("Nothing unusual in the curves: no change is advised.")
    elif not answered:
        notes.append(f"{NOTHING_LEFT}.")
    return notes
