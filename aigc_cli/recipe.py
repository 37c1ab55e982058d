"""Recipes: every setting of a training run, its sensible range, and where its value came from.

A field added here is at once a key of the recipe files, an option of `aigc train` and an `AIGC_*` variable.
"""

import dataclasses
import difflib
import math
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError

VARIABLES_BESIDE = ("CACHE", "RECIPE")  # AIGC_* variables that are no setting
PROJECT_FILE = "aigc.yaml"
LOSS_NAMES = ("mse", "l1", "plcc", "rank")


def _setting(
    default: Any,
    group: str,
    help: str,
    *,
    sensible: tuple[float, float] | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A recipe field; outside `sensible` it warns, outside [low, high] or `choices` it is an error."""
    meta = {"group": group, "help": help, "sensible": sensible, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class Recipe:
    """All settings of one training run, resolved; None leaves a choice to the backbone or to another field."""

    backbone: str = _setting("mini", "Model", "mini, ARCHITECTURE/WEIGHTS or local-dir:PATH")
    image_size: int | None = _setting(None, "Model", "pixels of the square input; default: the backbone's", low=32)
    residual: bool = _setting(True, "Model", "base + bounded correction; off: score = f(features)")
    scale_q: float = _setting(0.2, "Model", "largest correction of quality", sensible=(0.1, 0.5), low=0, high=1)
    scale_c: float = _setting(0.2, "Model", "largest correction of consistency", sensible=(0.1, 0.5), low=0, high=1)
    quality_input: str | None = _setting(
        None, "Model", "what the quality head reads; default: the backbone's", choices=("embedding", "multilevel")
    )
    consistency_input: str | None = _setting(
        None, "Model", "what the consistency head reads; default: the backbone's", choices=("embedding", "multilevel")
    )
    hidden_q: int = _setting(128, "Model", "width of the quality head", sensible=(64, 512), low=1)
    hidden_c: int = _setting(256, "Model", "width of the consistency head", sensible=(64, 512), low=1)
    dropout: float = _setting(0.1, "Model", "before each head's last layer", sensible=(0, 0.3), low=0, high=0.95)
    drop_path: float = _setting(
        0.0, "Model", "chance to skip the last block in training, less below", sensible=(0, 0.3), low=0, high=0.9
    )
    freeze: str = _setting("partial", "Freezing", "how much stays frozen", choices=("all", "partial", "none"))
    freeze_depth: float = _setting(
        0.75, "Freezing", "frozen share of each tower's blocks", sensible=(0.66, 0.92), low=0, high=1
    )
    freeze_text: str | None = _setting(
        None, "Freezing", "the same for the text tower; default: as freeze", choices=("all", "partial", "none")
    )
    freeze_text_depth: float | None = _setting(
        None, "Freezing", "the same for the text tower; 1 trains its projection; default: freeze_depth", low=0, high=1
    )
    lr: float = _setting(
        3e-5, "Optimisation", "learning rate; a backbone may multiply it", sensible=(1e-6, 1e-3), low=0, high=1
    )
    lr_backbone: float | None = _setting(
        None, "Optimisation", "learning rate of the backbone; default: lr", sensible=(1e-6, 1e-3), low=0, high=1
    )
    lr_text: float | None = _setting(
        None,
        "Optimisation",
        "learning rate of the text tower; default: lr_backbone",
        sensible=(1e-6, 1e-3),
        low=0,
        high=1,
    )
    lr_layer_decay: float = _setting(
        1.0,
        "Optimisation",
        "factor on a tower's rate for each block down",
        sensible=(0.7, 1),
        low=0.1,
        high=1,
    )
    epochs: int = _setting(20, "Optimisation", "passes over the images", sensible=(10, 50), low=1)
    batch_size: int = _setting(32, "Optimisation", "images per step", sensible=(8, 128), low=2)
    weight_decay: float = _setting(1e-4, "Optimisation", "AdamW's decay", sensible=(1e-5, 1e-3), low=0)
    scheduler: str = _setting(
        "cosine", "Optimisation", "course of the learning rate", choices=("cosine", "linear", "step", "constant")
    )
    warmup_ratio: float = _setting(
        0.05, "Optimisation", "share of the steps that warm up", sensible=(0.01, 0.1), low=0, high=0.9
    )
    max_grad_norm: float = _setting(1.0, "Optimisation", "gradient clipping; 0: off", sensible=(0.5, 2), low=0)
    ema: float = _setting(
        0.0,
        "Optimisation",
        "decay of the weights' moving average, which is kept; 0: off",
        sensible=(0.9, 0.999),
        low=0,
        high=0.9999,
    )
    patience: int = _setting(
        0, "Optimisation", "stop after so many epochs without gain; 0: off", sensible=(3, 10), low=0
    )
    min_delta: float = _setting(0.001, "Optimisation", "what counts as a gain", low=0)
    checkpoint: str = _setting(
        "last", "Optimisation", "which epoch is kept; best: of validation", choices=("best", "last")
    )
    precision: str = _setting(
        "auto", "Optimisation", "of what is trained; auto: bf16 on a GPU that has it", choices=("auto", "fp32", "bf16")
    )
    seed: int = _setting(0, "Optimisation", "of splits, initialisation and order", low=0, high=2**32 - 1)
    loss: str = _setting("mse", "Loss", "mse, l1, plcc, rank, or a sum such as l1+plcc")
    w_q: float = _setting(0.5, "Loss", "weight of quality", sensible=(0.3, 0.7), low=0)
    w_c: float = _setting(0.5, "Loss", "weight of consistency", sensible=(0.3, 0.7), low=0)
    w_contrast: float = _setting(
        0.0, "Loss", "weight of telling prompts apart by the cosine (InfoNCE)", sensible=(0, 0.2), low=0
    )
    w_mismatch: float = _setting(
        0.0, "Loss", "weight of scoring an image lower with another's prompt", sensible=(0, 1), low=0
    )
    views: int = _setting(4, "Views", "augmented views of each image", sensible=(1, 16), low=1, high=1000)
    plain_view: bool = _setting(False, "Views", "one of the views is the image itself, at hand anyway")
    crop_scale_min: float = _setting(
        0.8, "Views", "smallest share of the area that a view keeps", sensible=(0.6, 1), low=0.05, high=1
    )
    flip: bool = _setting(True, "Views", "mirror half of the views")
    val_fraction: float = _setting(0.2, "Data", "share held out for validation", low=0, high=0.9)
    group_by: str = _setting("prompt", "Data", "what never spans two parts: prompt, name, or a column of the table")
    mos_min: float = _setting(0.0, "Data", "lowest score that people could give")
    mos_max: float = _setting(5.0, "Data", "highest score that people could give")

    def __post_init__(self) -> None:
        if not self.mos_min < self.mos_max:
            raise AigcError(f"Expected mos_min < mos_max, found {self.mos_min:g} and {self.mos_max:g}.", "Swap them.")
        if self.w_q + self.w_c <= 0:
            raise AigcError("Expected w_q or w_c above 0, found 0 for both.", "Give one of them a weight.")
        if self.chooses and self.val_fraction == 0:
            raise AigcError(
                "Expected val_fraction above 0 to choose a checkpoint on, found 0.",
                "Set checkpoint to last and patience to 0.",
            )

    @property
    def chooses(self) -> bool:
        """Whether the validation part chooses the epoch that is kept; otherwise it stays untouched by training."""
        return self.checkpoint == "best" or self.patience > 0


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Recipe)}


@dataclass(frozen=True)
class Resolved:
    """A recipe with the source of every value and what is worth a warning."""

    recipe: Recipe
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def recipe_folder() -> Path:
    """The one copy of the recipes: beside the package in a checkout, inside it once installed."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """The recipes that ship with the package, by name."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find_recipe(name: str, folder: Path = Path()) -> Path:
    """The file of a recipe given by name or by path from `folder`; AigcError names the nearest one."""
    if name.endswith((".yaml", ".yml")):
        if (path := folder / name).is_file():
            return path
        raise AigcError(f"Expected a recipe file, found none at {path}.", "Check the path.")
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), 1)
        hint = f"Did you mean '{near[0]}'?" if near else "A file of your own ends in .yaml."
        raise AigcError(f"Expected a recipe out of {', '.join(recipe_names())}, found '{name}'.", hint)
    return recipe_folder() / f"{name}.yaml"


