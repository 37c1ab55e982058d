"""`aigc recommend --n`: which settings for a data set of this size. Imports neither torch nor a table reader."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
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
        {"freeze": "all", "scale_q": 0.3, "scale_c": 0.3, "lr": 1e-3},
        {
            "freeze": "too few images to move a backbone: only the heads learn",
            "scale_q": "published: 0.1; on 480 images of AGIQA-3K mini reached SROCC 0.709 with 0.3, 0.702 with 0.1",
            "scale_c": "published: 0.1; on 480 images of AGIQA-3K mini reached SROCC 0.578 with 0.3, 0.549 with 0.1",
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
PLACEHOLDER = ("--data", "ratings.csv", "--images", "images/")


@dataclass(frozen=True)
class Recommendation:
    """Settings, a reason for each that matters, and the command that runs them.

    Attributes:
        n: rated images.
        recipe: every setting.
        reasons: by recipe field.
        command: None where no training run is advised.
        neighbours: what would change with fewer or more images.
        seen: what was looked at for it: {"data": ...} or {"run": ...}, empty for a mere size.
    """

    n: int
    recipe: Recipe
    reasons: dict[str, str]
    command: str | None
    neighbours: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The form that `--json` prints."""
        basis = {"n": self.n, "recipe": asdict(self.recipe), "reasons": self.reasons, "command": self.command}
        return basis | self.seen


def recommend(n: int) -> Recommendation:
    """The recommended settings for `n` rated images, by the policy's half-open ranges.

    Raises:
        AigcError: n is below 1 or beyond belief.
    """
    index = policy_row(n)
    return by_policy(n, POLICY[index], _neighbours(index))


def policy_row(n: int) -> int:
    """The index of the policy's row for `n` rated images; AigcError for an n below 1 or beyond belief."""
    if not 1 <= n <= MAX_IMAGES:
        raise AigcError(f"Expected a number of rated images from 1 to {MAX_IMAGES:,}, found {n:,}.", "Try --n 3000.")
    return max(index for index, size in enumerate(POLICY) if n >= size.start)


def by_policy(
    n: int,
    size: Size,
    neighbours: list[str],
    more: Mapping[str, tuple[Any, str]] | None = None,
    source: Sequence[str] = PLACEHOLDER,
) -> Recommendation:
    """The policy's row `size`, with `more` settings {field: (value, reason)}, for the data that `source` names."""
    further = more or {}
    settings = {**size.settings, **{key: value for key, (value, _) in further.items()}}
    base = Recipe(**read_recipe(find_recipe(size.recipe)))
    flags = {key: value for key, value in settings.items() if getattr(base, key) != value}
    kept = f"as in the recipe '{size.recipe}'"
    whys = {key: why for key, (_, why) in further.items()}
    reasons = {**size.reasons, "epochs": kept, "batch_size": kept, **whys}
    recipe = Recipe(**{**asdict(base), **settings})
    return Recommendation(n, recipe, reasons, train_command(size.recipe, flags, source), neighbours)


def train_command(recipe: str, flags: Mapping[str, Any], source: Sequence[str]) -> str:
    """The `aigc train` command of a recipe with other values for some fields, quoted for a shell."""
    options = [part for key, value in flags.items() for part in (f"--{key.replace('_', '-')}", shown(value))]
    return shlex.join(["aigc", "train", "--recipe", recipe, *options, *source])


def source_options(
    data: Path | None, images: Path | None, columns: Mapping[str, str], sep: str, splits: Path | None = None
) -> list[str]:
    """The options of `aigc train` that name rated images and their parts."""
    paths = (("--data", data), ("--images", images), ("--splits", splits))
    words = [word for flag, path in paths if path is not None for word in (flag, str(path))]
    words += [word for theirs, ours in columns.items() for word in ("--columns", f"{theirs}={ours}")]
    return words if sep == "," else [*words, "--sep", sep]


def shown(value: Any) -> str:
    """A setting's value as a person types it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _neighbours(index: int) -> list[str]:
    lines = []
    if index > 0:
        lines.append(f"below {POLICY[index].start:,} images: {difference(POLICY[index - 1], POLICY[index])}")
    if index + 1 < len(POLICY):
        lines.append(f"from {POLICY[index + 1].start:,} images: {difference(POLICY[index + 1], POLICY[index])}")
    return lines


def difference(other: Size, mine: Size) -> str:
    """What the row `other` sets that `mine` does not."""
    return ", ".join(
        f"{key} {shown(value)}" for key, value in other.settings.items() if mine.settings.get(key) != value
    )
