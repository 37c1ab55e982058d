"""Faults that the curves of a run show, and the change to try next. Imports no PyTorch."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_cli.recipe import FIELDS, Recipe
from aigc_cli.storage.results import Row

OVERFIT_GAP = 0.05
UNDERFIT_SROCC = 0.3
MANY_SATURATED, MANY_UNUSED = 0.3, 0.9
LAGGING_GAP = 0.25
# The usual learning rate for each freezing: new heads on fixed features need larger steps.
USUAL_LR = {"all": 1e-3, "partial": 3e-5, "none": 1e-5}
DEPTHS = (18 / 24, 20 / 24, 22 / 24)
CORRECTION = "correction {} for {:.0%} (quality), {:.0%} (consistency) of the images"
NOTHING_LEFT = "No setting is left to change within its sensible range: rate more images"


@dataclass(frozen=True)
class Curves:
    """A run's rows of the epochs table by part, in the order of epochs, and how it diverged; empty if it did not."""

    train: Sequence[Row]
    val: Sequence[Row]
    diverged: str = ""

    @classmethod
    def from_rows(cls, epochs: Sequence[Row], diverged: str = "") -> "Curves":
        train, val = ([row for row in epochs if row["split"] == split] for split in ("train", "val"))
        return cls(train, val, diverged)

    def get_last(self, key: str) -> float:
        """The value in the last training row; 0 where it is missing."""
        return (self.train[-1].get(key) or 0.0) if self.train else 0.0


@dataclass(frozen=True)
class Rule:
    """A fault that curves can show.

    Attributes:
        name, meaning: the fault, and what it means, in words.
        find: returns the figures that show the fault, in words; empty when the curves do not show it.
        steps: the changes to try, in order; each returns {recipe field: value}, empty when it changes nothing.
    """

    name: str
    find: Callable[[Curves], str]
    meaning: str
    steps: tuple[Callable[[Recipe, Curves], dict[str, Any]], ...]


@dataclass(frozen=True)
class Fault:
    """A fault that the curves show: its rule, and the figures that show it, in words."""

    rule: Rule
    figures: str


def _average_srocc(row: Row) -> float:
    known = [row[key] for key in ("srocc_q", "srocc_c") if row.get(key) is not None]
    return sum(known) / len(known) if known else 0.0


def _find_instability(curves: Curves) -> str:
    """The training loss rose by half between two neighbouring epochs after the first, or ended above its start."""
    losses = [row["loss"] for row in curves.train if row["loss"] is not None]
    for epoch, (a, b) in enumerate(itertools.pairwise(losses[1:]), 3):
        if b > 1.5 * a:
            return f"training loss {a:.3g} -> {b:.3g} in epoch {epoch}"
    if len(losses) > 2 and losses[-1] > 1.05 * losses[0]:
        return f"training loss {losses[0]:.3g} in the first epoch, {losses[-1]:.3g} in the last"
    return ""


def _find_underfitting(curves: Curves) -> str:
    srocc = _average_srocc(curves.train[-1]) if curves.train else 1.0
    return f"training SROCC {srocc:.2f}, under {UNDERFIT_SROCC}" if srocc < UNDERFIT_SROCC else ""


def _find_overfitting(curves: Curves) -> str:
    if not (curves.train and curves.val):
        return ""
    train, val = _average_srocc(curves.train[-1]), _average_srocc(curves.val[-1])
    return f"SROCC {train:.2f} in training, {val:.2f} in validation" if train - val > OVERFIT_GAP else ""


def _find_saturation(curves: Curves) -> str:
    q, c = (curves.get_last(f"saturated_{letter}") for letter in "qc")
    return CORRECTION.format("at its limit", q, c) if max(q, c) > MANY_SATURATED else ""


def _find_unused(curves: Curves) -> str:
    q, c = (curves.get_last(f"unused_{letter}") for letter in "qc")
    return CORRECTION.format("under 0.05", q, c) if min(q, c) > MANY_UNUSED else ""


def _find_lag(curves: Curves) -> str:
    rows = curves.val or curves.train
    q, c = (rows[-1].get(key) for key in ("srocc_q", "srocc_c")) if rows else (None, None)
    if q is None or c is None or abs(q - c) <= LAGGING_GAP:
        return ""
    return f"SROCC {q:.2f} of quality, {c:.2f} of consistency"


def _clamp(key: str, value: float) -> float:
    """`value` within the field's sensible range, with two significant digits."""
    low, high = FIELDS[key].metadata["sensible"]
    return float(f"{min(max(value, low), high):.2g}")


