"""For any bytes in a file, a command ends with code 0, 2 or 3, shows no traceback and writes only its output.

tests/fuzz runs the same attacks for longer; what it found is tried again here.
"""

import json
import os
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks import Attack, make_image_attack
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutate import mutate
from sandbox import Sandbox
from seeds import make_images

from aigc_cli.metrics import by_name
from aigc_cli.recipe import FIELDS, get_field_type

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
pytestmark = pytest.mark.slow
QUICK = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
FEW = settings(QUICK, max_examples=5)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIGC_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(by_name, "RESAMPLES", 20)  # intervals take most of a small run's time
        yield Sandbox(tmp_path_factory.mktemp("box") / "box", ablation=True)


def read_valid(box: Sandbox, attack: Attack) -> bytes:
    """The bytes that an attack damages."""
    return (box.root / (attack.like or attack.file.removeprefix("out/"))).read_bytes()


# --- bytes


def damage(data: bytes) -> st.SearchStrategy[bytes]:
    """The data with some bytes changed, inserted or removed, or cut; sometimes any bytes."""
    changes = st.lists(st.tuples(st.integers(0, len(data)), st.binary(max_size=4), st.integers(0, 4)), max_size=4)

    def apply(case: tuple[list[tuple[int, bytes, int]], int]) -> bytes:
        copy = data
        for at, new, old in case[0]:
            copy = copy[:at] + new + copy[at + old :]
        return copy[: case[1]]

    end = st.just(len(data) + 99) | st.integers(0, len(data))
    return st.tuples(changes, end).map(apply) | st.binary(max_size=64)


def damage_inside(data: bytes) -> st.SearchStrategy[bytes]:
    """Damage that passes the outer checks of the format: other values with a correct checksum."""
    return st.integers(0, 2**32).map(lambda seed: mutate(data, random.Random(seed)))


@pytest.mark.parametrize("number", range(len(make_images())))
@settings(FEW, max_examples=3)
@given(choice=st.data())
def test_images(number: int, box: Sandbox, choice: st.DataObject) -> None:
    attack, data = make_image_attack("demo_0000.jpg"), make_images()[number]
    line = choice.draw(st.sampled_from(attack.lines[:1] * 2 + attack.lines[3:4]))
    ending = box.attack_file(attack, line, choice.draw(damage(data) | damage_inside(data)))
    assert ending.code in (0, None)  # one bad image is a failed row or is skipped, never an error


def test_an_image_in_every_command(box: Sandbox) -> None:
    attack = make_image_attack("demo_0000.jpg")
    for line in attack.lines:
        assert box.attack_file(attack, line, make_images()[1][:60]).code in (0, 3, None)  # 3: `verify` reports it


PIECES = [
    b"name",
    b"prompt",
    b"mos_quality",
    b"demo_0000.jpg",
    b"../",
    b"1",
    b" ",
    b",",
    b";",
    b'"',
    b"\n",
    b"\r",
    b"\0",
]
CONTENT = st.one_of(
    st.binary(max_size=80),
    st.lists(st.sampled_from([*PIECES, b"\xff", b"\xef\xbb\xbf", b"=1+1", b"\x1b[2J"]), max_size=30).map(b"".join),
)


@settings(QUICK, max_examples=30)
@given(choice=st.data())
def test_tables(box: Sandbox, choice: st.DataObject) -> None:
    attack = box.attacks["ratings"]
    start = read_valid(box, attack)
    content = CONTENT | CONTENT.map(lambda rest: start + rest) | damage(start) | damage_inside(start)
    box.attack_file(attack, choice.draw(st.sampled_from(attack.lines[:4])), choice.draw(content))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@settings(QUICK, max_examples=20)
@given(choice=st.data())
def test_tables_of_scores(suffix: str, box: Sandbox, choice: st.DataObject) -> None:
    attack = box.attacks[f"scores.{suffix}"]
    data = read_valid(box, attack)
    box.attack_file(attack, choice.draw(st.sampled_from(attack.lines)), choice.draw(damage(data) | damage_inside(data)))


OTHERS = ("undo", "crossval", "run", "run's recipe", "run's epochs", "training", "state", "state's tensors", "scoring")
OTHERS += ("scoring's inputs", "scoring's rows", "folds", "parts", "note", "backbone", "backbone's weights")
OTHERS += ("weights", "model", "graph", "tokenizer")


@pytest.mark.parametrize("name", OTHERS)
@settings(FEW)
@given(choice=st.data())
def test_files_that_aigc_wrote(name: str, box: Sandbox, choice: st.DataObject) -> None:
    """Checkpoints, states and tables, which are untrusted."""
    attack = box.attacks[name]
    data = read_valid(box, attack)
    line = choice.draw(st.sampled_from(attack.lines))
    box.attack_file(attack, line, choice.draw(damage_inside(data) | damage(data)))


