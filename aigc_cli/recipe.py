"""Recipes: all settings of a training run, their ranges, and the source of each value.

Each field of `Recipe` is a key of the recipe files, an option of `aigc train` and an environment variable `AIGC_*`.
"""

import dataclasses
import difflib
import functools
import math
import os
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.mos_scale import MosScale

OTHER_VARIABLES = ("CACHE", "RECIPE")  # AIGC_* variables that are not settings
PROJECT_FILE = "aigc.yaml"
LOSS_NAMES = ("mse", "l1", "plcc", "rank")
FORMER_SETTINGS = {  # settings of earlier versions, and what replaces them
    "scale_q": "It is called residual_scale_q now.",
    "scale_c": "It is called residual_scale_c now.",
    "ema": "It was removed because it had no measurable effect; leave it out.",
    "drop_path": "It was removed because it had no measurable effect; use dropout and weight_decay.",
    "freeze_text_depth": "It was removed because it had no measurable effect; freeze_depth applies to both towers.",
    "lr_text": "It was removed because it had no measurable effect; lr_backbone applies to both towers.",
}


@dataclass(frozen=True)
class Setting:
    """The description of a recipe field.

    Attributes:
        group: the heading under which the help lists it.
        help: what it does, in a few words.
        sensible: the usual range; a value outside gives a warning.
        low, high: the allowed range; a value outside is an error. None: no limit.
        choices: the allowed values; empty: any.
        off: whether 0 turns it off.
        main: whether `--help` shows it; `--help-all` shows every setting.
    """

    group: str
    help: str
    sensible: tuple[float, float] | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    off: bool = False
    main: bool = False


def _define(group: str, default: Any, *setting: Any, **more: Any) -> Any:
    return field(default=default, metadata=vars(Setting(group, *setting, **more)))


_model, _freezing, _fit, _loss, _views, _data = (
    functools.partial(_define, group) for group in ("Model", "Freezing", "Optimisation", "Loss", "Views", "Data")
)
_MODES = ("all", "partial", "none")
_INPUTS = ("embedding", "multilevel")


