"""Run folders: their names, and whether a training may write into one."""

import datetime
from pathlib import Path

from aigc_cli.errors import AigcError
from aigc_cli.storage.atomic_files import Output

TRAINING_PLAN = "plan.json"


def name_run_folder(label: str | None, folder: Path = Path("runs")) -> Path:
    """The path of a new run folder, named by the time and a label (a recipe or a command)."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = folder / f"{stamp}-{Path(label).stem if label else 'default'}"
    return next(p for p in (stem, *(stem.with_name(f"{stem.name}-{i}") for i in range(2, 1000))) if not p.exists())


def find_states_folder(run: Path) -> Path:
    """The folder with the plan and the states of a run."""
    return run / "training"


def is_unfinished(run: Path) -> bool:
    """Whether a training was begun in `run` and its results are not complete."""
    return (find_states_folder(run) / TRAINING_PLAN).is_file()


def check_run_folder(output: Output) -> None:
    """Refuses a run folder that a training must not replace.

    Raises:
        AigcError: it holds an unfinished training or other results, and they are neither replaced nor continued.
        EnvironmentProblem: it can't be written.
    """
    if not (output.overwrite or output.resume) and is_unfinished(output.path):
        raise AigcError(
            f"The training in {output.path} is not finished.",
            f"Go on with `aigc train --resume {output.path}`, or add --overwrite.",
        )
    output.check(suffixes=())
