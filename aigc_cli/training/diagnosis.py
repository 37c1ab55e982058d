"""What a run's curves show, and the one change to try next. Imports no torch."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_cli.recipe import FIELDS, Recipe

Row = Mapping[str, Any]

OVERFIT_GAP = 0.05
UNDERFIT_SROCC = 0.3
MANY_SATURATED, MANY_UNUSED = 0.3, 0.9
LAGGING_GAP = 0.25
# The learning rate that the recipes pair with each freezing: fresh heads on fixed features take larger steps.
USUAL_LR = {"all": 1e-3, "partial": 3e-5, "none": 1e-5}
DEPTHS = (18 / 24, 20 / 24, 22 / 24)
NOTHING_LEFT = "No setting is left to change within its sensible range: rate more images"


@dataclass(frozen=True)
class Curves:
    """A run's rows of the epochs table, in order.

    Attributes:
        train, val: by part; empty where there is none.
        diverged: why the run ended early, empty when it did not.
    """

    train: Sequence[Row]
    val: Sequence[Row]
    diverged: str = ""

    @classmethod
    def of(cls, epochs: Sequence[Row], diverged: str = "") -> "Curves":
        """The curves in the rows of an epochs table."""
        train, val = ([row for row in epochs if row["split"] == split] for split in ("train", "val"))
        return cls(train, val, diverged)

    def last(self, key: str) -> float:
        """The last training row's value; 0 where it has none."""
        return (self.train[-1].get(key) or 0.0) if self.train else 0.0


@dataclass(frozen=True)
class Rule:
    """A fault that curves can show.

    Attributes:
        name: the fault.
        sees: the figures that show it, in words; empty when the curves don't show it.
        says: what it means, for a person.
        steps: the changes to try, first to last; each gives {recipe field: value}, empty where it has nothing to offer.
    """

    name: str
    sees: Callable[[Curves], str]
    says: str
    steps: tuple[Callable[[Recipe, Curves], dict[str, Any]], ...]


@dataclass(frozen=True)
class Fault:
    """A rule whose fault the curves show, and the figures that show it."""

    rule: Rule
    figures: str


# --- what the curves show


def _mean_srocc(row: Row) -> float:
    known = [row[key] for key in ("srocc_q", "srocc_c") if row.get(key) is not None]
    return sum(known) / len(known) if known else 0.0


def _diverged(curves: Curves) -> str:
    return curves.diverged


def _unstable(curves: Curves) -> str:
    """The training loss rose by half between two neighbouring epochs after the first, or ended above its start."""
    losses = [row["loss"] for row in curves.train if row["loss"] is not None]
    for epoch, (a, b) in enumerate(itertools.pairwise(losses[1:]), 3):
        if b > 1.5 * a:
            return f"training loss {a:.3g} -> {b:.3g} in epoch {epoch}"
    if len(losses) > 2 and losses[-1] > 1.05 * losses[0]:
        return f"training loss {losses[0]:.3g} in the first epoch, {losses[-1]:.3g} in the last"
    return ""


def _underfit(curves: Curves) -> str:
    srocc = _mean_srocc(curves.train[-1]) if curves.train else 1.0
    return f"training SROCC {srocc:.2f}, under {UNDERFIT_SROCC}" if srocc < UNDERFIT_SROCC else ""


def _overfit(curves: Curves) -> str:
    if not (curves.train and curves.val):
        return ""
    train, val = _mean_srocc(curves.train[-1]), _mean_srocc(curves.val[-1])
    return f"SROCC {train:.2f} in training, {val:.2f} in validation" if train - val > OVERFIT_GAP else ""


def _saturated(curves: Curves) -> str:
    q, c = (curves.last(f"saturated_{letter}") for letter in "qc")
    return _corrections("at its limit", q, c) if max(q, c) > MANY_SATURATED else ""


def _unused(curves: Curves) -> str:
    q, c = (curves.last(f"unused_{letter}") for letter in "qc")
    return _corrections("under 0.05", q, c) if min(q, c) > MANY_UNUSED else ""


def _corrections(how: str, q: float, c: float) -> str:
    return f"correction {how} for {q:.0%} (quality), {c:.0%} (consistency) of the images"


def _lagging(curves: Curves) -> str:
    rows = curves.val or curves.train
    q, c = (rows[-1].get(key) for key in ("srocc_q", "srocc_c")) if rows else (None, None)
    if q is None or c is None or abs(q - c) <= LAGGING_GAP:
        return ""
    return f"SROCC {q:.2f} of quality, {c:.2f} of consistency"


# --- what to change


def _within(key: str, value: float) -> float:
    """`value` with two digits, held in the field's sensible range."""
    low, high = FIELDS[key].metadata["sensible"]
    return float(f"{min(max(value, low), high):.2g}")


