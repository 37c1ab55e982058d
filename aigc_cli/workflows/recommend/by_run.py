"""`aigc recommend --run`: what the curves of a finished run show, and the next run to try. Imports no torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.recipe import Recipe, read_recipe
from aigc_cli.storage.atomic_files import read_json
from aigc_cli.training.diagnosis import NOTHING_LEFT, Curves, diagnose, find_change
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.recommend.by_size import Recommendation, format_train_command, list_source_options

RUN_FILES = ("run.json", "recipe.yaml", "epochs.parquet")
DIVERGED = "diverged: "


def recommend_by_run(run: Path) -> Recommendation:
    """Reads a run's curves: the faults they show, and the run's recipe with one change to try next.

    The recommendation's `seen["run"]` holds the faults with their figures, the change, and notes; its command is None
    when there is nothing to change. AigcError if `run` is not a run folder, is not finished, or is damaged.
    """
    said = _read_description(run)
    from aigc_cli.storage.results import read_parquet_rows  # with pyarrow: after the first checks

    recipe = Recipe(**read_recipe(run / "recipe.yaml"))
    try:
        status, images, source = said["status"], said["images"], Source.from_json(said["source"])
        options = list_source_options(source.data, source.images, source.columns or {}, source.sep, source.splits)
        ending = status.removeprefix(DIVERGED) if status.startswith(DIVERGED) else ""
        curves = Curves.from_rows(read_parquet_rows(run / "epochs.parquet"), ending)
        faults = diagnose(curves, recipe.residual)
        answer = find_change(faults, recipe, curves)
        n = sum(images.values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AigcError(
            f"Expected a run of this version in {run}, found {type(error).__name__}: {error}.", "Train again."
        ) from error
    fault, change = answer or (None, {})
    reasons = dict.fromkeys(change, f"{fault.rule.name}: {fault.figures}") if fault else {}
    notes = []
    if not curves.val and not curves.diverged:
        notes.append("No validation part: overfitting can't be seen. Train with --val-fraction 0.2 to see it.")
    if not faults:
        notes.append("Nothing unusual in the curves: no change is advised.")
    elif not change:
        notes.append(f"{NOTHING_LEFT}.")
    seen = {
        "run": str(run),
        "epochs": len(curves.train),
        "images": images,
        "faults": [{"fault": f.rule.name, "meaning": f.rule.meaning, "figures": f.figures} for f in faults],
        "change": change,
        "notes": notes,
    }
    command = format_train_command(str(run / "recipe.yaml"), change, options) if change else None
    return Recommendation(n, replace(recipe, **change), reasons, command, seen={"run": seen})


def _read_description(run: Path) -> dict[str, Any]:
    """The content of run.json, the last file that a run writes."""
    missing = [name for name in RUN_FILES if not (run / name).is_file()]
    if len(missing) == len(RUN_FILES):
        near = (run.parent / RUN_FILES[0]).is_file()
        hint = f"Did you mean {run.parent}?" if near else "Name a folder such as runs/NAME."
        raise AigcError(f"Expected a run folder of `aigc train` at {run}, found none of its files.", hint)
    if missing:
        raise AigcError(
            f"Expected a finished run in {run}, found no {missing[0]}.",
            "Is it still training? If it was interrupted, train again.",
        )
    try:
        said = read_json(run / RUN_FILES[0])
    except (OSError, ValueError) as error:
        raise AigcError(f"Expected JSON in {run / RUN_FILES[0]}: {error}.", "Train again.") from error
    if not isinstance(said, dict):
        raise AigcError(f"Expected a run's description in {run / RUN_FILES[0]}, found {said!r:.40}.", "Train again.")
    return said
