"""Tensor files: the error of eight-bit storage, round trips, and refusal of anything but valid safetensors."""

import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file
from safetensors.torch import save_file as save_torch_file

from aigc_cli.errors import AigcError
from aigc_cli.storage.tensors import find_wrong_sums, hash_tensors, load_tensors, quantise, save_tensors
from tools.sums import write_sums

rows = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=5)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@given(rows)
def test_eight_bits_are_off_by_half_a_step_of_their_row(values: list[list[float]]) -> None:
    tensor = np.array(values, dtype=np.float32)
    codes, scale = quantise(tensor)
    assert (codes.dtype, scale.dtype) == (np.int8, np.float16)
    step = np.abs(tensor).max(axis=1, keepdims=True) / 127
    # half a step, plus the rounding of the factor to float16: relatively 2**-11, or 2**-25 for a subnormal factor
    bound = step * (0.5 + 127 * 2**-10) + 127 * 2**-24
    assert (np.abs(codes * scale.astype(np.float32) - tensor) <= bound).all()


def test_every_row_has_a_factor_of_its_own() -> None:
    tensor = np.array([[1.0, -0.5], [100.0, 50.0]], dtype=np.float32)
    codes, scale = quantise(tensor)
    assert scale.shape == (2, 1)
    assert codes[:, 0].tolist() == [127, 127]
    np.testing.assert_allclose(codes * scale.astype(np.float32), tensor, rtol=0.01)


def test_a_row_of_zeros_stays_zero() -> None:
    codes, scale = quantise(np.array([[0.0, 0.0], [1.0, 2.0]], dtype=np.float32))
    restored = codes * scale.astype(np.float32)
    assert restored[0].tolist() == [0.0, 0.0]
    assert np.isfinite(restored).all()


def test_tensors_come_back_as_they_were_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(4, 3),
        "conv": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "half": torch.randn(2, 2).half(),
        "view": torch.randn(5, 4)[:, 1:3].T,
    }
    save_tensors(tmp_path / "w.safetensors", tensors, frozenset({"conv"}))
    found = load_tensors(tmp_path / "w.safetensors")
    assert set(found) == set(tensors)
    for name in ("a", "view", "count"):
        np.testing.assert_array_equal(found[name], tensors[name].numpy(), strict=True)
    np.testing.assert_array_equal(found["half"], tensors["half"].float().numpy(), strict=True)
    np.testing.assert_allclose(found["conv"], tensors["conv"].numpy(), atol=tensors["conv"].abs().max() / 250, rtol=0)
    assert load_file(tmp_path / "w.safetensors")["conv"].dtype == np.int8


def test_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    """NumPy has no bfloat16, but backbones have it; once ml_dtypes is imported (by ONNX), NumPy has one after all."""
    path = tmp_path / "w.safetensors"
    stored = {"b": torch.tensor([[1.5, -2.0]]).bfloat16(), "n": torch.tensor([3]), "flag": torch.tensor([True])}
    save_torch_file(stored, path)
    for prepare in (lambda: None, lambda: pytest.importorskip("ml_dtypes")):
        prepare()
        found = load_tensors(path)
        np.testing.assert_array_equal(found["b"], np.array([[1.5, -2.0]], dtype=np.float32), strict=True)
        assert (found["n"].tolist(), found["flag"].tolist()) == ([3], [True])


def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.safetensors"))
    path.write_bytes(save({"a": np.ones(2, np.float32)}))
    assert load_tensors(path)["a"].tolist() == [1, 1]


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    tensor = torch.randn(3, 3)
    save_tensors(tmp_path / "w.safetensors", {"one": tensor, "same": tensor})
    found = load_tensors(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found["one"], tensor.numpy())
    np.testing.assert_array_equal(found["same"], tensor.numpy())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"good": np.ones(2), "layer.bias": np.array([0.0, bad]), "n": np.array(3)}, path)
    with pytest.raises(AigcError) as caught:
        load_tensors(path)
    assert str(caught.value) == f"Expected finite weights in {path}, found NaN or infinity in layer.bias.\nTrain again."


def test_a_factor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": np.ones((1, 2), np.int8), "w.scale": np.array([[math.nan]], np.float16)}, path)
    with pytest.raises(AigcError, match=r"found NaN or infinity in w\."):
        load_tensors(path)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_with_another_name_is_refused_and_never_opened(tmp_path: Path, writer: str) -> None:
    path, sprung = tmp_path / "w.safetensors", tmp_path / "sprung"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save({"w": Trap(sprung)}, path)
    with pytest.raises(AigcError) as caught:
        load_tensors(path)
    assert caught.value.message.startswith(f"Expected a complete safetensors file at {path}, found another file: ")
    assert caught.value.hint == "Download or train the weights again; pickled checkpoints are never opened."
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # the trap does work


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": np.ones((50, 20)), "b": np.ones(10)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(AigcError) as caught:
        load_tensors(path)
    assert caught.value.message.startswith(f"Expected a complete safetensors file at {path}, found another file: ")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(AigcError) as caught:
        load_tensors(tmp_path / "w.safetensors")
    assert str(caught.value) == f"Expected weights at {tmp_path / 'w.safetensors'}, found no file.\nCheck the path."


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(AigcError) as caught:
        load_tensors(tmp_path)
    assert caught.value.message.startswith(f"Expected a complete safetensors file at {tmp_path}, found another file: ")


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0), "n": torch.tensor(3)}
    same = {name: tensor.clone() for name, tensor in reversed(base.items())}
    assert hash_tensors(same) == hash_tensors(base)
    strided = torch.stack([base["a"], base["a"]], dim=-1)[..., 0]
    assert hash_tensors({**base, "a": strided}) == hash_tensors(base)
    others = [
        {**base, "a": base["a"] + 1e-6 * torch.eye(2, 3)},
        {**base, "a": base["a"].reshape(3, 2)},
        {**base, "b": torch.zeros(0, dtype=torch.int32)},
        {"c" if name == "a" else name: tensor for name, tensor in base.items()},
        {name: tensor for name, tensor in base.items() if name != "b"},
    ]
    assert len({hash_tensors(other) for other in [base, *others]}) == len(others) + 1


def test_sums_name_what_changed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a.bin", "below/b.bin"):
        (tmp_path / name).write_bytes(name.encode())
    write_sums(tmp_path)
    assert find_wrong_sums(tmp_path) == []
    assert (tmp_path / "SHA256SUMS").read_text().splitlines()[1].endswith("  below/b.bin")
    (tmp_path / "a.bin").write_bytes(b"changed")
    (tmp_path / "below" / "b.bin").unlink()
    assert find_wrong_sums(tmp_path) == ["a.bin", "below/b.bin"]


@pytest.mark.parametrize("text", [None, "one word", "\udcff"])
def test_missing_or_damaged_sums(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "SHA256SUMS").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AigcError, match=r"Expected digests in .*SHA256SUMS, found none") as caught:
        find_wrong_sums(tmp_path)
    assert caught.value.hint == "Install aigc again."


def test_a_save_that_fails_raises_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        save_tensors(tmp_path / "nowhere" / "w.safetensors", {"a": torch.zeros(2)})


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(AigcError, match="it is a folder, pipe, socket or device"):
        load_tensors(tmp_path / "w.safetensors")
