"""Recipes: the shipped files, the precedence of the sources, and the strict checks of recipe files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigc_cli.errors import AigcError
from aigc_cli.recipe import (
    FIELDS,
    FORMER_SETTINGS,
    Recipe,
    ResolvedRecipe,
    find_recipe,
    format_recipe,
    list_recipes,
    read_recipe,
    resolve_recipe,
)
from aigc_cli.runtime.hints import PUBLISHED
from aigc_cli.strict_yaml import read_yaml
from aigc_cli.training.rates import complete_recipe

DEFAULTS: dict[str, Any] = (
    {"backbone": "mini", "image_size": None, "residual": True, "residual_scale_q": 0.2, "residual_scale_c": 0.2}
    | {"quality_input": None, "hidden_q": 128, "hidden_c": 256, "dropout": 0.1, "freeze": "partial"}
    | {"freeze_depth": 0.75, "lr": 3e-5, "lr_backbone": None, "epochs": 20, "batch_size": 32}
    | {"weight_decay": 1e-4, "scheduler": "cosine", "warmup_ratio": None, "max_grad_norm": None, "patience": 0}
    | {"min_delta": 0.001, "seed": 0, "loss": None, "w_q": 0.5, "w_c": 0.5, "views": 4, "crop_scale_min": 0.8}
    | {"flip": True, "val_fraction": 0.2, "group_by": "prompt", "mos_min": 0.0, "mos_max": 5.0}
)
SENSIBLE: dict[str, tuple[float, float]] = (
    {"lr": (1e-6, 1e-3), "lr_backbone": (1e-6, 1e-3), "freeze_depth": (0.66, 0.92), "dropout": (0, 0.3)}
    | {
        "residual_scale_q": (0.1, 0.5),
        "residual_scale_c": (0.1, 0.5),
        "w_q": (0.3, 0.7),
        "w_c": (0.3, 0.7),
        "epochs": (10, 50),
    }
    | {"batch_size": (8, 128), "weight_decay": (1e-5, 1e-3), "warmup_ratio": (0.01, 0.1), "patience": (3, 10)}
    | {"max_grad_norm": (0.5, 2), "crop_scale_min": (0.6, 1), "views": (1, 16)}
    | {"hidden_q": (64, 512), "hidden_c": (64, 512)}
)


def _scales(both: float) -> dict[str, float]:
    return {"residual_scale_q": both, "residual_scale_c": both}


_PARTIAL = {"freeze": "partial", "freeze_depth": 0.75, "lr": 3e-5, "epochs": 20, "batch_size": 32}
SHIPPED: dict[str, dict[str, Any]] = {  # the table of the design; the other settings have their defaults
    "small": {"freeze": "all", **_scales(0.1), "lr": 1e-3, "epochs": 30, "batch_size": 16}
    | {"dropout": 0.2, "weight_decay": 5e-4},
    "medium": {**_PARTIAL, **_scales(0.2)},
    "large": {"freeze": "none", **_scales(0.3), "lr": 3e-5, "epochs": 15, "batch_size": 64, "dropout": 0.05},
    "quick": {"freeze": "all", **_scales(0.2), "lr": 1e-3, "epochs": 10, "batch_size": 64},
    "regularised": {**_PARTIAL, **_scales(0.15), "freeze_depth": 20 / 24, "dropout": 0.2}
    | {"weight_decay": 5e-4, "max_grad_norm": 0.5},
    "thorough": {**_PARTIAL, **_scales(0.25), "lr": 2e-5, "epochs": 50, "batch_size": 16}
    | {"w_q": 0.4, "w_c": 0.6, "warmup_ratio": 0.1},
    "quality-first": {**_PARTIAL, "residual_scale_q": 0.3, "residual_scale_c": 0.15, "w_q": 0.7, "w_c": 0.3},
    "consistency-first": {**_PARTIAL, "residual_scale_q": 0.15, "residual_scale_c": 0.3, "w_q": 0.3, "w_c": 0.7},
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a recipe file and gives its path."""

    def write_file(content: str | bytes, name: str = "r.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def check(call: Callable[[], object], message: str, hint: str) -> None:
    with pytest.raises(AigcError) as caught:
        call()
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (message, hint, 2)


# --- what there is


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_every_parameter_of_the_design_has_its_default(name: str, default: Any) -> None:
    assert getattr(Recipe(), name) == default
    assert type(getattr(Recipe(), name)) is type(default)
    assert FIELDS[name].metadata["sensible"] == SENSIBLE.get(name)


def test_backbones_that_want_nothing_else_get_the_published_loss_and_inputs() -> None:
    assert complete_recipe(Recipe(backbone="ViT-L-14/openai")) == Recipe(backbone="ViT-L-14/openai", **PUBLISHED)
    assert (PUBLISHED["loss"], PUBLISHED["warmup_ratio"], PUBLISHED["max_grad_norm"]) == ("mse", 0.05, 1.0)
    assert complete_recipe(Recipe(loss="rank")).loss == "rank"  # of the recipe, not of `mini`


def test_the_shipped_recipes_are_those_of_the_design_and_scorer_and_clip() -> None:
    assert list_recipes() == sorted([*SHIPPED, "scorer", "clip"])


def test_only_recipes_of_the_user_get_warnings_about_sensible_ranges(write: Write) -> None:
    assert resolve_recipe({}, "scorer").warnings == ()
    found = resolve_recipe({}, str(write("extends: scorer\nepochs: 6\n")))
    assert [warning.split()[0] for warning in found.warnings] == ["epochs"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_as_the_design_says(name: str) -> None:
    resolved = resolve_recipe({}, name)
    expected = DEFAULTS | SHIPPED[name]
    for key in expected:
        found = getattr(resolved.recipe, key)
        assert found == (pytest.approx(expected[key], abs=1e-4) if key == "freeze_depth" else expected[key]), key
    assert resolved.warnings == ()


# --- which source wins


def test_precedence_and_sources(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write("lr: 1e-4\nepochs: 11\nbatch_size: 9\nviews: 2\n", "own.yaml")
    write("epochs: 12\nbatch_size: 10\nviews: 3\n", "aigc.yaml")
    monkeypatch.setenv("AIGC_BATCH_SIZE", "11")
    monkeypatch.setenv("AIGC_VIEWS", "5")
    found = resolve_recipe({"views": "6", "seed": None}, str(own))
    recipe, sources = found.recipe, found.sources
    assert (recipe.lr, recipe.epochs, recipe.batch_size, recipe.views, recipe.dropout) == (1e-4, 12, 11, 6, 0.1)
    named = [sources[key] for key in ("lr", "epochs", "batch_size", "views", "dropout", "seed")]
    assert named == [f"recipe {own}", "aigc.yaml", "environment", "flag", "default", "default"]


def test_the_recipe_itself_has_the_same_precedence(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("recipe: quick\n", "aigc.yaml")
    assert resolve_recipe({}).sources["epochs"] == "recipe quick"
    monkeypatch.setenv("AIGC_RECIPE", "small")
    assert resolve_recipe({}).sources["epochs"] == "recipe small"
    assert resolve_recipe({}, "large").sources["epochs"] == "recipe large"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [("flip", "false", False), ("epochs", "12", 12), ("lr", "2e-5", 2e-5), ("lr_backbone", "1e-6", 1e-6)],
)
def test_the_environment_is_text_and_is_converted(
    key: str, text: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AIGC_{key.upper()}", text)
    found = getattr(resolve_recipe({}).recipe, key)
    assert (found, type(found)) == (value, type(value))


def test_every_source_names_itself_in_an_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    hint = "The default is 20."
    path = write("epochs: many\n")
    kind = "Expected a whole number for epochs in {}, found '{}'."
    check(lambda: resolve_recipe({}, str(path)), kind.format(path, "many"), hint)
    check(lambda: resolve_recipe({"epochs": "2.5"}), kind.format("--epochs", "2.5"), hint)
    write("epochs: 1.5\n", "aigc.yaml")
    check(lambda: resolve_recipe({}), kind.format("aigc.yaml", "1.5"), hint)
    write("epochs: 15\n", "aigc.yaml")
    monkeypatch.setenv("AIGC_EPOCHS", "")
    check(lambda: resolve_recipe({}), kind.format("AIGC_EPOCHS", ""), hint)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("AIGC_EPOCH", "EPOCHS"), ("AIGC_RESIDUAL-SCALE-Q", "RESIDUAL_SCALE_Q"), ("AIGC_CACHE_DIR", "CACHE")],
)
def test_a_variable_that_resembles_a_setting_gets_a_warning(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "3")
    assert resolve_recipe({}).warnings == (f"{name} is not a setting and has no effect. Did you mean AIGC_{meant}?",)


REMOVED = "It was removed because it had no measurable effect; "
FORMER = {
    "scale_q": "It is called residual_scale_q now.",
    "scale_c": "It is called residual_scale_c now.",
    "ema": REMOVED + "leave it out.",
    "drop_path": REMOVED + "use dropout and weight_decay.",
    "freeze_text_depth": REMOVED + "freeze_depth applies to both towers.",
    "lr_text": REMOVED + "lr_backbone applies to both towers.",
}


@pytest.mark.parametrize(("key", "hint"), FORMER.items())
def test_a_setting_of_an_earlier_version_names_its_replacement(
    key: str, hint: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(f"{key}: 0.1\n")
    unknown = "Expected a known setting in {}, found '{}'."
    check(lambda: read_recipe(path), unknown.format(path, key), hint)
    check(lambda: resolve_recipe({key: "0.1"}), unknown.format(f"--{key.replace('_', '-')}", key), hint)
    write(f"{key}: 0.1\n", "aigc.yaml")
    check(lambda: resolve_recipe({}), unknown.format("aigc.yaml", key), hint)
    write("{}\n", "aigc.yaml")
    monkeypatch.setenv(f"AIGC_{key.upper()}", "0.1")
    assert resolve_recipe({}).warnings == (f"AIGC_{key.upper()} has no effect. {hint}",)


def test_every_former_setting_is_tested_and_gone() -> None:
    assert FORMER_SETTINGS == FORMER
    assert not FORMER_SETTINGS.keys() & FIELDS.keys()


def test_frozen_layers_need_a_partly_frozen_backbone(write: Write) -> None:
    assert resolve_recipe({"freeze_layers": "3"}, "small").recipe.freeze == "partial"  # the flag wins over the recipe
    message = "Expected freeze: partial with freeze_layers, found all."
    check(lambda: Recipe(freeze="all", freeze_layers=3), message, "Leave one of them out.")


def test_other_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIGC_CACHE", "AIGC_TOKEN_OF_ANOTHER_TOOL", "AIGCEPOCH", "EPOCH"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AIGC_RECIPE", "quick")
    assert resolve_recipe({}).warnings == ()


@pytest.mark.parametrize(("key", "hint"), [("epoch", "Did you mean 'epochs'?"), ("extends", None)])
def test_the_project_file_is_as_strict_as_a_recipe(key: str, hint: str | None, write: Write) -> None:
    write(f"{key}: 3\n", "aigc.yaml")
    with pytest.raises(AigcError) as caught:
        resolve_recipe({})
    assert caught.value.message == f"Expected a known setting in aigc.yaml, found '{key}'."
    assert hint is None or caught.value.hint == hint


# --- extends


def test_a_chain_of_recipes(write: Write) -> None:
    base = write("lr: 1e-4\nepochs: 11\nviews: 2\n", "base.yaml")
    middle = write(f"extends: {base}\nepochs: 12\nviews: 3\n", "middle.yaml")
    top = write(f"extends: {middle}\nviews: 5\n", "top.yaml")
    assert read_recipe(top) == {"lr": 1e-4, "epochs": 12, "views": 5}
    assert read_recipe(write("extends: quick\nlr: 2e-4\n")) == read_recipe(find_recipe("quick")) | {"lr": 2e-4}


def test_a_parent_is_found_from_the_folder_of_its_child(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write("epochs: 13\n", "base.yaml")
    write("epochs: 14\n", "sub/base.yaml")
    assert read_recipe(write("extends: base.yaml\n", "sub/near.yaml"))["epochs"] == 14
    assert read_recipe(write("extends: ../base.yaml\n", "sub/above.yaml"))["epochs"] == 13
    assert resolve_recipe({}, "sub/near.yaml").recipe.epochs == 14
    path = write("extends: away.yaml\n", "sub/lost.yaml")
    missing = f"Expected a recipe file, found none at {tmp_path / 'sub' / 'away.yaml'}."
    check(lambda: read_recipe(path), missing, "Check the path.")


def test_a_circle_of_recipes_is_refused(write: Write, tmp_path: Path) -> None:
    one = write(f"extends: {tmp_path / 'two.yaml'}\n", "one.yaml")
    two = write(f"extends: {one}\n", "two.yaml")
    alone = write(f"extends: {tmp_path / 'alone.yaml'}\n", "alone.yaml")
    ends = "Expected a recipe that does not extend itself, found {}."
    check(lambda: read_recipe(one), ends.format(two), "Remove `extends`.")
    check(lambda: read_recipe(alone), ends.format(alone), "Remove `extends`.")


def test_a_parent_that_is_not_there(write: Write, tmp_path: Path) -> None:
    path = write(f"extends: {tmp_path / 'no.yaml'}\n")
    missing = f"Expected a recipe file, found none at {tmp_path / 'no.yaml'}."
    check(lambda: read_recipe(path), missing, "Check the path.")
    known = "clip, consistency-first, large, medium, quality-first, quick, regularised, scorer, small, thorough"
    check(
        lambda: resolve_recipe({}, "regularized"),
        f"Expected a recipe out of {known}, found 'regularized'.",
        "Did you mean 'regularised'?",
    )
    no_such = f"Expected a recipe out of {known}, found '5'."
    check(lambda: read_recipe(write("extends: 5\n")), no_such, "A file of your own ends in .yaml.")


# --- what a file may hold


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr: 1e-4", 1e-4),
        ("lr: 1E-4", 1e-4),
        ("lr: .5e-3", 5e-4),
        ("lr: 0.0001  # a comment", 1e-4),
        ("epochs: 1e1", 10),
        ("epochs: '12'", 12),
        ("lr_backbone: null", None),
        ("lr_backbone: ~", None),
        ("group_by: no", "no"),
        ("group_by: 'null'", "null"),
        ("flip: false", False),
        ("\ufefflr: 1e-4", 1e-4),
    ],
)
def test_values_that_are_read(text: str, value: Any, write: Write) -> None:
    (found,) = read_recipe(write(text)).values()
    assert (found, type(found)) == (value, type(value))


WORDS = (
    *("true", "false", "null", "1", "01", "0", "1e-4", "1.", ".5", "1.5e3", "5_0", "-1", "0x1f", "1:2", "2024-01-01"),
    *("a", "a.b", "l1+plcc", "no", "a#b", "a: b", "'x'", "~", "+", "inf", ".inf", ""),
)
LINES = st.one_of(
    st.builds(
        "{}: {}{}".format,
        st.sampled_from(["lr", "a_b", "x1", "yes", "true", "null", "1"]),
        st.sampled_from(WORDS),
        st.sampled_from(["", " # c", "  #c", " ", "\t", "#c"]),
    ),
    st.sampled_from(["", "# c", "#", " # c", "---", "...", "a:", "a : 1", " a: 1", "- a", "a: 1\r", "\x07"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(lines=st.lists(LINES, min_size=1, max_size=3))
def test_a_simple_file_means_what_it_means_to_pyyaml(lines: list[str], write: Write) -> None:
    """PyYAML reads whatever has a character beyond ASCII."""

    def read(text: str) -> list[tuple[str, Any, type]] | None:
        try:
            return [(key, value, type(value)) for key, value in read_yaml(write(text)).items()]
        except AigcError:
            return None

    text = "\n".join(lines)
    assert read(text) == read(f"{text}\n# é")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lr: 1\nlr: 2", "line 2, found the key 'lr' twice"),
        ("a: {b: 1, b: 2}", "line 1, found the key 'b' twice"),
        ("5: 1", "line 1, found the key 5, which is no word"),
        ("? [a]\n: 1", "line 1, found the key ['a'], which is no word"),
        ("? {a: 1}\n: 1", "line 1, found the key {'a': 1}, which is no word"),
        ("lr: !!float 1", "line 1, found the tag tag:yaml.org,2002:float"),
        ("lr: !!python/name:os.system", "line 1, found the tag tag:yaml.org,2002:python/name:os.system"),
        (
            "epochs: 3\nlr: !!python/object/apply:os.system [true]",
            "line 2, found the tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("lr: !!python/dict {a: 1}", "line 1, found the tag tag:yaml.org,2002:python/dict"),
        ("lr: &x 1\nepochs: *x", "line 2, found an alias; write the value out"),
        ("a: " + "[" * 20 + "]" * 20, "line 1, found more than 20 levels"),
        ("lr: [1", "line 1, found expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_what_is_not_plain_yaml(text: str, found: str, write: Write) -> None:
    path = write(text)
    check(lambda: read_recipe(path), f"Expected plain YAML in {path}, {found}.", "Write `key: value` lines.")


@pytest.mark.parametrize(("text", "kind"), [("- a", "list"), ("lr", "str"), ("", "NoneType"), ("# x", "NoneType")])
def test_what_is_no_mapping(text: str, kind: str, write: Write) -> None:
    path = write(text)
    check(
        lambda: read_recipe(path), f"Expected `key: value` lines in {path}, found {kind}.", "See recipes/medium.yaml."
    )


def test_twenty_levels_are_not_too_many(write: Write) -> None:
    path = write("a: " + "[" * 19 + "]" * 19)
    unknown = f"Expected a known setting in {path}, found 'a'."
    check(lambda: read_recipe(path), unknown, "See `aigc train --help` for the settings.")


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    big = write("#" * (2**20 + 1))
    too_big = f"Expected at most 1 MiB in {big}, found 1,048,577 bytes."
    check(lambda: read_yaml(big), too_big, "Check that this is a recipe file.")
    missing = f"Expected a recipe file at {tmp_path / 'no.yaml'}: No such file or directory."
    check(lambda: read_yaml(tmp_path / "no.yaml"), missing, "Check the path.")
    folder = f"Expected a recipe file at {tmp_path}: it is a folder, pipe, socket or device."
    check(lambda: read_yaml(tmp_path), folder, "Check the path.")
    with pytest.raises(AigcError, match="codec can't decode byte 0xff in position 4"):
        read_yaml(write(b"lr: \xff"))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("epoch: 1", "Expected a known setting in {}, found 'epoch'.", "Did you mean 'epochs'?"),
        ("zzz: 1", "Expected a known setting in {}, found 'zzz'.", "See `aigc train --help` for the settings."),
        ("flip: no", "Expected true or false for flip in {}, found 'no'.", "The default is True."),
        ("flip: 1", "Expected true or false for flip in {}, found '1'.", "The default is True."),
        ("epochs: true", "Expected a whole number for epochs in {}, found 'True'.", "The default is 20."),
        ("lr: [1]", "Expected a number for lr in {}, found '[1]'.", "The default is 3e-05."),
        ("lr: .nan", "Expected a number for lr in {}, found '.nan'.", "The default is 3e-05."),
        ("lr: 1e999", "Expected a number for lr in {}, found 'inf'.", "The default is 3e-05."),
        ("lr: 1_0", "Expected a number for lr in {}, found '1_0'.", "The default is 3e-05."),
        ("lr:", "Expected a value for lr in {}, found nothing.", "The default is 3e-05."),
        ("backbone: 5", "Expected a word for backbone in {}, found '5'.", "The default is mini."),
        ("lr: 2", "Expected lr of 0 to 1 in {}, found 2.", "The default is 3e-05."),
        ("epochs: 0", "Expected epochs of 1 or more in {}, found 0.", "The default is 20."),
        ("views: 1001", "Expected views of 1 to 1000 in {}, found 1001.", "The default is 4."),
        ("seed: -1", None, "The default is 0."),
        ("freeze: part", "Expected freeze out of all, partial, none in {}, found 'part'.", "Did you mean 'partial'?"),
        (
            "scheduler: xyz",
            "Expected scheduler out of cosine, linear, step, constant in {}, found 'xyz'.",
            "The default is cosine.",
        ),
    ],
)
def test_settings_that_are_refused(text: str, message: str | None, hint: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(AigcError) as caught:
        read_recipe(path)
    key = text.partition(":")[0]
    assert caught.value.message == message.format(path) if message else f" {key} " in caught.value.message
    assert caught.value.hint == hint


@pytest.mark.parametrize("text", ["epochs: 1" + "0" * 400, "lr: 1" + "0" * 400, "epochs: " + "9" * 5000, "seed: 1e300"])
def test_numbers_beyond_any_type_are_refused(text: str, write: Write) -> None:
    with pytest.raises(AigcError, match=r"r\.yaml"):
        read_recipe(write(text))


def test_settings_that_do_not_go_together() -> None:
    check(
        lambda: resolve_recipe({"mos_min": "5", "mos_max": "1"}),
        "Expected scores of at most a million with mos_min < mos_max, found 5 and 1.",
        "Give the ends of the rating scale as --mos-min and --mos-max.",
    )
    check(
        lambda: resolve_recipe({"w_q": "0", "w_c": "0"}),
        "Expected w_q or w_c above 0, found 0 for both.",
        "Give one of them a weight.",
    )
    nothing = "Expected val_fraction above 0 to choose a checkpoint on, found 0."
    for selects_checkpoint in ({"patience": "3", "checkpoint": "last"}, {"checkpoint": "best"}):
        hint = "Set checkpoint to last and patience to 0."
        check(lambda given=selects_checkpoint: resolve_recipe(given | {"val_fraction": "0"}), nothing, hint)
    assert resolve_recipe({"val_fraction": "0", "checkpoint": "last"}).recipe.val_fraction == 0


def test_warnings_name_the_source() -> None:
    found = resolve_recipe({"lr": "0.01", "max_grad_norm": "0", "patience": "0", "epochs": "50"}, "quick")
    assert found.warnings == ("lr = 0.01 (flag) is outside its sensible range 1e-06 to 0.001.",)
    assert resolve_recipe({"patience": "2"}).warnings == ("patience = 2 (flag) is outside its sensible range 3 to 10.",)


# --- the resolved recipe as a file


@pytest.mark.parametrize("name", SHIPPED)
def test_the_written_recipe_runs_again(name: str, write: Write) -> None:
    first = resolve_recipe({"seed": "7", "group_by": "no", "lr_backbone": "1e-6"}, name)
    text = format_recipe(first, {"lr": "a note"})
    again = resolve_recipe({}, str(write(text)))
    assert again.recipe == first.recipe
    assert "seed: 7  # flag\n" in text
    assert f"epochs: {first.recipe.epochs}  # recipe {name}\n" in text
    assert next(line for line in text.splitlines() if line.startswith("lr: ")).endswith("; a note")


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=120) | st.sampled_from(
    ["1e3", "null", "~", "true", "12", "a # b", "a: b", "- a", "x y " * 40, "two\nlines", "'", '"', "\\", "=", "<<"]
)


@given(word=WORDS)
@settings(FUZZ, max_examples=60)
def test_any_word_survives_being_written(word: str, tmp_path: Path) -> None:
    recipe = dataclasses.replace(Recipe(), group_by=word, backbone=f"local-dir:{word}")
    path = tmp_path / "again.yaml"
    path.write_text(format_recipe(ResolvedRecipe(recipe, dict.fromkeys(FIELDS, "flag"), ())), encoding="utf-8")
    assert Recipe(**read_recipe(path)) == recipe


# --- no content gives a traceback

KEYS = st.sampled_from(["lr", "epochs", "extends", "flip", "? [a]", "{a: b}", "<<", "''", "!x a", "5", "no"])
SCALARS = ["1e-4", "no", "quick", "'", "|", "*a", "&a 1", "é", "9" * 400, "\t", "---", "", ".inf", "0x1", "!!null ''"]
TAGS = st.sampled_from(["", "", "!!map ", "!!python/dict ", "! ", "&a "])
NODES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.builds("{}[{}, {}]".format, TAGS, inner, inner) | st.builds("{}{{{}: {}}}".format, TAGS, inner, inner)
    ),
    max_leaves=4,
)
YAML = st.lists(st.builds("{}: {}".format, KEYS, NODES), max_size=4).map("\n".join)


@pytest.mark.slow
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore")))
@settings(FUZZ, max_examples=150)
def test_random_bytes_are_settings_or_an_error(data: bytes, tmp_path: Path) -> None:
    _settings_or_error(tmp_path / "random.yaml", data)


@pytest.mark.slow
@given(text=YAML)
@settings(FUZZ, max_examples=300)
def test_random_yaml_is_settings_or_an_error(text: str, tmp_path: Path) -> None:
    _settings_or_error(tmp_path / "random.yaml", text.encode())


def _settings_or_error(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for read in (read_yaml, read_recipe):
        try:
            assert isinstance(read(path), dict)
        except AigcError as error:
            assert error.message
