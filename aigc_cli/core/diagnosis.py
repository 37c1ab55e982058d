"""What a run's curves show, and the one change to try next."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Curve = Sequence[Mapping[str, Any]]

OVERFIT_GAP = 0.05
UNDERFIT_SROCC = 0.3
MANY_SATURATED, MANY_UNUSED = 0.3, 0.9
LAGGING_GAP = 0.25


@dataclass(frozen=True)
class Rule:
    """A fault that curves can show.

    Attributes:
        name: the fault.
        shows: whether the curves of the training and the validation part show it.
        says: what it means, for a person.
        next: the change to try, by recipe field and direction.
    """

    name: str
    shows: Callable[[Curve, Curve], bool]
    says: str
    next: str


def _mean_srocc(row: Mapping[str, Any]) -> float:
    known = [row[key] for key in ("srocc_q", "srocc_c") if row.get(key) is not None]
    return sum(known) / len(known) if known else 0.0


def _overfit(train: Curve, val: Curve) -> bool:
    return bool(train and val) and _mean_srocc(train[-1]) - _mean_srocc(val[-1]) > OVERFIT_GAP


def _underfit(train: Curve, val: Curve) -> bool:
    return bool(train) and _mean_srocc(train[-1]) < UNDERFIT_SROCC


def _unstable(train: Curve, val: Curve) -> bool:
    """The training loss rose by half between two neighbouring epochs after the first, or ended above its start."""
    losses = [row["loss"] for row in train]
    jumps = any(b > 1.5 * a for a, b in itertools.pairwise(losses[1:]))
    return jumps or (len(losses) > 2 and losses[-1] > 1.05 * losses[0])


def _saturated(train: Curve, val: Curve) -> bool:
    return bool(train) and max(train[-1]["saturated_q"], train[-1]["saturated_c"]) > MANY_SATURATED


def _unused(train: Curve, val: Curve) -> bool:
    return bool(train) and min(train[-1].get("unused_q", 0), train[-1].get("unused_c", 0)) > MANY_UNUSED


def _lagging(train: Curve, val: Curve) -> bool:
    row = (val or train)[-1] if (val or train) else {}
    q, c = row.get("srocc_q"), row.get("srocc_c")
    return q is not None and c is not None and abs(q - c) > LAGGING_GAP


# In the order in which changes are worth trying: learning rate, freeze depth, residual scale, loss weights.
RULES: tuple[Rule, ...] = (
    Rule("unstable", _unstable, "the training loss jumps or rises", "lower lr to a third"),
    Rule("underfit", _underfit, "even the training images are not learnt", "raise lr threefold, then epochs"),
    Rule(
        "overfit",
        _overfit,
        "training SROCC is more than 0.05 above validation",
        "freeze more (freeze_depth up, or freeze: all), then dropout 0.2 and weight_decay 5e-4",
    ),
    Rule(
        "saturated residual",
        _saturated,
        "the correction of many images is at its limit: the scale is too small",
        "raise scale_q / scale_c by half",
    ),
    Rule(
        "unused residual",
        _unused,
        "nearly all corrections move a score by less than 0.05 of its range",
        "lower scale_q / scale_c, or raise lr",
    ),
    Rule("one target lagging", _lagging, "one target is far behind the other", "move w_q / w_c towards it by 0.2"),
)


def diagnose(epochs: Curve, residual: bool = True) -> list[Rule]:
    """The rules whose fault the rows of an epochs table show, in the order in which to act on them."""
    train = [row for row in epochs if row["split"] == "train"]
    val = [row for row in epochs if row["split"] == "val"]
    return [rule for rule in RULES if (residual or "residual" not in rule.name) and rule.shows(train, val)]


def paragraph(epochs: Curve, residual: bool = True) -> str:
    """The diagnosis in words: what was seen and the next change to try."""
    found = diagnose(epochs, residual)
    if not found:
        return "Diagnosis: nothing unusual in the curves."
    seen = "; ".join(f"{rule.name} ({rule.says})" for rule in found)
    return f"Diagnosis: {seen}. Next, one change at a time: {found[0].next}."