def read_recipe(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a recipe file, checked, with those of the recipe that it `extends` beneath them.

    A path after `extends` starts from the folder of the file that holds it.
    """
    values = _yaml(path)
    base: dict[str, Any] = {}
    if (parent := values.pop("extends", None)) is not None:
        target = find_recipe(str(parent), path.parent)
        if target.resolve() in {p.resolve() for p in (*_seen, path)}:
            raise AigcError(f"Expected recipes that end somewhere, found {path} extending itself.", "Remove `extends`.")
        base = read_recipe(target, (*_seen, path))
    return base | {key: checked(key, value, str(path)) for key, value in values.items()}


def _yaml(path: Path) -> dict[str, Any]:
    from aigc_cli.strict_yaml import read_yaml  # a fifth of the time that `aigc --help` would take

    return read_yaml(path)


def checked(key: str, value: Any, source: str) -> Any:
    """`value` in the type of the field `key`, from a recipe file or from text; AigcError names source and key."""
    if key not in FIELDS:
        near = difflib.get_close_matches(key, FIELDS, 1)
        hint = f"Did you mean '{near[0]}'?" if near else "See `aigc train --help` for the settings."
        raise AigcError(f"Expected a known setting in {source}, found '{key}'.", hint)
    spec, (wanted, optional) = FIELDS[key], field_type(key)
    if value is None:
        if optional:
            return None
        raise AigcError(f"Expected a value for {key} in {source}, found nothing.", f"Its default is {spec.default}.")
    converted = _convert(value, wanted)
    if converted is None:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[wanted]
        raise AigcError(f"Expected {kind} for {key} in {source}, found '{value}'.", f"Its default is {spec.default}.")
    _check_range(key, converted, source)
    return converted


def field_type(key: str) -> tuple[type, bool]:
    """The plain type of a field and whether it may be None."""
    options = typing.get_args(FIELDS[key].type) or (FIELDS[key].type,)
    return next(option for option in options if option is not type(None)), type(None) in options


def _convert(value: Any, wanted: type) -> Any:
    text = isinstance(value, str)
    if wanted is bool:
        return {"true": True, "false": False}.get(value) if text else value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if wanted is str:
        return value if text else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (text and "_" in value):
        return None
    if wanted is int:
        return int(number) if number == int(number) else None
    return number


def _check_range(key: str, value: Any, source: str) -> None:
    unknown = [part for part in value.split("+") if part.strip() not in LOSS_NAMES] if key == "loss" else []
    if unknown:
        known = ", ".join(LOSS_NAMES)
        raise AigcError(f"Expected losses out of {known} in {source}, found '{unknown[0]}'.", "Join several with +.")
    meta = FIELDS[key].metadata
    if meta["choices"] and value not in meta["choices"]:
        near = difflib.get_close_matches(str(value), meta["choices"], 1)
        hint = f"Did you mean '{near[0]}'?" if near else f"The default is {FIELDS[key].default}."
        raise AigcError(f"Expected {key} out of {', '.join(meta['choices'])} in {source}, found '{value}'.", hint)
    low, high = meta["low"], meta["high"]
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
        raise AigcError(
            f"Expected {key} of {span} in {source}, found {value:g}.", f"The default is {FIELDS[key].default}."
        )


def resolve(flags: Mapping[str, Any], recipe: str | None = None, folder: Path = Path()) -> Resolved:
    """One recipe from all sources: flag > AIGC_* > aigc.yaml in `folder` > recipe > default.

    Args:
        flags: settings given on the command line; None means not given.
        recipe: name or path of a recipe; None for what AIGC_RECIPE or aigc.yaml names, else the defaults.
    """
    project = folder / PROJECT_FILE
    local = _yaml(project) if project.is_file() else {}
    recipe = recipe or os.environ.get("AIGC_RECIPE") or local.pop("recipe", None)
    local.pop("recipe", None)
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if recipe:
        layers.append((f"recipe {recipe}", read_recipe(find_recipe(str(recipe)))))
    layers.append((PROJECT_FILE, {key: checked(key, value, str(project)) for key, value in local.items()}))
    environment = {key: os.environ[name] for key in FIELDS if (name := f"AIGC_{key.upper()}") in os.environ}
    layers.append(("environment", {k: checked(k, v, f"AIGC_{k.upper()}") for k, v in environment.items()}))
    given = {key: value for key, value in flags.items() if value is not None}
    layers.append(("flag", {k: checked(k, v, f"--{k.replace('_', '-')}") for k, v in given.items()}))
    values: dict[str, Any] = {}
    sources = dict.fromkeys(FIELDS, "default")
    for source, layer in layers:
        values |= layer
        sources |= dict.fromkeys(layer, source)
    result = Recipe(**values)
    return Resolved(result, sources, (*_unknown_variables(), *_warnings(result, sources)))


def _unknown_variables() -> list[str]:
    """A warning for each AIGC_* variable that is none of ours but nearly one; others may belong to another program."""
    known = [*map(str.upper, FIELDS), *VARIABLES_BESIDE]
    names = sorted(name.removeprefix("AIGC_") for name in os.environ if name.startswith("AIGC_"))
    near = {name: difflib.get_close_matches(name, known, 1) for name in names if name not in known}
    return [
        f"AIGC_{name} is no setting and does nothing; did you mean AIGC_{to[0]}?" for name, to in near.items() if to
    ]


def _warnings(recipe: Recipe, sources: Mapping[str, str]) -> list[str]:
    found, measured = [], recipe_names()  # a recipe that ships was measured with what it says
    for key, spec in FIELDS.items():
        span, value = spec.metadata["sensible"], getattr(recipe, key)
        off = key in ("patience", "max_grad_norm", "ema", "w_q", "w_c") and value == 0
        off = off or sources[key].removeprefix("recipe ") in measured
        if span and value is not None and not off and not span[0] <= value <= span[1]:
            found.append(
                f"{key} = {value:g} ({sources[key]}) is outside its sensible range {span[0]:g} to {span[1]:g}."
            )
    return found


def _written(value: Any) -> str:
    """A value as one line of YAML; a word that could be read as something else stands in quotes."""
    plain = not isinstance(value, str) or re.fullmatch(r"[A-Za-z][\w./:-]*", value, re.ASCII)
    bare = plain and value not in ("null", "true", "false") and not str(value).endswith(":")
    import yaml

    style = None if bare else '"'
    return str(yaml.safe_dump(value, width=10**6, default_style=style, allow_unicode=True).splitlines()[0])


def to_yaml(resolved: Resolved, notes: Mapping[str, str] | None = None) -> str:
    """The resolved recipe as a file that runs again, each value with its source as a comment."""
    lines = []
    for key in FIELDS:
        value = _written(getattr(resolved.recipe, key))
        note = f"; {notes[key]}" if notes and key in notes else ""
        lines.append(f"{key}: {value}  # {resolved.sources[key]}{note}")
    return "\n".join(lines) + "\n"
