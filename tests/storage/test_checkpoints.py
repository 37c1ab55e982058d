"""Checkpoints and training states: round trips, damaged files, and saves that fail."""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.model import trained
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.trained import load_model
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.graphs import find_graphs
from aigc_cli.storage import tensors as tensor_files
from aigc_cli.storage.checkpoints import (
    DESCRIPTION,
    FACTS,
    MODEL_FORMAT,
    WEIGHTS,
    add_graphs,
    find_checkpoint,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from aigc_cli.storage.tensors import Array
from aigc_cli.training.loop import make_model

PLAIN: dict[str, Any] = {"backbone": {"name": "mini"}, "recipe": {}, "heads": {}, "note": "é"}
RETRAIN = "Train again."
DAMAGED = [None, True, -1, 1e400, "word", [], {}]


def tensors() -> dict[str, Array]:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    return {"heads.w": matrix, "heads.n": np.array(3), "heads.e": np.empty((0, 2), dtype=np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of three tensors, without a model."""
    save_checkpoint(tmp_path / "run" / "checkpoint", tensors(), PLAIN)
    return tmp_path / "run" / "checkpoint"


def expect_error(call: Callable[[], object], message: str, hint: str) -> None:
    with pytest.raises(AigcError) as caught:
        call()
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (message, hint, 2)


def edit(folder: Path, **changes: Any) -> None:
    """Change top-level fields of the description."""
    body = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    (folder / DESCRIPTION).write_text(json.dumps(body | changes), encoding="utf-8")


# --- a checkpoint by itself


def test_what_was_saved_comes_back(folder: Path) -> None:
    found = load_checkpoint(folder)
    assert found.description == {"format_version": MODEL_FORMAT, **PLAIN, "graphs": {}}
    assert found.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        np.testing.assert_array_equal(found.tensors[name], tensor, strict=True)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["checkpoint"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([DESCRIPTION, WEIGHTS])


def test_the_digest_is_that_of_the_values(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "same", dict(reversed(tensors().items())), PLAIN | {"note": "another"})
    save_checkpoint(tmp_path / "other", tensors() | {"heads.n": np.array(4)}, PLAIN)
    save_checkpoint(tmp_path / "read", tensors(), PLAIN | {"heads": PLAIN["heads"] | {"residual_scale_q": 0.1}})
    digests = [load_checkpoint(place).digest for place in (folder, *(tmp_path / n for n in ("same", "other", "read")))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert len(digests[0]) == 64


def test_graphs_lie_beside_the_weights_with_their_digests(folder: Path, tmp_path: Path) -> None:
    graphs = {"image.onnx": b"pixels", "tokenizer.json": b"{}"}
    save_checkpoint(tmp_path / "c", tensors(), PLAIN, graphs=graphs)
    before = load_checkpoint(folder)
    add_graphs(folder, graphs)
    for place in (folder, tmp_path / "c"):
        found = load_checkpoint(place)
        assert {name: (place / name).read_bytes() for name in graphs} == graphs
        assert found.description["graphs"] == {name: sha256(data).hexdigest() for name, data in graphs.items()}
        assert found.digest == before.digest
        assert found.description == before.description | {"graphs": found.description["graphs"]}


def test_eight_bits_come_back_close(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 40), dtype=np.float32)
    save_checkpoint(tmp_path / "c", {"heads.w": matrix}, PLAIN, frozenset({"heads.w"}))
    found = load_checkpoint(tmp_path / "c").tensors
    assert found.keys() == {"heads.w"}
    assert 0 < np.abs(found["heads.w"] - matrix).max() < np.abs(matrix).max() / 127


def test_a_run_and_its_checkpoint_are_the_same_model(folder: Path) -> None:
    assert find_checkpoint(folder) == find_checkpoint(folder.parent) == folder
    hint = "Give the folder that `aigc train -o` wrote, or leave --model out to use the shipped scorer."
    for place in (folder.parent.parent, folder / "nothing", folder / DESCRIPTION):
        message = f"Expected a run or a model folder with {DESCRIPTION}, found none at {place}."
        expect_error(lambda place=place: load_checkpoint(place), message, hint)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{", "JSONDecodeError('Expecting property name enclosed in double quotes: line 1 column 2 (char 1)')"),
        (b"{}", "KeyError('format_version')"),
        (b"[]", "TypeError('list indices must be integers or slices, not str')"),
        (b'{"format_version": 1}', "KeyError('backbone')"),
        (b'{"format_version": 1, "backbone": {"name": "m"}, "heads": {}}', "KeyError('recipe')"),
    ],
)
def test_a_damaged_description(content: bytes, found: str, folder: Path) -> None:
    (folder / DESCRIPTION).write_bytes(content)
    message = f"Expected a model description in {folder / DESCRIPTION}, found {found}."
    expect_error(lambda: load_checkpoint(folder), message, RETRAIN)


def test_a_description_that_is_no_text(folder: Path) -> None:
    (folder / DESCRIPTION).write_bytes(b"\xff\xfe")
    with pytest.raises(AigcError, match="UnicodeDecodeError"):
        load_checkpoint(folder)


def test_a_description_without_end(folder: Path) -> None:
    (folder / DESCRIPTION).write_text("[" * 200_000)
    with pytest.raises(AigcError, match="Expected a model description"):
        load_checkpoint(folder)


UPGRADE = "A newer version made it: pip install --upgrade aigc-cli"


@pytest.mark.parametrize(
    ("version", "hint"), [(1, RETRAIN), (MODEL_FORMAT + 1, UPGRADE), (str(MODEL_FORMAT), RETRAIN), (None, RETRAIN)]
)
def test_another_format_version(version: Any, hint: str, folder: Path) -> None:
    edit(folder, format_version=version)
    message = f"Expected a model of format {MODEL_FORMAT} in {folder}, found {version!r}."
    expect_error(lambda: load_checkpoint(folder), message, hint)


def test_weights_that_are_not_there(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    message = f"Expected weights at {folder / WEIGHTS}, found no file."
    expect_error(lambda: load_checkpoint(folder), message, "Check the path.")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, folder: Path) -> None:
    save_file({"good": torch.ones(2), "heads.w": torch.tensor([1.0, value])}, folder / WEIGHTS)
    message = f"Expected finite weights in {folder / WEIGHTS}, found NaN or infinity in heads.w."
    expect_error(lambda: load_checkpoint(folder), message, RETRAIN)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_damaged_weights_are_refused_and_nothing_is_unpickled(folder: Path, tmp_path: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    torch.save({"w": torch.ones(1)}, tmp_path / "zip")
    damaged = [b"", whole[:7], whole[:-1], whole + b"x", b"\xff" * 8 + whole[8:], trap, (tmp_path / "zip").read_bytes()]
    for data in damaged:
        (folder / WEIGHTS).write_bytes(data)
        with pytest.raises(AigcError) as caught:
            load_checkpoint(folder)
        expected = f"Expected a complete safetensors file at {folder / WEIGHTS}, found another file: "
        assert caught.value.message.startswith(expected)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()  # the trap works


# --- saving


@pytest.mark.parametrize("strerror", ["No space left on device", "Read-only file system"])
def test_a_failed_save_keeps_the_old_checkpoint(strerror: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, strerror)

    before = load_checkpoint(folder).digest
    monkeypatch.setattr("aigc_cli.storage.tensors.save_tensors", fail)
    with pytest.raises(EnvironmentProblem) as caught:
        save_checkpoint(folder, {"heads.w": np.zeros(1)}, PLAIN)
    assert caught.value.message == f"{folder} could not be written: {strerror}."
    assert load_checkpoint(folder).digest == before
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_failed_rename_keeps_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename happens when the old folder is already moved away."""
    before, rename = load_checkpoint(folder).digest, Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == folder and (self / WEIGHTS).stat().st_size != size:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    size = (folder / WEIGHTS).stat().st_size
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(EnvironmentProblem, match="Input/output error"):
        save_checkpoint(folder, {"heads.w": np.zeros(1)}, PLAIN)
    assert load_checkpoint(folder).digest == before
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_new_save_replaces_the_old_one(folder: Path) -> None:
    save_checkpoint(folder, {"heads.w": np.zeros(1)}, PLAIN | {"note": "new"})
    found = load_checkpoint(folder)
    assert (found.description["note"], list(found.tensors)) == ("new", ["heads.w"])
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_description_that_is_no_json_keeps_the_old_checkpoint(folder: Path) -> None:
    before = load_checkpoint(folder).digest
    with pytest.raises(ValueError, match="Out of range float values"):
        save_checkpoint(folder, tensors(), PLAIN | {"note": float("nan")})
    assert load_checkpoint(folder).digest == before
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


# --- a checkpoint and the model it describes


@pytest.fixture(scope="session")
def described(tiny_folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and description of an untrained model on the tiny backbone."""
    from dataclasses import asdict

    recipe = Recipe(backbone=f"local-dir:{tiny_folder}", freeze="all")
    backbone = load_backbone(recipe.backbone)
    model = make_model(backbone, recipe)
    said = {"name": recipe.backbone, "image_size": None, "weights_hash": backbone.weights_hash}
    said |= {"preprocessing": asdict(backbone.preprocessing), "frozen_blocks": asdict(model.freezing)}
    return model.copy_trained(), {"backbone": said, "heads": model.heads.config.to_json(), "recipe": asdict(recipe)}


Described = tuple[dict[str, Any], dict[str, Any]]


def test_a_model_comes_back(described: Described, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", *described)
    trained = load_model(tmp_path / "c", "cpu")
    assert all(torch.equal(tensor, described[0][name]) for name, tensor in trained.model.copy_trained().items())
    assert trained.saved.make_metadata()["backbone_hash"] == described[1]["backbone"]["weights_hash"]


def test_other_backbone_weights(described: Described, tmp_path: Path) -> None:
    state, said = described
    other = said | {"backbone": said["backbone"] | {"weights_hash": "0123456789abcdef"}}
    save_checkpoint(tmp_path / "c", state, other)
    expect_error(
        lambda: load_model(tmp_path / "c", "cpu"),
        f"Expected the backbone {said['backbone']['name']} with weights 0123456789ab, as when this model was trained, "
        f"found {said['backbone']['weights_hash'][:12]}.",
        "Use the same backbone weights, or train again.",
    )


def test_tensors_that_do_not_fit(described: Described, tmp_path: Path) -> None:
    state, said = described
    wrong = {name: tensor for name, tensor in state.items() if name != "heads.a"}
    wrong |= {"heads.b": torch.zeros(2), "surplus": torch.zeros(1)}
    save_checkpoint(tmp_path / "c", wrong, said)
    expect_error(
        lambda: load_model(tmp_path / "c", "cpu"),
        f"Expected tensors that fit the model in {tmp_path / 'c'}; these don't: heads.a, heads.b, surplus.",
        "Was the folder put together by hand? Train again.",
    )


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field of a description, with nested fields."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("values", [["missing", "word"], pytest.param(DAMAGED, marks=pytest.mark.slow)], ids=len)
def test_a_description_with_any_field_missing_or_damaged(
    values: list[Any], described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model still loads or raises one clear AigcError, never another exception."""
    known = (described[1]["backbone"]["name"], None, "few")
    backbone = load_backbone(*known)  # loaded once, to save time
    monkeypatch.setattr(trained, "load_backbone", lambda *args: backbone if args == known else load_backbone(*args))
    save_checkpoint(tmp_path / "c", *described)
    text = (tmp_path / "c" / DESCRIPTION).read_text(encoding="utf-8")
    stray: dict[str, str] = {}
    for path in places(json.loads(text)):
        for value in values:
            body = json.loads(text)
            parent = body
            for key in path[:-1]:
                parent = parent[key]
            if value == "missing":
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            (tmp_path / "c" / DESCRIPTION).write_text(json.dumps(body), encoding="utf-8")
            try:
                saved = load_model(tmp_path / "c", "cpu").saved
                saved.make_metadata(), saved.targets, find_graphs(saved)
            except AigcError:
                pass
            except Exception as error:
                stray.setdefault(".".join(path), f"{value!r}: {type(error).__name__}: {error}")
    assert stray == {}


# --- states of a training


def state(folder: Path, epoch: int, step: int) -> None:
    save_state(folder, epoch, step, {"w": np.full(3, step, dtype=np.float32)}, {"epoch": epoch, "step": step, "x": 0.1})


def test_the_latest_state_is_by_epoch_and_step(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    state(tmp_path, 10, 2)
    for name in ("epoch-9-step-300", "epoch-10-step-1"):  # older states, as after a kill
        shutil.copytree(tmp_path / "epoch-10-step-2", tmp_path / name)
    tensors, facts = load_state(tmp_path) or ({}, {})
    assert (tensors["w"].tolist(), facts) == ([2, 2, 2], {"epoch": 10, "step": 2, "x": 0.1})
    state(tmp_path, 11, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-11-step-0"]


def test_a_failed_save_keeps_the_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state(tmp_path, 1, 0)
    monkeypatch.setattr(tensor_files, "save_file", fail)
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        state(tmp_path, 2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1-step-0"]
    assert load_state(tmp_path) is not None


def fail(*_: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format_version": 9}', '{"format_version": 9, "epoch": 1, "step": 0}']
)
def test_a_damaged_state(text: str, tmp_path: Path) -> None:
    state(tmp_path, 1, 0)
    (tmp_path / "epoch-1-step-0" / FACTS).write_text(text)
    with pytest.raises(AigcError) as caught:
        load_state(tmp_path)
    assert (caught.value.exit_code, caught.value.hint) == (2, UPGRADE if '"step"' in text else RETRAIN)
