"""`aigc recommend`: which settings for a data set of this size. Imports neither torch nor a table reader."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.recipe import Recipe, find_recipe, read_recipe

MAX_IMAGES = 10**9


@dataclass(frozen=True)
class Size:
    """One row of the policy: what suits data sets of at least `start` images.

    Attributes:
        start: the smallest number of images, inclusive.
        recipe: the recipe to start from.
        settings: what the policy sets on top of it.
        reasons: one line for each setting.
    """

    start: int
    recipe: str
    settings: Mapping[str, Any]
    reasons: Mapping[str, str]


POLICY: tuple[Size, ...] = (
    Size(
        0,
        "small",
        {"freeze": "all", "scale_q": 0.1, "scale_c": 0.1, "lr": 1e-3},
        {
            "freeze": "too few images to move a backbone: only the heads learn",
            "scale_q": "a small correction stays close to what the backbone already knows",
            "scale_c": "a small correction stays close to the prompt's cosine",
            "lr": "fresh heads on fixed features take large steps",
        },
    ),
    Size(
        500,
        "medium",
        {"freeze": "partial", "freeze_depth": 0.8333, "scale_q": 0.2, "scale_c": 0.2, "lr": 3e-5},
        {
            "freeze": "the last blocks can be tuned to opinions",
            "freeze_depth": "20 of 24 blocks: so few images move only the last ones safely",
            "scale_q": "room for a correction that the images support",
            "scale_c": "room for a correction that the images support",
            "lr": "small steps keep what pretraining knew",
        },
    ),
    Size(
        3_000,
        "medium",
        {"freeze": "partial", "freeze_depth": 0.75, "scale_q": 0.3, "scale_c": 0.3, "lr": 3e-5},
        {
            "freeze": "early blocks see what every image has; the later ones learn opinions",
            "freeze_depth": "18 of 24 blocks, as published for data of this size",
            "scale_q": "enough images to learn a large correction",
            "scale_c": "enough images to learn a large correction",
            "lr": "small steps keep what pretraining knew",
        },
    ),
    Size(
        10_000,
        "large",
        {"freeze": "none", "scale_q": 0.4, "scale_c": 0.4, "lr": 1e-5},
        {
            "freeze": "enough images to train every block",
            "scale_q": "the data decide, not the base",
            "scale_c": "the data decide, not the base",
            "lr": "every weight moves, so each step is small",
        },
    ),
)
_COMMON_REASONS = {
    "epochs": "as in the recipe '{recipe}'",
    "batch_size": "as in the recipe '{recipe}'",
}


@dataclass(frozen=True)
class Recommendation:
    """Settings for `n` images, a reason for each, what would change nearby, and the command that runs them."""

    n: int
    recipe: Recipe
    reasons: dict[str, str]
    neighbours: list[str]
    command: str

    def to_json(self) -> dict[str, Any]:
        """The form that `--json` prints."""
        return {"n": self.n, "recipe": asdict(self.recipe), "reasons": self.reasons, "command": self.command}


def recommend(n: int) -> Recommendation:
    """The recommended settings for `n` rated images, by the policy's half-open ranges.

    Raises:
        AigcError: n is below 1 or beyond belief.
    """
    if not 1 <= n <= MAX_IMAGES:
        raise AigcError(f"Expected a number of rated images from 1 to {MAX_IMAGES:,}, found {n:,}.", "Try --n 3000.")
    index = max(i for i, size in enumerate(POLICY) if n >= size.start)
    size = POLICY[index]
    base = Recipe(**read_recipe(find_recipe(size.recipe)))
    flags = {key: value for key, value in size.settings.items() if getattr(base, key) != value}
    recipe = Recipe(**{**asdict(base), **size.settings})
    command = " ".join(
        [
            "aigc train --recipe",
            size.recipe,
            *(f"--{k.replace('_', '-')} {v:g}" if isinstance(v, float) else f"--{k} {v}" for k, v in flags.items()),
        ]
    )
    reasons = dict(size.reasons) | {key: text.format(recipe=size.recipe) for key, text in _COMMON_REASONS.items()}
    return Recommendation(n, recipe, reasons, _neighbours(index), command + " --data ratings.csv --images images/")


def _neighbours(index: int) -> list[str]:
    lines = []
    if index > 0:
        lines.append(f"below {POLICY[index].start:,} images: {_shown(POLICY[index - 1], POLICY[index])}")
    if index + 1 < len(POLICY):
        lines.append(f"from {POLICY[index + 1].start:,} images: {_shown(POLICY[index + 1], POLICY[index])}")
    return lines


def _shown(other: Size, mine: Size) -> str:
    changed = {k: v for k, v in other.settings.items() if mine.settings.get(k) != v}
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in changed.items()
    )