@dataclass(frozen=True)
class Recipe:
    """All settings of one training run.

    None takes the backbone's value or that of another setting; the help text of the setting says which.

    Raises:
        AigcError: settings that contradict each other.
    """

    backbone: str = _model("mini", "mini, midi, ARCHITECTURE/WEIGHTS or local-dir:PATH", main=True)
    start_from: str | None = _model(
        None, "go on from this model: accurate, fast, or a run or model folder (default: from nothing)", main=True
    )
    image_size: int | None = _model(None, "image size in pixels, 32 or more (default: the backbone's)", low=32)
    residual: bool = _model(True, "score = base + bounded correction; off: score = f(features)")
    residual_scale_q: float = _model(
        0.2, "largest correction of quality, as a share of the scale", (0.1, 0.5), low=0, high=1, main=True
    )
    residual_scale_c: float = _model(
        0.2, "largest correction of consistency, as a share of the scale", (0.1, 0.5), low=0, high=1, main=True
    )
    quality_input: str | None = _model(None, "quality head input (default: the backbone's)", choices=_INPUTS)
    consistency_input: str | None = _model(
        None, "consistency head input (default: the backbone's)", choices=(*_INPUTS, "scores")
    )
    levels: str | None = _model(
        None,
        "blocks that multilevel heads read; inner: all, and layers within them (default: the backbone's)",
        choices=("few", "all", "inner"),
    )
    feature_axes: int | None = _model(
        None,
        "principal axes on which the heads read these features; 0: the features (default: the backbone's)",
        (64, 512),
        low=0,
        off=True,
    )
    hidden_q: int = _model(128, "hidden units of the quality head", (64, 512), low=1)
    hidden_c: int = _model(256, "hidden units of the consistency head", (64, 512), low=1)
    dropout: float = _model(0.1, "dropout rate before each head's last layer", (0, 0.3), low=0, high=0.95)
    freeze: str = _freezing("partial", "frozen part of the backbone", choices=_MODES, main=True)
    freeze_depth: float = _freezing(
        0.75, "frozen share of each tower's blocks (with freeze partial)", (0.66, 0.92), low=0, high=1
    )
    freeze_layers: int | None = _freezing(None, "number of frozen image blocks; replaces freeze_depth", low=0)
    freeze_text: str | None = _freezing(None, "frozen part of the text tower (default: same as freeze)", choices=_MODES)
    lr: float = _fit(3e-5, "learning rate before the backbone's own factor", (1e-6, 1e-3), low=0, high=1, main=True)
    lr_backbone: float | None = _fit(None, "learning rate of the backbone (default: lr)", (1e-6, 1e-3), low=0, high=1)
    lr_layer_decay: float = _fit(
        1.0, "learning-rate factor for each block further down a tower", (0.7, 1), low=0.1, high=1
    )
    epochs: int = _fit(20, "passes over the training images", (10, 50), low=1, main=True)
    batch_size: int = _fit(32, "images per training step", (8, 128), low=2)
    weight_decay: float = _fit(1e-4, "weight decay of AdamW", (1e-5, 1e-3), low=0)
    scheduler: str = _fit("cosine", "learning-rate schedule", choices=("cosine", "linear", "step", "constant"))
    warmup_ratio: float | None = _fit(
        None,
        "share of the steps with a rising learning rate (default: the backbone's)",
        (0.01, 0.1),
        low=0,
        high=0.9,
        off=True,
    )
    max_grad_norm: float | None = _fit(None, "gradient clipping (default: the backbone's)", (0.5, 2), low=0, off=True)
    patience: int = _fit(0, "stop after this many epochs without a gain", (3, 10), low=0, off=True)
    min_delta: float = _fit(0.001, "smallest rise of validation SROCC that counts as a gain", low=0)
    checkpoint: str = _fit("last", "epoch to keep (best: highest validation SROCC)", choices=("best", "last"))
    precision: str = _fit(
        "auto", "number format (auto: bf16 on a GPU that supports it)", choices=("auto", "fp32", "bf16")
    )
    seed: int = _fit(0, "random seed of splits, weights and batches", low=0, high=2**32 - 1)
    loss: str | None = _loss(None, "mse, l1, plcc, rank, or a sum such as l1+plcc (default: the backbone's)")
    w_q: float = _loss(0.5, "weight of the quality loss", (0.3, 0.7), low=0, off=True)
    w_c: float = _loss(0.5, "weight of the consistency loss", (0.3, 0.7), low=0, off=True)
    w_contrast: float = _loss(0.0, "weight of the contrastive loss (InfoNCE) on cosines", (0, 0.2), low=0)
    w_mismatch: float = _loss(0.0, "weight of the loss that lowers scores of wrong prompts", (0, 1), low=0)
    views: int = _views(4, "augmented views per image", (1, 16), low=1, high=1000)
    plain_view: bool = _views(False, "use the unchanged image as one of the views")
    crop_scale_min: float = _views(
        0.8, "smallest crop of a view, as a share of the image area", (0.6, 1), low=0.05, high=1
    )
    flip: bool = _views(True, "mirror each view with probability 0.5")
    val_fraction: float = _data(0.2, "share of the images for validation, 0 to 0.9", low=0, high=0.9)
    group_by: str = _data("prompt", "column whose groups stay in one split: prompt, name or another column")
    mos_min: float = _data(0.0, "lowest score of the rating scale", main=True)
    mos_max: float = _data(5.0, "highest score of the rating scale", main=True)

    def __post_init__(self) -> None:
        _ = self.scale  # raises an error for an invalid scale
        if self.freeze_layers is not None and (mode := self.freeze) != "partial":
            raise AigcError(f"Expected freeze: partial with freeze_layers, found {mode}.", "Leave one of them out.")
        if self.w_q + self.w_c <= 0:
            raise AigcError("Expected w_q or w_c above 0, found 0 for both.", "Give one of them a weight.")
        if self.selects_checkpoint and self.val_fraction == 0:
            hint = "Set checkpoint to last and patience to 0."
            raise AigcError("Expected val_fraction above 0 to choose a checkpoint on, found 0.", hint)

    @property
    def scale(self) -> MosScale:
        """The scale of the human scores."""
        return MosScale(self.mos_min, self.mos_max)

    @property
    def freezes_all(self) -> bool:
        """Whether both towers are frozen as a whole."""
        return self.freeze == "all" and self.freeze_text in (None, "all")

    @property
    def learns_taste(self) -> bool:
        """Whether a training only fits a taste to the start model, since no part of the backbone is trained."""
        return self.start_from is not None and self.freezes_all

    @property
    def selects_checkpoint(self) -> bool:
        """Whether validation scores select the checkpoint or stop the training; if not, training ignores them."""
        return self.checkpoint == "best" or self.patience > 0


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Recipe)}


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with warnings for the user.

    `sources` holds for each setting `default`, `recipe NAME`, `aigc.yaml`, `environment` or `flag`.
    """

    recipe: Recipe
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def find_recipe_folder() -> Path:
    """Return the recipe folder: inside the installed package, or beside the package in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in find_recipe_folder().glob("*.yaml"))


