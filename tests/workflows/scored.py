"""Scores folders for the tests of workflows."""

from pathlib import Path
from typing import Any

from aigc_cli.storage.atomic_files import Output
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.score import ScoreSummary, score_folder


def score(
    folder: Path, output: Path, model: Path, *, overwrite: bool = False, resume: bool = False, **plan: Any
) -> ScoreSummary:
    """Scores a folder into a table on the CPU; `plan` holds further fields of the scoring plan."""
    return score_folder(
        folder, Output(output, overwrite, resume), ScoringPlan(**{"model": model, "device": "cpu"} | plan)
    )
