"""The JSON Schema of recipes is current and accepts the same values as the strict recipe reader."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from aigc_cli.errors import AigcError
from aigc_cli.recipe import FIELDS, LOSS_NAMES, Recipe, check_setting, find_recipe_folder, list_recipes, read_recipe
from aigc_cli.strict_yaml import read_yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / "recipes" / "schema.json"
VALIDATOR = Draft7Validator(json.loads(FILE.read_text(encoding="utf-8")))

# Values that YAML can hold for one setting. Numbers in quotes are left out: only the reader accepts them.
NUMBERS = (
    st.integers(-3, 70)
    | st.floats(-2, 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, 0.05, 0.9, 0.95, 2**32 - 1, 2**32, 10.0, 10.5])
)
PLAIN_WORDS = st.sampled_from(["all", "partial", "none", "al", "cosine", "best", "multilevel", "word", "no", "prompt"])
LOSSES = st.lists(st.sampled_from([*LOSS_NAMES, " l1 ", "plcc ", "huber", ""]), max_size=4).map("+".join)
VALUES = NUMBERS | PLAIN_WORDS | LOSSES | st.booleans() | st.none() | st.just([1]) | st.just({"a": 1})


def loads(settings: dict[str, Any]) -> bool:
    """Whether the strict reader accepts each of these settings."""
    try:
        for key, value in settings.items():
            check_setting(key, value, "a test")
    except AigcError:
        return False
    return True


def test_the_file_is_current_and_a_schema() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "write_schema.py"))["make_schema"]()
    assert FILE.read_text(encoding="utf-8") == json.dumps(made, indent=2) + "\n", "run python tools/write_schema.py"
    Draft7Validator.check_schema(made)
    assert made["properties"].keys() == {"extends", *FIELDS}
    assert all(made["properties"][key]["default"] == getattr(Recipe(), key) for key in FIELDS)
    assert made["properties"]["lr"]["description"].endswith("sensible: 1e-06 to 0.001")
    assert (find_recipe_folder() / "schema.json").is_file()  # it ships with the recipes


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_is_valid_and_names_the_schema(name: str) -> None:
    path = find_recipe_folder() / f"{name}.yaml"
    assert list(VALIDATOR.iter_errors(read_yaml(path))) == []
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    assert lines[2].startswith(f"# {name}: ")
    assert any(line.startswith("# Try next: ") for line in lines)


@pytest.mark.parametrize("key", FIELDS)
def test_the_defaults_are_valid(key: str) -> None:
    assert VALIDATOR.is_valid({key: getattr(Recipe(), key)})


@pytest.mark.parametrize(
    "settings",
    [
        {"epoch": 3},
        {"lr": 2},
        {"lr": "fast"},
        {"epochs": 0},
        {"epochs": 1.5},
        {"epochs": True},
        {"epochs": None},
        {"flip": "no"},
        {"flip": 1},
        {"freeze": "part"},
        {"quality_input": "pixels"},
        {"loss": "mse+huber"},
        {"loss": "mse+"},
        {"loss": ""},
        {"seed": 2**32},
        {"backbone": 5},
    ],
    ids=str,
)
def test_what_the_loader_refuses_is_invalid(settings: dict[str, Any]) -> None:
    assert not loads(settings)
    assert not VALIDATOR.is_valid(settings)


def test_extends_is_a_word_and_any_other_document_is_no_recipe(tmp_path: Path) -> None:
    assert VALIDATOR.is_valid({"extends": "medium"})
    assert not VALIDATOR.is_valid({"extends": 5})
    assert not VALIDATOR.is_valid([{"lr": 1e-4}])
    (tmp_path / "five.yaml").write_text("extends: 5\n")
    with pytest.raises(AigcError, match="found '5'"):
        read_recipe(tmp_path / "five.yaml")


@given(settings=st.dictionaries(st.sampled_from([*FIELDS, "epoch", ""]), VALUES, max_size=3))
def test_schema_and_loader_agree(settings: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(settings) == loads(settings)


@given(key=st.sampled_from([key for key in FIELDS if FIELDS[key].metadata["low"] is not None]), data=st.data())
def test_schema_and_loader_agree_at_the_limits(key: str, data: st.DataObject) -> None:
    meta = FIELDS[key].metadata
    ends = [end for end in (meta["low"], meta["high"]) if end is not None]
    value = data.draw(st.sampled_from(ends)) + data.draw(st.sampled_from([0, 1, -1, 1e-9, -1e-9]))
    assert VALIDATOR.is_valid({key: value}) == loads({key: value})