def _lower_lr(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    rates = {"lr": recipe.lr} | ({} if recipe.lr_backbone is None else {"lr_backbone": recipe.lr_backbone})
    return {key: _within(key, rate / 3) for key, rate in rates.items() if rate > FIELDS[key].metadata["sensible"][0]}


def _raise_lr(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    """Threefold, and at least what is usual; a rate far too high, which learns nothing either, comes down."""
    rate = _within("lr", max(3 * recipe.lr, USUAL_LR[recipe.freeze]))
    return {"lr": rate} if rate != recipe.lr else {}


def _more_epochs(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    more = int(_within("epochs", 2 * recipe.epochs))
    return {"epochs": more} if more > recipe.epochs else {}


def _clip_harder(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    return {"max_grad_norm": 0.5} if recipe.max_grad_norm == 0 or recipe.max_grad_norm > 0.5 else {}


def _freeze_more(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    if recipe.freeze == "none":
        return {"freeze": "partial"}
    if recipe.freeze == "partial":
        deeper = next((round(depth, 4) for depth in DEPTHS if depth > recipe.freeze_depth + 0.01), None)
        # one change, though of two fields: heads alone hardly move at the rate that suits a backbone
        return {"freeze_depth": deeper} if deeper else {"freeze": "all", "lr": USUAL_LR["all"]}
    return {}


def _freeze_less(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    return {"freeze": "partial", "lr": USUAL_LR["partial"]} if recipe.freeze == "all" else {}


def _more_dropout(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    higher = next((rate for rate in (0.2, 0.3) if rate > recipe.dropout), None)
    return {"dropout": higher} if higher else {}


def _more_decay(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    higher = next((decay for decay in (5e-4, 1e-3) if decay > recipe.weight_decay), None)
    return {"weight_decay": higher} if higher else {}


def _wider_scale(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    if _overfit(curves):
        return {}  # more room for the correction is more to learn by heart
    full = {f"scale_{letter}" for letter in "qc" if curves.last(f"saturated_{letter}") > MANY_SATURATED}
    wider = {key: _within(key, 1.5 * getattr(recipe, key)) for key in sorted(full, reverse=True)}
    return {key: value for key, value in wider.items() if value > getattr(recipe, key)}


def _narrower_scale(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    narrower = {key: _within(key, getattr(recipe, key) / 1.5) for key in ("scale_q", "scale_c")}
    return {key: value for key, value in narrower.items() if value < getattr(recipe, key)}


def _shift_weight(recipe: Recipe, curves: Curves) -> dict[str, Any]:
    row = (curves.val or curves.train)[-1]
    step = 0.2 if row["srocc_q"] < row["srocc_c"] else -0.2
    moved = {"w_q": _within("w_q", recipe.w_q + step), "w_c": _within("w_c", recipe.w_c - step)}
    return {key: value for key, value in moved.items() if value != getattr(recipe, key)}


# In the order in which changes are worth trying: learning rate, freeze depth, residual scale, loss weights.
RULES: tuple[Rule, ...] = (
    Rule("diverged", _diverged, "the steps were far too large", (_lower_lr, _clip_harder)),
    Rule("unstable", _unstable, "the training loss jumps or rises", (_lower_lr, _clip_harder)),
    Rule(
        "underfit",
        _underfit,
        "even the training images are not learnt",
        (_raise_lr, _more_epochs, _freeze_less),
    ),
    Rule(
        "overfit",
        _overfit,
        "images are learnt by heart",
        (_freeze_more, _more_dropout, _more_decay),
    ),
    Rule(
        "saturated residual",
        _saturated,
        "the scale is too small",
        (_wider_scale,),
    ),
    Rule(
        "unused residual",
        _unused,
        "the correction is hardly used",
        (_narrower_scale, _raise_lr),
    ),
    Rule("one target lagging", _lagging, "one target is far behind the other", (_shift_weight,)),
)


def diagnose(curves: Curves, residual: bool = True) -> list[Fault]:
    """The faults that the curves show, in the order in which to act on them."""
    seen = [Fault(rule, rule.sees(curves)) for rule in RULES if residual or "residual" not in rule.name]
    return [fault for fault in seen if fault.figures]


def next_change(faults: Sequence[Fault], recipe: Recipe, curves: Curves) -> tuple[Fault, dict[str, Any]] | None:
    """The first fault that a change within the sensible ranges can answer, with that change; None when none can."""
    for fault in faults:
        for step in fault.rule.steps:
            if change := step(recipe, curves):
                return fault, change
    return None


def paragraph(curves: Curves, recipe: Recipe) -> str:
    """The diagnosis in words: what was seen and the next change to try."""
    found = diagnose(curves, recipe.residual)
    if not found:
        return "Diagnosis: nothing unusual in the curves."
    seen = "; ".join(f"{fault.rule.name}: {fault.figures} ({fault.rule.says})" for fault in found)
    answer = next_change(found, recipe, curves)
    return f"Diagnosis: {seen}. {f'Next, one change: {in_words(answer[1])}' if answer else NOTHING_LEFT}."


def in_words(change: Mapping[str, Any]) -> str:
    """A change as `lr 1e-05, epochs 40`."""
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in change.items()
    )
