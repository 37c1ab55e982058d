"""`aigc recommend --n`: settings for a data set of a given size. Imports neither torch nor a table reader."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.recipe import Recipe, find_recipe, read_recipe
from aigc_cli.training.rates import describe_hints

MAX_RATED_IMAGES = 10**9
FEW_PROMPTS = 50


@dataclass(frozen=True)
class PolicyRow:
    """One row of the policy: what changes in `recipe` for data sets of at least `start` images."""

    start: int
    recipe: str
    settings: Mapping[str, tuple[Any, str]]  # {field: (value, reason in one line)}


POLICY: tuple[PolicyRow, ...] = (
    PolicyRow(
        0,
        "small",
        {
            "freeze": ("all", "too few images to train the backbone: only the heads learn"),
            "residual_scale_q": (0.1, "too few images for more than a small correction"),
            "residual_scale_c": (0.1, "too few images for more than a small correction"),
            "lr": (1e-3, "fresh heads on fixed features take large steps"),
        },
    ),
    PolicyRow(
        500,
        "medium",
        {
            "freeze": ("partial", "enough images to fine-tune the last blocks"),
            "freeze_depth": (0.8333, "20 of 24 blocks: with so few images only the last ones train safely"),
            "residual_scale_q": (0.2, "enough images to learn a moderate correction"),
            "residual_scale_c": (0.2, "enough images to learn a moderate correction"),
            "lr": (3e-5, "small steps keep what pretraining knew"),
        },
    ),
    PolicyRow(
        3_000,
        "medium",
        {
            "freeze": ("partial", "early blocks see what every image has; the later ones learn opinions"),
            "freeze_depth": (0.75, "18 of 24 blocks, as published for data of this size"),
            "residual_scale_q": (0.3, "enough images to learn a large correction"),
            "residual_scale_c": (0.3, "enough images to learn a large correction"),
            "lr": (3e-5, "small steps keep what pretraining knew"),
        },
    ),
    PolicyRow(
        10_000,
        "large",
        {
            "freeze": ("none", "enough images to train every block"),
            "residual_scale_q": (0.4, "enough images for the correction to outweigh the base score"),
            "residual_scale_c": (0.4, "enough images for the correction to outweigh the base score"),
            "lr": (1e-5, "every weight is trained, so each step is small"),
        },
    ),
)
PLACEHOLDER = ("--data", "ratings.csv", "--images", "images/")


@dataclass(frozen=True)
class Recommendation:
    """Recommended settings, the reasons for them, and the command that trains with them.

    Attributes:
        reasons: {recipe field: one line}.
        command: None when no training run is advised.
        seen: what the data or the run showed: {"data": ...} or {"run": ...}; empty for a size alone.
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


def recommend_by_size(
    n: int,
    prompts: int | None = None,
    more: Mapping[str, tuple[Any, str]] | None = None,
    source: Sequence[str] = PLACEHOLDER,
) -> Recommendation:
    """Recommends settings for `n` rated images, by the policy's half-open ranges.

    AigcError for an n below 1 or above 10^9.

    Args:
        prompts: of the images; fewer than `FEW_PROMPTS` get the settings for fewer images.
        more: further settings, {field: (value, reason)}.
        source: the options of `aigc train` that name the images.
    """
    if not 1 <= n <= MAX_RATED_IMAGES:
        raise AigcError(
            f"Expected a number of rated images from 1 to {MAX_RATED_IMAGES:,}, found {n:,}.", "Try --n 3000."
        )
    index = max(index for index, row in enumerate(POLICY) if n >= row.start)
    row, chosen = POLICY[index], dict(POLICY[index].settings)
    neighbours = [f"from {o.start:,} images: {_describe_difference(o, row)}" for o in POLICY[index + 1 : index + 2]]
    if index > 0:
        neighbours.insert(0, f"below {row.start:,} images: {_describe_difference(POLICY[index - 1], row)}")
    if index > 0 and prompts is not None and prompts < FEW_PROMPTS:
        row, chosen = POLICY[index - 1], dict(POLICY[index - 1].settings)
        freeze, why = chosen["freeze"]
        chosen["freeze"] = (freeze, f"{why} (settings for fewer images: there are only {prompts} prompts)")
        neighbours = [f"with {FEW_PROMPTS} prompts or more: {_describe_difference(POLICY[index], row)}"]
    kept = f"as in the recipe '{row.recipe}'"
    reasons = {key: why for key, (_, why) in chosen.items()} | {"epochs": kept, "batch_size": kept}
    chosen |= more or {}
    reasons |= {key: why for key, (_, why) in chosen.items()}
    settings = {key: value for key, (value, _) in chosen.items()}
    base = Recipe(**read_recipe(find_recipe(row.recipe)))
    flags = {key: value for key, value in settings.items() if getattr(base, key) != value}
    command = format_train_command(row.recipe, flags, source)
    recipe = replace(base, **settings)
    if recipe.start_from:
        reasons |= dict.fromkeys(("residual_scale_q", "residual_scale_c"), "that of the start model takes its place")
    for key, said in describe_hints(recipe).items():
        if key in reasons:
            reasons[key] = f"{reasons[key]}; here {said}"
    return Recommendation(n, recipe, reasons, command, neighbours)


def format_train_command(recipe: str, flags: Mapping[str, Any], source: Sequence[str]) -> str:
    """The `aigc train` command of a recipe with other values for some fields, quoted for a shell."""
    options = [part for key, value in flags.items() for part in (f"--{key.replace('_', '-')}", format_setting(value))]
    return shlex.join(["aigc", "train", "--recipe", recipe, *options, *source])


def list_source_options(
    data: Path | None, images: Path | None, columns: Mapping[str, str], sep: str, splits: Path | None = None
) -> list[str]:
    """The options of `aigc train` that name rated images and their parts."""
    paths = (("--data", data), ("--images", images), ("--splits", splits))
    words = [word for flag, path in paths if path is not None for word in (flag, str(path))]
    words += [word for theirs, ours in columns.items() for word in ("--columns", f"{theirs}={ours}")]
    return words if sep == "," else [*words, "--sep", sep]


def format_setting(value: Any) -> str:
    """A setting's value as a person types it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _describe_difference(other: PolicyRow, mine: PolicyRow) -> str:
    values = {key: value for key, (value, _) in mine.settings.items()}
    changed = {key: value for key, (value, _) in other.settings.items() if values.get(key) != value}
    return ", ".join(f"{key} {format_setting(value)}" for key, value in changed.items())