def _lower_lr(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    rates = {"lr": recipe.lr} | ({} if recipe.lr_backbone is None else {"lr_backbone": recipe.lr_backbone})
    return {key: _clamp(key, rate / 3) for key, rate in rates.items() if rate > FIELDS[key].metadata["sensible"][0]}


def _raise_lr(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    """Triples the rate, at least to the usual one. A rate above the sensible range falls to its upper end."""
    rate = _clamp("lr", max(3 * recipe.lr, USUAL_LR[recipe.freeze]))
    return {"lr": rate} if rate != recipe.lr else {}


def _add_epochs(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    more = int(_clamp("epochs", 2 * recipe.epochs))
    return {"epochs": more} if more > recipe.epochs else {}


def _clip_harder(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    return {} if recipe.max_grad_norm and recipe.max_grad_norm <= 0.5 else {"max_grad_norm": 0.5}


def _freeze_more(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    if recipe.freeze == "none":
        return {"freeze": "partial"}
    if recipe.freeze == "partial":
        deeper = next((round(depth, 4) for depth in DEPTHS if depth > recipe.freeze_depth + 0.01), None)
        # both fields change together: heads alone hardly learn at the rate that suits a backbone
        return {"freeze_depth": deeper} if deeper else {"freeze": "all", "lr": USUAL_LR["all"]}
    return {}


def _freeze_less(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    return {"freeze": "partial", "lr": USUAL_LR["partial"]} if recipe.freeze == "all" else {}


def _raise_dropout(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    higher = next((rate for rate in (0.2, 0.3) if rate > recipe.dropout), None)
    return {"dropout": higher} if higher else {}


def _raise_decay(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    higher = next((decay for decay in (5e-4, 1e-3) if decay > recipe.weight_decay), None)
    return {"weight_decay": higher} if higher else {}


def _widen_scale(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    if _find_overfitting(curves):
        return {}  # a larger correction would overfit more
    full = {f"residual_scale_{letter}" for letter in "qc" if curves.get_last(f"saturated_{letter}") > MANY_SATURATED}
    wider = {key: _clamp(key, 1.5 * getattr(recipe, key)) for key in sorted(full, reverse=True)}
    return {key: value for key, value in wider.items() if value > getattr(recipe, key)}


def _narrow_scale(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    narrower = {key: _clamp(key, getattr(recipe, key) / 1.5) for key in ("residual_scale_q", "residual_scale_c")}
    return {key: value for key, value in narrower.items() if value < getattr(recipe, key)}


def _shift_weight(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    row = (curves.val or curves.train)[-1]
    step = 0.2 if row["srocc_q"] < row["srocc_c"] else -0.2
    moved = {"w_q": _clamp("w_q", recipe.w_q + step), "w_c": _clamp("w_c", recipe.w_c - step)}
    return {key: value for key, value in moved.items() if value != getattr(recipe, key)}


# In the order in which to try changes: learning rate, freeze depth, residual scale, loss weights.
RULES: tuple[Rule, ...] = (
    Rule("diverged", lambda curves: curves.diverged, "the steps were far too large", (_lower_lr, _clip_harder)),
    Rule("unstable", _find_instability, "the training loss jumps or rises", (_lower_lr, _clip_harder)),
    Rule(
        "underfit",
        _find_underfitting,
        "even the training images are not learnt",
        (_raise_lr, _add_epochs, _freeze_less),
    ),
    Rule("overfit", _find_overfitting, "the model memorises images", (_freeze_more, _raise_dropout, _raise_decay)),
    Rule("saturated residual", _find_saturation, "the scale is too small", (_widen_scale,)),
    Rule("unused residual", _find_unused, "the correction is hardly used", (_narrow_scale, _raise_lr)),
    Rule("one target lagging", _find_lag, "one target is far behind the other", (_shift_weight,)),
)


def diagnose(curves: Curves, residual: bool = True) -> list[Fault]:
    """The faults that the curves show, in the order in which to act on them."""
    seen = [Fault(rule, rule.find(curves)) for rule in RULES if residual or "residual" not in rule.name]
    return [fault for fault in seen if fault.figures]


def find_change(faults: Sequence[Fault], recipe: Recipe, curves: Curves) -> tuple[Fault, dict[str, Any]] | None:
    """The first fault with a change inside the sensible ranges, and that change; None without one."""
    for fault in faults:
        for step in fault.rule.steps:
            if change := step(recipe, curves):
                return fault, change
    return None


def describe_diagnosis(curves: Curves, recipe: Recipe) -> str:
    """The diagnosis in words: the faults and the next change to try."""
    faults = diagnose(curves, recipe.residual)
    if not faults:
        return "Diagnosis: nothing unusual in the curves."
    seen = "; ".join(f"{fault.rule.name}: {fault.figures} ({fault.rule.meaning})" for fault in faults)
    answer = find_change(faults, recipe, curves)
    return f"Diagnosis: {seen}. {f'Next, one change: {describe_change(answer[1])}' if answer else NOTHING_LEFT}."


def describe_change(change: Mapping[str, Any]) -> str:
    """A change as `lr 1e-05, epochs 40`."""
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in change.items()
    )
