"""The state of a training between two steps, from which it continues bit for bit."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.model.model import Model
from aigc_cli.recipe import Recipe
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.training.losses import EpochStats


@dataclass
class FitResult:
    """The result of a training."""

    epochs: list[dict[str, Any]] = field(default_factory=list)  # rows of the epochs table, without the run
    kept_epoch: int = 0  # the epoch whose weights were kept, from 1; 0 for the untrained model
    kept_weights: dict[str, Tensor] = field(default_factory=dict)
    diverged: str = ""  # how the training diverged; empty when it did not
    stopped_early: bool = False  # whether patience ended it


@dataclass(frozen=True)
class Snapshot:
    """A `LoopState` as it is saved: tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class LoopState:
    """The state of the training loop.

    Attributes:
        optimiser: every group has its full rate in `initial_lr`.
        random: draws the order of the rows and their views, once at the start of each epoch.
        stats, seconds: predictions and losses of the epoch so far, and the time spent on it.
        epoch, step, done: the epoch from 1, the steps done in it, and those in all epochs (the place in the schedule).
        best, stale: the best figure of an epoch so far, see `rate_epoch`, and the number of epochs since the last gain.
    """

    def __init__(self, model: Model, optimiser: torch.optim.Optimizer, recipe: Recipe, random: np.random.Generator):
        self.model, self.optimiser, self.recipe, self.random = model, optimiser, recipe, random
        self.result = FitResult()
        self.epoch, self.step, self.done = 1, 0, 0
        self.best, self.stale = -math.inf, 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Starts an epoch; the generator's present state decides the order of its rows."""
        self.step, self.seconds, self.stats = 0, 0.0, EpochStats(self.recipe, self.model.heads.config)
        self._order = self.random.bit_generator.state

    def begin(self) -> None:
        """Starts the training; until an epoch ends, the untrained weights are the kept ones."""
        self.result.kept_weights = self.model.copy_trained()
        self.begin_epoch()

    @property
    def is_finished(self) -> bool:
        return self.epoch > self.recipe.epochs or self.result.stopped_early or bool(self.result.diverged)

    def take_snapshot(self) -> Snapshot:
        """The present state. It shares tensors with the optimiser, so it is valid until the next step."""
        tensors = {f"weights.{name}": tensor for name, tensor in self.model.copy_trained().items()}
        tensors |= {f"kept.{name}": tensor for name, tensor in self.result.kept_weights.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
        if self.stats.predicted:
            tensors["predicted"] = torch.cat(self.stats.predicted, dim=1)
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        facts = {
            **{name: getattr(self, name) for name in ("epoch", "step", "done", "stale", "seconds")},
            "best": self.best if math.isfinite(self.best) else None,
            "order": self._order,
            "losses": list(self.stats.losses),
            "epochs": list(self.result.epochs),
            "kept_epoch": self.result.kept_epoch,
            "stopped_early": self.result.stopped_early,
        }
        return Snapshot(tensors, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Continues from the point where `snapshot` was taken.

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
        weights, own = _select_prefix("weights.", tensors), self.model.copy_trained()
        for found in (weights, _select_prefix("kept.", tensors)):
            if {name: t.shape for name, t in found.items()} != {name: t.shape for name, t in own.items()}:
                raise ValueError("other tensors are trained")
        _check_facts(facts, tensors)
        self.model.load_trained(weights)
        self._restore_optimiser(_select_prefix("optimiser.", tensors))
        self.random.bit_generator.state = facts["order"]
        self.begin_epoch()
        self.epoch, self.step, self.done = facts["epoch"], facts["step"], facts["done"]
        self.best, self.stale = -math.inf if facts["best"] is None else facts["best"], facts["stale"]
        self.seconds = facts["seconds"]
        self.stats.losses = facts["losses"]
        self.stats.predicted = [tensors["predicted"]] if "predicted" in tensors else []
        device = self.model.device
        kept = {name: tensor.to(device) for name, tensor in _select_prefix("kept.", tensors).items()}
        self.result = FitResult(facts["epochs"], facts["kept_epoch"], kept, "", facts["stopped_early"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])

    def _restore_optimiser(self, tensors: dict[str, Tensor]) -> None:
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, part = name.partition(".")
            states.setdefault(int(index), {})[part] = tensor
        trained = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        for position, state in states.items():
            if any(t.ndim and t.shape != trained[position].shape for t in state.values()):
                raise ValueError("the optimiser holds other shapes")
        self.optimiser.load_state_dict({"state": states, "param_groups": self.optimiser.state_dict()["param_groups"]})


def _check_facts(facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raises ValueError or TypeError for facts that `take_snapshot` does not write."""
    counts = [facts[name] for name in ("epoch", "step", "done", "stale", "kept_epoch")]
    numbers = [facts["seconds"], facts["best"] or 0.0, *(number for batch in facts["losses"] for number in batch)]
    names, rows = set(SCHEMAS["epochs"].names) - {"run", "split"}, facts["epochs"]
    numbers += [row[name] or 0.0 for row in rows for name in names & row.keys()]
    if not all(type(count) is int and count >= 0 for count in counts) or type(facts["stopped_early"]) is not bool:
        raise ValueError("counts of another kind")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError("numbers of another kind")
    if not all(row.keys() == names | {"split"} and row["split"] in ("train", "val") for row in rows):
        raise ValueError("epochs of another kind")
    if "predicted" in tensors and tensors["predicted"].shape != (4, sum(n for n, _, _ in facts["losses"])):
        raise ValueError("predictions of another number of rows")


def _select_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
