"""Unfinished trainings: the plan and the latest state of each, in `training/` of its run folder.

That folder exists from before the first step until the results are complete. Earlier results in the run folder stay
unchanged until then.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli.errors import AigcError, Divergence, EnvironmentProblem, Interruption
from aigc_cli.metrics.splits import Split
from aigc_cli.progress import Progress
from aigc_cli.recipe import FIELDS, Recipe, ResolvedRecipe, check_setting, find_recipe, read_recipe
from aigc_cli.storage.atomic_files import fill_atomic_folder, read_json, sweep_leftovers
from aigc_cli.storage.checkpoints import load_state, save_state
from aigc_cli.storage.locks import own_folder
from aigc_cli.storage.unchanged import list_changes, refuse_changes
from aigc_cli.workflows.experiment.run_folder import TRAINING_PLAN, find_states_folder, is_unfinished
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.train.calibrate import HeldOutSource

if TYPE_CHECKING:
    from aigc_cli.training.state import LoopState, Snapshot

NO_MEMORY = ("out of memory", "enough memory", "allocate memory")  # in errors of CUDA, MPS and the CPU
SAVE_EVERY = 600.0  # seconds; the end of an epoch is always saved


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained on what; a resumed training must have the same plan."""

    resolved: ResolvedRecipe
    source: Source  # the table and the folder may have moved before a training is resumed
    data: str  # digest of images, prompts and scores
    weights: str  # digest of the backbone's weights before training
    held_out: HeldOutSource = field(default_factory=HeldOutSource)

    def begin(self, run: Path) -> None:
        """Writes the plan and discards the states of an earlier training."""
        with fill_atomic_folder(find_states_folder(run)) as folder:
            body = {**asdict(self), "source": self.source.to_json(), "folder": str(Path.cwd())}
            text = json.dumps(body, indent=2, default=str)  # paths as text
            (folder / TRAINING_PLAN).write_text(text + "\n", encoding="utf-8")

    def resume(self, run: Path, progress: Progress) -> "Snapshot | None":
        """The latest state of this training in `run`; None when no step was saved yet.

        Raises:
            AigcError: the plan changed.
        """
        sweep_leftovers(find_states_folder(run))
        then = read_plan(run)
        changes = list_changes(asdict(then.resolved.recipe), asdict(self.resolved.recipe))
        changes += ["the images, prompts or scores"] * (then.data != self.data)
        changes += [f"the weights of {self.resolved.recipe.backbone}"] * (then.weights != self.weights)
        _refuse_changes(run, changes)
        if (state := load_state(find_states_folder(run))) is None:
            progress.say("Nothing was saved yet: training begins with the first epoch.")
            return None
        import torch

        from aigc_cli.training.state import Snapshot

        arrays, facts = state
        progress.say(f"Going on in epoch {facts['epoch']} after {facts['step']} steps.")
        return Snapshot({name: torch.from_numpy(array) for name, array in arrays.items()}, facts)