# --- YAML, and the values of a recipe

KEYS = st.sampled_from([*FIELDS, "extends", "? [a]", "{a: b}", "<<", "''", "!x a", "5", "no", "low"])
SCALARS = [
    "1e-4",
    "no",
    "quick",
    "'",
    "|",
    "*a",
    "&a 1",
    "\x1b[2J",
    "9" * 400,
    "\t",
    "---",
    "",
    ".inf",
    "0x1",
    "!!null ''",
]
TAGS = st.sampled_from(["", "", "!!map ", "!!python/object/apply:os.abort ", "! ", "&a "])
NODES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.builds("{}[{}, {}]".format, TAGS, inner, inner) | st.builds("{}{{{}: {}}}".format, TAGS, inner, inner)
    ),
    max_leaves=4,
)
YAML = st.lists(st.builds("{}: {}".format, KEYS, NODES), max_size=4).map(lambda lines: "\n".join(lines).encode())


@pytest.mark.parametrize("name", ["recipe", "settings", "variants"])
@settings(QUICK, max_examples=30)
@given(content=st.binary(max_size=100) | YAML)
def test_yaml(name: str, box: Sandbox, content: bytes) -> None:
    box.attack_file(box.attacks[name], box.attacks[name].lines[0], content)


WORDS = st.text(string.printable.replace(" ", ""), max_size=6) | st.sampled_from(
    ["nan", "-inf", "1e999", "9" * 400, "0"]
)


GIVEN = st.dictionaries(st.sampled_from(sorted(FIELDS)), WORDS | st.integers() | st.floats(), min_size=1, max_size=3)


@settings(QUICK, max_examples=20)
@given(values=GIVEN)
@example(values={"mos_min": "5"})
@example(values={"w_q": 0, "w_c": 0})
def test_any_values(box: Sandbox, values: dict[str, Any]) -> None:
    """Any value of a setting, in a file or as an option, gives the resolved recipe or one clear error."""
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    box.attack_file(box.attacks["recipe"], box.attacks["recipe"].lines[0], text.encode())
    lines = [f"--set {key}={''.join(str(value).split())}" for key, value in values.items()]
    line = f"crossval --data none.csv {' '.join(lines)} -o out/cv"
    assert box.attack_file(Attack("values", "any.csv", (line,)), line, b"").code == 2  # there is no none.csv


def draw_allowed(name: str) -> st.SearchStrategy[Any]:
    """Allowed values of a setting; integers are small, because some set how long training takes."""
    meta, (kind, _) = FIELDS[name].metadata, get_field_type(name)
    if meta["choices"]:
        return st.sampled_from(meta["choices"])
    if kind is bool:
        return st.booleans()
    low, high = meta["low"], meta["high"]
    if kind is int:
        return st.integers(low or 0, min(low + 3, high or low + 3))
    return st.floats(low, 10.0 if high is None else high, allow_nan=False)


BESIDE = {"backbone", "image_size", "group_by", "loss", "mos_min", "mos_max", "seed", "hidden_q", "hidden_c"}
TRAINED = {name: draw_allowed(name) for name in FIELDS if name not in BESIDE}


@settings(QUICK, max_examples=4)
@given(choice=st.data())
def test_allowed_values_train(box: Sandbox, choice: st.DataObject) -> None:
    """A training ends with 0 or 2, or with 6 if it diverges."""
    names = choice.draw(st.lists(st.sampled_from(sorted(TRAINED)), unique=True, min_size=1, max_size=4))
    values = {name: choice.draw(TRAINED[name]) for name in names}
    text = "extends: short.yaml\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    line = "train --data ratings.csv --images images --recipe any.yaml --device cpu -q -o out/run"
    box.attack_file(Attack("values", "any.yaml", (line,), codes=frozenset({0, 2, 6})), line, text.encode())


# --- what fuzzing found before


@pytest.mark.skipif(not KEPT, reason="fuzzing found nothing yet")
@pytest.mark.parametrize("path", KEPT, ids=lambda path: os.fspath(path.relative_to(CORPUS)))
def test_what_was_found_before(path: Path, box: Sandbox) -> None:
    name = path.parent.name
    attack = make_image_attack("demo_0000.jpg") if name == "image" else box.attacks[name]
    for line in attack.lines:
        if not line.startswith("ablate") or name == "ablation":  # training again takes too long
            box.attack_file(attack, line, path.read_bytes())
