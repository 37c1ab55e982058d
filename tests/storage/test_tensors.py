"""Tensors on disk: eight bits within their bound, and nothing but whole, finite safetensors is opened."""

import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aigc_cli.errors import AigcError
from aigc_cli.storage.tensors import load_tensors, quantise, save_tensors, tensors_digest, write_sums, wrong_sums

rows = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=5)


class Trap:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@given(rows)
def test_eight_bits_are_off_by_half_a_step_of_their_row(values: list[list[float]]) -> None:
    tensor = torch.tensor(values)
    codes, scale = quantise(tensor)
    assert codes.dtype == torch.int8
    assert scale.dtype == torch.float16
    step = tensor.abs().amax(dim=1, keepdim=True) / 127
    # half a step, plus what the factor itself loses in float16: relatively 2**-11, or 2**-25 where it is subnormal
    bound = step * (0.5 + 127 * 2**-10) + 127 * 2**-24
    assert ((codes * scale.float() - tensor).abs() <= bound).all()


def test_every_row_has_a_factor_of_its_own() -> None:
    tensor = torch.tensor([[1.0, -0.5], [100.0, 50.0]])
    codes, scale = quantise(tensor)
    assert scale.shape == (2, 1)
    assert codes[:, 0].tolist() == [127, 127]
    torch.testing.assert_close(codes * scale.float(), tensor, rtol=0.01, atol=0)


def test_a_row_of_zeros_stays_zero() -> None:
    codes, scale = quantise(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    restored = codes * scale.float()
    assert restored[0].tolist() == [0.0, 0.0]
    assert torch.isfinite(restored).all()


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
        assert torch.equal(found[name], tensors[name])
        assert found[name].dtype == tensors[name].dtype
    assert torch.equal(found["half"], tensors["half"].float())
    torch.testing.assert_close(found["conv"], tensors["conv"], atol=float(tensors["conv"].abs().max()) / 250, rtol=0)
    assert load_file(tmp_path / "w.safetensors")["conv"].dtype == torch.int8


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    tensor = torch.randn(3, 3)
    save_tensors(tmp_path / "w.safetensors", {"one": tensor, "same": tensor})
    found = load_tensors(tmp_path / "w.safetensors")
    assert torch.equal(found["one"], tensor)
    assert torch.equal(found["same"], tensor)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"good": torch.ones(2), "layer.bias": torch.tensor([0.0, bad]), "n": torch.tensor(3)}, path)
    with pytest.raises(AigcError) as caught:
        load_tensors(path)
    assert str(caught.value) == f"Expected finite weights in {path}, found NaN or infinity in layer.bias.\nTrain again."


def test_a_factor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(1, 2).to(torch.int8), "w.scale": torch.tensor([[math.nan]]).half()}, path)
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
    assert caught.value.message.startswith(f"Expected a whole safetensors file, found something else at {path}: ")
    assert caught.value.hint == "Fetch or train the weights again; pickled checkpoints are never opened."
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # the trap does work


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.randn(50, 20), "b": torch.randn(10)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(AigcError) as caught:
        load_tensors(path)
    assert caught.value.message.startswith(f"Expected a whole safetensors file, found something else at {path}: ")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(AigcError) as caught:
        load_tensors(tmp_path / "w.safetensors")
    assert str(caught.value) == f"Expected weights at {tmp_path / 'w.safetensors'}, found no file.\nCheck the path."


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(AigcError) as caught:
        load_tensors(tmp_path)
    assert caught.value.message.startswith(f"Expected a whole safetensors file, found something else at {tmp_path}")


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0), "n": torch.tensor(3)}
    same = {name: tensor.clone() for name, tensor in reversed(base.items())}
    assert tensors_digest(same) == tensors_digest(base)
    strided = torch.stack([base["a"], base["a"]], dim=-1)[..., 0]
    assert tensors_digest({**base, "a": strided}) == tensors_digest(base)
    others = [
        {**base, "a": base["a"] + 1e-6 * torch.eye(2, 3)},
        {**base, "a": base["a"].reshape(3, 2)},
        {**base, "b": torch.zeros(0, dtype=torch.int32)},
        {"c" if name == "a" else name: tensor for name, tensor in base.items()},
        {name: tensor for name, tensor in base.items() if name != "b"},
    ]
    assert len({tensors_digest(other) for other in [base, *others]}) == len(others) + 1


def test_sums_name_what_changed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a.bin", "below/b.bin"):
        (tmp_path / name).write_bytes(name.encode())
    write_sums(tmp_path)
    assert wrong_sums(tmp_path) == []
    assert (tmp_path / "SHA256SUMS").read_text().splitlines()[1].endswith("  below/b.bin")
    (tmp_path / "a.bin").write_bytes(b"changed")
    (tmp_path / "below" / "b.bin").unlink()
    assert wrong_sums(tmp_path) == ["a.bin", "below/b.bin"]


@pytest.mark.parametrize("text", [None, "one word", "\udcff"])
def test_sums_that_are_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "SHA256SUMS").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AigcError, match=r"Expected digests in .*SHA256SUMS, found none") as caught:
        wrong_sums(tmp_path)
    assert caught.value.hint == "Install aigc again."


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        save_tensors(tmp_path / "nowhere" / "w.safetensors", {"a": torch.zeros(2)})


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(AigcError, match="it is no regular file"):
        load_tensors(tmp_path / "w.safetensors")
