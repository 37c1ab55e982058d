"""Where a training run stands between two steps: whatever it takes to go on from there, bit for bit."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.model.model import Judge
from aigc_cli.recipe import Recipe
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.training.epoch import Tally


@dataclass
class Fit:
    """What a training run leaves: its curves, and the weights of the epoch that was kept."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    kept_epoch: int = 0
    kept_state: dict[str, Tensor] = field(default_factory=dict)
    diverged: str = ""
    stopped_early: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A `Loop` as it can be written down: tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Loop:
    """The state of the training loop.

    Attributes:
        judge, optimiser: what is trained, and how; every group of the optimiser has its full rate in `initial_lr`.
        random: draws the order of the rows and their views, once at the start of each epoch.
        tally: the epoch so far; `seconds` were spent on it.
        result: the curves and the kept weights so far.
        average: the moving average of the weights, which is what is validated and kept; empty where there is none.
        epoch: the epoch that is trained, from 1.
        step: steps done in this epoch.
        done: steps done in all; the schedule's position.
        best, stale: the best merit so far, and for how many epochs nothing was gained.
    """

    def __init__(self, judge: Judge, optimiser: torch.optim.Optimizer, recipe: Recipe, random: np.random.Generator):
        self.judge, self.optimiser, self.recipe, self.random = judge, optimiser, recipe, random
        self.result = Fit()
        self.average: dict[str, Tensor] = {}
        self.epoch, self.step, self.done = 1, 0, 0
        self.best, self.stale = -math.inf, 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Nothing of the epoch is done; the generator's state now decides its order."""
        self.step, self.seconds, self.tally = 0, 0.0, Tally(self.recipe)
        self._order = self.random.bit_generator.state

    def begin(self) -> None:
        """The untrained model is what is kept so far, and where an average of the weights starts."""
        self.result.kept_state = self.judge.state()
        self.average = self.judge.state() if self.recipe.ema else {}
        self.begin_epoch()

    def count_step(self) -> None:
        """A step is done: counts it, and takes its weights into the average.

        The average's decay d is that of the recipe, at first min(d, (1 + n) / (10 + n)) after n steps, so that the
        untrained weights are soon forgotten.
        """
        self.step, self.done = self.step + 1, self.done + 1
        share = 1 - min(self.recipe.ema, (1 + self.done) / (10 + self.done))
        learnt = self.judge.learnt() if self.average else {}
        for name, mean in self.average.items():
            mean.lerp_(learnt[name], share) if mean.is_floating_point() else mean.copy_(learnt[name])

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights that are validated and kept: the average where there is one."""
        return {name: mean.clone() for name, mean in self.average.items()} or self.judge.state()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the judge has those weights."""
        own = self.judge.state() if self.average else {}
        self.judge.load(self.average)
        try:
            yield
        finally:
            self.judge.load(own)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left to train."""
        return self.epoch > self.recipe.epochs or self.result.stopped_early or bool(self.result.diverged)

    def snapshot(self) -> Snapshot:
        """The state; its tensors are those of the optimiser itself, so they are good until the next step."""
        tensors = {f"weights.{name}": tensor for name, tensor in self.judge.state().items()}
        tensors |= {f"kept.{name}": tensor for name, tensor in self.result.kept_state.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
        if self.tally.predicted:
            tensors["predicted"] = torch.cat(self.tally.predicted, dim=1)
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "done": self.done,
            "best": self.best if math.isfinite(self.best) else None,
            "stale": self.stale,
            "seconds": self.seconds,
            "order": self._order,
            "losses": list(self.tally.losses),
            "epochs": list(self.result.epochs),
            "kept_epoch": self.result.kept_epoch,
            "stopped_early": self.result.stopped_early,
        }
        return Snapshot(tensors, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes to where `snapshot` was taken.

        Raises:
            AigcError: it does not fit this model, recipe or version.
        """
        try:
            self._restore(snapshot.tensors, snapshot.facts)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise AigcError(
                f"Expected the state of this training, found one that does not fit: {error!r}.",
                "Was the folder put together by hand? Train again.",
            ) from error

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        weights, own, average = _below("weights.", tensors), self.judge.state(), _below("average.", tensors)
        for found in (weights, _below("kept.", tensors), *[average] * bool(self.recipe.ema)):
            if {name: t.shape for name, t in found.items()} != {name: t.shape for name, t in own.items()}:
                raise ValueError("other tensors are trained")
        _check_facts(facts, tensors)
        self.judge.load(weights)
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimiser.", tensors).items():
            index, _, part = name.partition(".")
            states.setdefault(int(index), {})[part] = tensor
        trained = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        for position, state in states.items():
            if any(t.ndim and t.shape != trained[position].shape for t in state.values()):
                raise ValueError("the optimiser holds other shapes")
        self.optimiser.load_state_dict({"state": states, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.random.bit_generator.state = facts["order"]
        self.begin_epoch()
        self.epoch, self.step, self.done = facts["epoch"], facts["step"], facts["done"]
        self.best, self.stale = -math.inf if facts["best"] is None else facts["best"], facts["stale"]
        self.seconds = facts["seconds"]
        self.tally.losses = facts["losses"]
        self.tally.predicted = [tensors["predicted"]] if "predicted" in tensors else []
        device = next(self.judge.heads.parameters()).device
        kept = {name: tensor.to(device) for name, tensor in _below("kept.", tensors).items()}
        self.average = {name: average[name].to(device) for name in own} if self.recipe.ema else {}
        self.result = Fit(facts["epochs"], facts["kept_epoch"], kept, "", facts["stopped_early"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])


def _check_facts(facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """ValueError or TypeError where the facts are not of the kind that `snapshot` writes."""
    counts = [facts[name] for name in ("epoch", "step", "done", "stale", "kept_epoch")]
    numbers = [facts["seconds"], facts["best"] or 0.0, *(number for batch in facts["losses"] for number in batch)]
    names, rows = set(SCHEMAS["epochs"].names) - {"run", "split"}, facts["epochs"]
    numbers += [row[name] or 0.0 for row in rows for name in names & row.keys()]
    whole = all(type(count) is int and count >= 0 for count in counts) and type(facts["stopped_early"]) is bool
    real = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    known = all(row.keys() == names | {"split"} and row["split"] in ("train", "val") for row in rows)
    seen = sum(n for n, _, _ in facts["losses"])
    if not (whole and real and known) or ("predicted" in tensors and tensors["predicted"].shape != (4, seen)):
        raise ValueError("facts of another kind")


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