def find_recipe(name: str, folder: Path = Path()) -> Path:
    """Return the path of a shipped recipe, or of the file `folder`/`name` (.yaml or .yml); AigcError without one."""
    if name.endswith((".yaml", ".yml")):
        if (path := folder / name).is_file():
            return path
        raise AigcError(f"Expected a recipe file, found none at {path}.", "Check the path.")
    if name not in (known := list_recipes()):
        hint = _suggest(name, known, "A file of your own ends in .yaml.")
        raise AigcError(f"Expected a recipe out of {', '.join(known)}, found '{name}'.", hint)
    return find_recipe_folder() / f"{name}.yaml"


def read_recipe(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read and check the settings of a recipe file and of the recipes that it `extends`.

    The file's own settings win. A relative path in `extends` starts at the folder of the file.

    Raises:
        AigcError: a file is missing or not strict YAML (see `read_yaml`), a setting is unknown or out of range, or a
            recipe extends itself.
    """
    values = _read_recipe_yaml(path)
    base: dict[str, Any] = {}
    if (parent := values.pop("extends", None)) is not None:
        target = find_recipe(str(parent), path.parent)
        if target.resolve() in {p.resolve() for p in (*_seen, path)}:
            raise AigcError(f"Expected a recipe that does not extend itself, found {path}.", "Remove `extends`.")
        base = read_recipe(target, (*_seen, path))
    return base | {key: check_setting(key, value, str(path)) for key, value in values.items()}


def _read_recipe_yaml(path: Path) -> dict[str, Any]:
    from aigc_cli.strict_yaml import read_yaml  # imported here because `import yaml` slows `aigc --help` down

    return read_yaml(path)


def check_setting(key: str, value: Any, source: str) -> Any:
    """Return `value` of the setting `key` in the type of its field.

    Args:
        value: a value from YAML, or text from the environment or the command line.
        source: where the value stands; error messages name it.

    Raises:
        AigcError: unknown key, wrong type, or a value outside the allowed range.
    """
    if key in FORMER_SETTINGS:
        raise AigcError(f"Expected a known setting in {source}, found '{key}'.", FORMER_SETTINGS[key])
    if key not in FIELDS:
        hint = _suggest(key, FIELDS, "See `aigc train --help` for the settings.")
        raise AigcError(f"Expected a known setting in {source}, found '{key}'.", hint)
    (wanted, optional), hint = get_field_type(key), f"The default is {FIELDS[key].default}."
    if value is None:
        if optional:
            return None
        raise AigcError(f"Expected a value for {key} in {source}, found nothing.", hint)
    converted = _convert(value, wanted)
    if converted is None:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[wanted]
        raise AigcError(f"Expected {kind} for {key} in {source}, found '{value}'.", hint)
    _check_range(key, converted, source, hint)
    return converted


def _suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"Did you mean '{near[0]}'?" if near else otherwise


def get_field_type(key: str) -> tuple[type, bool]:
    """Return the type of a field (bool, int, float or str) and whether it may be None."""
    options = typing.get_args(FIELDS[key].type) or (FIELDS[key].type,)
    return next(option for option in options if option is not type(None)), type(None) in options


def _convert(value: Any, wanted: type) -> Any:
    text = isinstance(value, str)
    if wanted is bool:
        return {"true": True, "false": False}.get(value) if text else value if isinstance(value, bool) else None
    if wanted is str:
        return value if text else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if isinstance(value, bool) or not math.isfinite(number) or (text and "_" in value):
        return None
    if wanted is int:
        return int(number) if number.is_integer() else None
    return number


def _check_range(key: str, value: Any, source: str, default: str) -> None:
    if key == "loss" and (unknown := [part for part in value.split("+") if part.strip() not in LOSS_NAMES]):
        known = ", ".join(LOSS_NAMES)
        raise AigcError(f"Expected losses out of {known} in {source}, found '{unknown[0]}'.", "Join several with +.")
    meta = FIELDS[key].metadata
    if meta["choices"] and value not in meta["choices"]:
        hint = _suggest(str(value), meta["choices"], default)
        raise AigcError(f"Expected {key} out of {', '.join(meta['choices'])} in {source}, found '{value}'.", hint)
    low, high = meta["low"], meta["high"]
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
        raise AigcError(f"Expected {key} of {span} in {source}, found {value:g}.", default)


def resolve_recipe(flags: Mapping[str, Any], recipe: str | None = None, folder: Path = Path()) -> ResolvedRecipe:
    """Merge the settings of all sources: command line over AIGC_* variables over aigc.yaml over recipe over defaults.

    Args:
        flags: settings from the command line; None: not given.
        recipe: name or path of a recipe; None takes the one in AIGC_RECIPE or aigc.yaml, else the defaults.
        folder: the folder of aigc.yaml.

    Raises:
        AigcError: see `read_recipe`, `check_setting` and `Recipe`.
    """
    project = folder / PROJECT_FILE
    local = _read_recipe_yaml(project) if project.is_file() else {}
    named = local.pop("recipe", None)
    recipe = recipe or os.environ.get("AIGC_RECIPE") or named
    given = {key: value for key, value in flags.items() if value is not None}
    if "freeze_layers" in given:
        given.setdefault("freeze", "partial")  # freeze_layers needs it, and the recipe may set another mode
    variables = {key: f"AIGC_{key.upper()}" for key in FIELDS}
    layers = {
        f"recipe {recipe}": read_recipe(find_recipe(str(recipe))) if recipe else {},
        PROJECT_FILE: {key: check_setting(key, value, str(project)) for key, value in local.items()},
        "environment": {k: check_setting(k, os.environ[v], v) for k, v in variables.items() if v in os.environ},
        "flag": {k: check_setting(k, v, f"--{k.replace('_', '-')}") for k, v in given.items()},
    }
    values: dict[str, Any] = {}
    sources = dict.fromkeys(FIELDS, "default")
    for source, layer in layers.items():
        values |= layer
        sources |= dict.fromkeys(layer, source)
    result = Recipe(**values)
    return ResolvedRecipe(result, sources, (*_list_unknown_variables(), *_list_warnings(result, sources)))


def _list_unknown_variables() -> list[str]:
    """Return a warning for each AIGC_* variable that resembles a setting; others may belong to other programs."""
    known = [*map(str.upper, FIELDS), *OTHER_VARIABLES]
    names = sorted(name.removeprefix("AIGC_") for name in os.environ if name.startswith("AIGC_"))
    former = {name: FORMER_SETTINGS[name.lower()] for name in names if name.lower() in FORMER_SETTINGS}
    near = {name: difflib.get_close_matches(name, known, 1) for name in names if name not in (*known, *former)}
    return [f"AIGC_{name} has no effect. {hint}" for name, hint in former.items()] + [
        f"AIGC_{name} is not a setting and has no effect. Did you mean AIGC_{to[0]}?" for name, to in near.items() if to
    ]


def _list_warnings(recipe: Recipe, sources: Mapping[str, str]) -> list[str]:
    found, measured = [], list_recipes()  # shipped recipes were measured with their values: no warning
    for key, spec in FIELDS.items():
        span, value = spec.metadata["sensible"], getattr(recipe, key)
        off = (spec.metadata["off"] and value == 0) or sources[key].removeprefix("recipe ") in measured
        if span and value is not None and not off and not span[0] <= value <= span[1]:
            where = f"outside its sensible range {span[0]:g} to {span[1]:g}"
            found.append(f"{key} = {value:g} ({sources[key]}) is {where}.")
    return found


def _format_value(value: Any) -> str:
    """Format a value as one line of YAML, with quotes where strict YAML would read another type."""
    plain = not isinstance(value, str) or re.fullmatch(r"[A-Za-z][\w./:-]*", value, re.ASCII)
    bare = plain and value not in ("null", "true", "false") and not str(value).endswith(":")
    import yaml

    style = None if bare else '"'
    return str(yaml.safe_dump(value, width=10**6, default_style=style, allow_unicode=True).splitlines()[0])


def format_recipe(resolved: ResolvedRecipe, notes: Mapping[str, str] | None = None) -> str:
    """Format a recipe as the text of a recipe file.

    A comment after each value gives its source, and its text in `notes` if there is one.
    """
    text = ""
    for key in FIELDS:
        value = _format_value(getattr(resolved.recipe, key))
        note = f"; {notes[key]}" if notes and key in notes else ""
        text += f"{key}: {value}  # {resolved.sources[key]}{note}\n"
    return text