def read_plan(run: Path) -> TrainingPlan:
    """The plan of the unfinished training in `run`.

    Raises:
        AigcError: there is none.
    """
    place = find_states_folder(run) / TRAINING_PLAN
    try:
        plan = read_json(place)
        recipe = plan["resolved"]["recipe"]
        settings = {key: check_setting(key, value, str(place)) for key, value in recipe.items()}
        sources, warnings = plan["resolved"]["sources"], plan["resolved"]["warnings"]
        texts = [*sources.values(), *warnings]
        if sources.keys() != FIELDS.keys() or any(len(text.splitlines()) > 1 for text in texts):  # comments of YAML
            raise ValueError(f"settings from {sources!r}, warnings {warnings!r}")
        resolved = ResolvedRecipe(Recipe(**settings), sources, tuple(warnings))
        folder = Path(plan["folder"])
        # in the same working folder, paths stay as they were given
        source = Source.from_json(plan["source"], Path() if folder == Path.cwd() else folder)
        held_out = plan["held_out"]
        predictions = folder / held_out["predictions"] if held_out["predictions"] else None
        if type(held_out["folds"]) is not int:
            raise TypeError(f"{held_out['folds']!r} folds")
        return TrainingPlan(
            resolved, source, plan["data"], plan["weights"], HeldOutSource(held_out["folds"], predictions)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AigcError(
            f"Expected an unfinished training in {run}, found none.", "Leave out --resume, or name another folder."
        ) from error


def read_unfinished(
    run: Path, settings: Mapping[str, Any], recipe: str | None, source: Source
) -> tuple[ResolvedRecipe, Source]:
    """The settings and the data of the unfinished training in `run`.

    Args:
        settings, recipe: given now; they must not differ from the plan.
        source: where the data is now; attributes with their default value are taken from the plan.

    Raises:
        AigcError: there is none, or the settings differ.
    """
    plan = read_plan(run)
    asked = {} if recipe is None else read_recipe(find_recipe(recipe))
    given = {key: value for key, value in settings.items() if value is not None}
    asked |= {key: check_setting(key, value, f"--{key.replace('_', '-')}") for key, value in given.items()}
    _refuse_changes(run, list_changes(asdict(plan.resolved.recipe), asked))
    moved = {key: value for key, value in vars(source).items() if value != getattr(Source(), key)}
    return plan.resolved, replace(plan.source, **moved)


def _refuse_changes(run: Path, changes: list[str]) -> None:
    refuse_changes("the training", run, changes, "Use the earlier settings and data, or train again with another -o.")


def is_finished(run: Path) -> bool:
    """Whether `run` has complete results and no unfinished training; then it also removes leftovers of a kill.

    Raises:
        Divergence: the training diverged; resumed, it would diverge again.
        FolderConflict: another process works in `run`.
    """
    try:
        status = str(read_json(run / "run.json")["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if is_unfinished(run):
        return False
    with own_folder(run):
        sweep_leftovers(run)
    if status != "done":
        raise Divergence(f"The training in {run} ended: {status}.", f"What to try next: aigc recommend --run {run}")
    return True


@dataclass
class StateSaver:
    """Saves a training's state at the end of every epoch, every ten minutes, and when it is asked to stop."""

    run: Path
    split: Split  # a state can be resumed with the same rows only
    ending: Callable[[], BaseException | None]  # how the process was asked to end, see `hold_signals`

    def __post_init__(self) -> None:
        rows = {part: list(rows) for part, rows in self.split._asdict().items()}
        self.digest = sha256(json.dumps(rows).encode()).hexdigest()
        self.saved = time.monotonic()

    def check(self, start: "Snapshot | None") -> None:
        """Raises AigcError for a state that was trained on other rows."""
        if start is not None and start.facts.get("split") != self.digest:
            _refuse_changes(self.run, ["the parts for training and validation"])

    def __call__(self, loop: "LoopState") -> None:
        """Saves the state, if it is time to; the loop calls this whenever its state may be saved."""
        ending = self.ending()
        if not (ending or loop.step == 0 or time.monotonic() - self.saved > SAVE_EVERY):
            return
        now, folder = loop.take_snapshot(), find_states_folder(self.run)
        save_state(folder, loop.epoch, loop.step, now.tensors, {**now.facts, "split": self.digest})
        self.saved = time.monotonic()
        if ending is not None:
            raise _explain_interruption(self.run, ending)


def _explain_interruption(run: Path, ending: BaseException) -> Interruption:
    return Interruption(f"the training so far is kept in {run}.", f"Go on with `aigc train --resume {run}`.", ending)


@contextlib.contextmanager
def hint_resume(run: Path, batch_size: int) -> Iterator[None]:
    """Adds to interruptions and to errors of memory or disk how to go on with the training in `run`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ending:
        if is_unfinished(run):
            raise _explain_interruption(run, ending) from ending
        if (run / "run.json").is_file():
            raise Interruption(f"the results in {run} are whole.", "", ending) from ending
        raise
    except EnvironmentProblem as error:
        if is_unfinished(run):
            error.hint = f"{error.hint} Then go on with `aigc train --resume {run}`."
        raise
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        raise EnvironmentProblem(
            f"Not enough memory: {str(error).splitlines()[0] if str(error) else 'MemoryError'}",
            f"Train again with half the batch size, --batch-size {max(2, batch_size // 2)}"
            + (f", or free memory and go on with `aigc train --resume {run}`." if is_unfinished(run) else "."),
        ) from error
