"""What lets a training go on where it ended: its plan and its latest state, in `training/` of the run folder.

The folder is there from before the first step until the results are whole. What a run folder held before stays as it
is until then.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError, Diverged, EnvironmentProblem, Interrupted
from aigc_cli.progress import Progress
from aigc_cli.recipe import FIELDS, Recipe, Resolved, checked, find_recipe, read_recipe
from aigc_cli.storage.checkpoints import load_state, save_state
from aigc_cli.storage.files import discard_folder, read_json, sweep, whole_folder
from aigc_cli.storage.locks import owned
from aigc_cli.training.state import Loop, Snapshot
from aigc_cli.workflows.experiment.rated import Rated, data_digest
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.train.held_out import Calibrating

PLAN = "plan.json"
NO_MEMORY = ("out of memory", "enough memory", "allocate memory")  # as CUDA, MPS and the CPU say it
SAVE_EVERY = 600.0  # seconds; the end of an epoch is always saved


def states_folder(run: Path) -> Path:
    """Where the plan and the states of a run lie."""
    return run / "training"


@dataclass(frozen=True)
class Plan:
    """What a training is of; a resumed one must be of the same.

    Attributes:
        resolved: every setting, and where it came from.
        source: the table and the folder; both may have moved when it is resumed.
        data: digest of images, prompts and scores.
        weights: digest of the backbone's weights before training.
        calibrating: what the error bars are to be computed from.
    """

    resolved: Resolved
    source: Source
    data: str
    weights: str
    calibrating: Calibrating = field(default_factory=Calibrating)

    def begin(self, run: Path) -> None:
        """Writes the plan; the states of an earlier training go."""
        with whole_folder(states_folder(run)) as folder:
            body = {**asdict(self), "source": self.source.to_json(), "folder": str(Path.cwd())}
            body["calibrating"] = self.calibrating.to_json()
            (folder / PLAN).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")

    def go_on(self, run: Path, progress: Progress) -> Snapshot | None:
        """The latest state of this training in `run`; None when no step was saved yet.

        Raises:
            AigcError: it was a training of something else.
        """
        sweep(states_folder(run))
        then = read_plan(run)
        changed = _changes(asdict(then.resolved.recipe), asdict(self.resolved.recipe))
        changed += ["the images, prompts or scores"] * (then.data != self.data)
        changed += [f"the weights of {self.resolved.recipe.backbone}"] * (then.weights != self.weights)
        _refuse(run, changed)
        if (state := load_state(states_folder(run))) is None:
            progress.say("Nothing was saved yet: training begins with the first epoch.")
            return None
        tensors, facts = state
        progress.say(f"Going on in epoch {facts['epoch']} after {facts['step']} steps.")
        return Snapshot(tensors, facts)


def plan_of(
    resolved: Resolved, source: Source, rated: Rated, weights: str, calibrating: Calibrating | None = None
) -> Plan:
    """The plan of a training that is about to begin or to go on."""
    return Plan(resolved, source, data_digest(rated), weights, calibrating or Calibrating())


def read_plan(run: Path) -> Plan:
    """The plan of the unfinished training in `run`.

    Raises:
        AigcError: there is none.
    """
    place = states_folder(run) / PLAN
    try:
        said = read_json(place)
        settings = {key: checked(key, value, str(place)) for key, value in said["resolved"]["recipe"].items()}
        sources, warnings = said["resolved"]["sources"], said["resolved"]["warnings"]
        texts = [*sources.values(), *warnings]
        if sources.keys() != FIELDS.keys() or any(len(text.splitlines()) > 1 for text in texts):  # comments of YAML
            raise ValueError(f"settings from {sources!r}, warnings {warnings!r}")
        resolved = Resolved(Recipe(**settings), sources, tuple(warnings))
        folder = Path(said["folder"])
        # where it runs where it did, paths stay as they were given
        source = Source.from_json(said["source"], Path() if folder == Path.cwd() else folder)
        bars = said.get("calibrating", Calibrating().to_json())
        predictions = folder / bars["predictions"] if bars["predictions"] else None
        if type(bars["folds"]) is not int:
            raise TypeError(f"{bars['folds']!r} folds")
        return Plan(resolved, source, said["data"], said["weights"], Calibrating(bars["folds"], predictions))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AigcError(
            f"Expected an unfinished training in {run}, found none.", "Leave out --resume, or name another folder."
        ) from error


def unfinished(run: Path, settings: Mapping[str, Any], recipe: str | None, source: Source) -> tuple[Resolved, Source]:
    """The settings and the data of the unfinished training in `run`.

    Args:
        settings, recipe: what was asked for now; it must not differ.
        source: where the data is now; what it leaves at its default is as it was.

    Raises:
        AigcError: there is none, or the settings differ.
    """
    plan = read_plan(run)
    asked = {} if recipe is None else read_recipe(find_recipe(recipe))
    given = {key: value for key, value in settings.items() if value is not None}
    asked |= {key: checked(key, value, f"--{key.replace('_', '-')}") for key, value in given.items()}
    _refuse(run, _changes(asdict(plan.resolved.recipe), asked))
    moved = {key: value for key, value in vars(source).items() if value != getattr(Source(), key)}
    return plan.resolved, replace(plan.source, **moved)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{key} ({then[key]} then, {value} now)" for key, value in now.items() if then[key] != value]


def _refuse(run: Path, changed: Sequence[str]) -> None:
    if changed:
        raise AigcError(
            f"Expected nothing changed since the training in {run} was begun, found changes in {'; '.join(changed)}.",
            "Use what was used then, or train anew with another -o.",
        )


def is_unfinished(run: Path) -> bool:
    """Whether a training was begun in `run` and its results are not whole."""
    return (states_folder(run) / PLAN).is_file()


def is_finished(run: Path) -> bool:
    """Whether the results in `run` are whole and no training is to go on in it; then also what a kill left is removed.

    Raises:
        Diverged: that is how it ended; going on would end the same way.
        RunHeld: another process works in `run`.
    """
    try:
        status = str(read_json(run / "run.json")["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if is_unfinished(run):
        return False
    with owned(run):
        sweep(run)
    if status != "done":
        raise Diverged(f"The training in {run} ended: {status}.", f"What to try next: aigc recommend --run {run}")
    return True


def finish(run: Path) -> None:
    """The results are whole: what was kept to go on from goes."""
    discard_folder(states_folder(run))


@dataclass
class Keeper:
    """Saves a training's state at the end of every epoch, every ten minutes, and when it is asked to stop.

    Attributes:
        run: the run folder.
        parts: the rows of every part; a state belongs to one split.
        ending: how the process was asked to end, None so far; see `signals.graceful`.
    """

    run: Path
    parts: Mapping[str, Sequence[int]]
    ending: Callable[[], BaseException | None]

    def __post_init__(self) -> None:
        self.split = sha256(json.dumps({part: list(rows) for part, rows in self.parts.items()}).encode()).hexdigest()
        self.saved = time.monotonic()

    def check(self, start: Snapshot | None) -> None:
        """Refuses a state that was trained on other rows."""
        if start is not None and start.facts.get("split") != self.split:
            _refuse(self.run, ["the parts for training and validation"])

    def __call__(self, loop: Loop) -> None:
        """Called by the loop wherever it can be written down."""
        ending = self.ending()
        if not (ending or loop.step == 0 or time.monotonic() - self.saved > SAVE_EVERY):
            return
        now = loop.snapshot()
        save_state(states_folder(self.run), loop.epoch, loop.step, now.tensors, {**now.facts, "split": self.split})
        self.saved = time.monotonic()
        if ending is not None:
            raise _interrupted(self.run, ending)


def _interrupted(run: Path, ending: BaseException) -> Interrupted:
    return Interrupted(f"the training so far is kept in {run}.", f"Go on with `aigc train --resume {run}`.", ending)


@contextlib.contextmanager
def resumable(run: Path, batch_size: int) -> Iterator[None]:
    """Tells whoever is interrupted, or runs out of memory or disk, how to go on once a training was begun in `run`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ending:
        if is_unfinished(run):
            raise _interrupted(run, ending) from ending
        if (run / "run.json").is_file():
            raise Interrupted(f"the results in {run} are whole.", "", ending) from ending
        raise
    except EnvironmentProblem as error:
        if is_unfinished(run):
            error.hint = f"{error.hint} Then go on with `aigc train --resume {run}`."
        raise
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        raise EnvironmentProblem(
            f"The memory did not suffice: {str(error).splitlines()[0] if str(error) else 'MemoryError'}",
            f"Train anew with half the batch size, --batch-size {max(2, batch_size // 2)}"
            + (f", or free memory and go on with `aigc train --resume {run}`." if is_unfinished(run) else "."),
        ) from error
