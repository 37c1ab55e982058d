"""Scores from graphs: those of PyTorch, each computed alone, each prompt once."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import forge_model
from numpy.typing import NDArray

from aigc_cli.errors import AigcError
from aigc_cli.model.eager import EagerNetwork
from aigc_cli.model.trained import load_model
from aigc_cli.runtime import network as module
from aigc_cli.runtime.graphs import find_graphs
from aigc_cli.runtime.hints import TOKENIZER
from aigc_cli.runtime.network import GraphNetwork, Network, Outputs
from aigc_cli.runtime.saved import read_model
from aigc_cli.storage.checkpoints import DESCRIPTION, SHIPPED_SCORERS

LONG = ", ".join(f"a red fox number {i} under a yellow sun" for i in range(40))
PROMPTS = ["a red fox", None, LONG, "赤い狐 🦊", "a red fox", "x", "café, 1999's <b>&amp;</b>", f"{LONG} in the rain"]
MOS_SPAN = 5


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def networks(request: pytest.FixtureRequest) -> tuple[Network, Network]:
    """ONNX Runtime and PyTorch, with the tiny model and with the shipped scorer."""
    place = request.getfixturevalue("tiny_model") if request.param == "tiny" else None
    trained = load_model(place, "cpu")
    return load_network(place), EagerNetwork(trained)


def load_network(place: Path | None) -> GraphNetwork:
    saved = read_model(place)
    paths = find_graphs(saved)
    assert paths is not None
    return GraphNetwork(saved, paths)


def make_images(side: int, n: int = len(PROMPTS)) -> list[NDArray[np.uint8]]:
    """Noise, ramps and plain colours."""
    draw = np.random.default_rng(0)
    made = [draw.integers(0, 256, (side, side, 3)) // (i + 1) for i in range(n - 2)]
    ramp = np.linspace(0, 255, side)[:, None, None] * np.ones((1, side, 3))
    return [np.asarray(image, np.uint8) for image in (*made, ramp, np.full((side, side, 3), 255))]


def compute(network: Network, images: Sequence[Any], prompts: Sequence[str | None]) -> Outputs:
    return network.finish([network.start(image, prompt) for image, prompt in zip(images, prompts, strict=True)])


@pytest.fixture
def images(request: pytest.FixtureRequest) -> list[NDArray[np.uint8]]:
    shipped = request.node.callspec.params["networks"] == "shipped"
    return make_images(read_model(None).preprocessing.size[0] if shipped else 32)


def test_scores_are_those_of_pytorch(networks: tuple[Network, Network], images: list[NDArray[np.uint8]]) -> None:
    graphs, eager = (compute(network, images, PROMPTS) for network in networks)
    assert graphs.split == eager.split == [prompt in (LONG, f"{LONG} in the rain") for prompt in PROMPTS]
    assert graphs.scores.keys() == eager.scores.keys()
    for name, expected in eager.scores.items():
        np.testing.assert_allclose(graphs.scores[name], expected, rtol=0, atol=1e-4 / MOS_SPAN, err_msg=name)
        assert np.ptp(expected) > 1e-3, name
    assert graphs.features.dtype == eager.features.dtype == np.float64
    np.testing.assert_allclose(graphs.features, eager.features, rtol=1e-3, atol=1e-3)


def test_a_score_depends_on_nothing_beside_the_image(
    networks: tuple[Network, Network], images: list[NDArray[np.uint8]]
) -> None:
    """To the bit, in both ways: alone, in another order, and with a network that has seen no other prompt."""
    jobs = list(zip(images, PROMPTS, strict=True))
    for network in networks:
        together = compute(network, images, PROMPTS)
        backwards = compute(network, images[::-1], PROMPTS[::-1])
        alone = [compute(network, [image], [prompt]) for image, prompt in jobs]
        for name, scores in together.scores.items():
            assert np.array_equal(backwards.scores[name][::-1], scores)
            assert np.array_equal(np.concatenate([one.scores[name] for one in alone]), scores)
        assert np.array_equal(backwards.features[::-1], together.features)


def test_a_new_network_gives_the_same_bits(tiny_model: Path) -> None:
    images = make_images(32)
    whole = compute(load_network(tiny_model), images, PROMPTS)
    fresh = compute(load_network(tiny_model), images[3:4], PROMPTS[3:4])
    assert all(np.array_equal(scores[3:4], fresh.scores[name]) for name, scores in whole.scores.items())


def test_each_prompt_is_embedded_once_as_long_as_it_is_kept(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, split = list[str](), module.split_prompt
    monkeypatch.setattr(module, "KEPT_PROMPTS", 2)
    monkeypatch.setattr(module, "split_prompt", lambda text, fits: (embedded.append(text), split(text, fits))[1])
    network = load_network(tiny_model)
    embedded.clear()  # the network tried itself out
    image = make_images(32)[0]
    for prompt in ("p", "q", "q", "p", None, "r", "p", "q"):  # r takes the place of q
        network.start(image, prompt)
    assert embedded == ["p", "q", "r", "q"]


def test_a_shared_text_graph_must_be_that_of_the_backbone(tmp_path: Path) -> None:
    for path in SHIPPED_SCORERS["fast"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / DESCRIPTION).read_text())
    described["backbone"]["weights_hash"] = "0" * 64
    (tmp_path / DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(AigcError, match="Expected mini with weights 000000000000, as when this model was trained"):
        load_network(tmp_path)


def test_a_prompt_that_a_strangers_files_cannot_take_is_an_error_of_the_input(tiny_model: Path, tmp_path: Path) -> None:
    """Some tokens have numbers that the text graph does not know; the trial with one prompt does not show it."""
    tokenizer = json.loads((tiny_model / "checkpoint" / TOKENIZER).read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["fox</w>"] = max(vocabulary.values()) + 1000
    network = load_network(forge_model(tiny_model, tmp_path, {TOKENIZER: json.dumps(tokenizer).encode()}))
    image = make_images(32)[0]
    network.start(image, "a cat")
    with pytest.raises(AigcError, match="Expected graphs that take any image and prompt") as caught:
        network.start(image, "a fox")
    assert caught.value.exit_code == 2


def test_steps_are_joined_in_order(tiny_model: Path) -> None:
    network, images = load_network(tiny_model), make_images(32)
    started = [network.start(image, prompt) for image, prompt in zip(images, PROMPTS, strict=True)]
    whole = network.finish(started)
    parts = [network.finish(started[a:b]) for a, b in itertools.pairwise((0, 3, 4, len(started)))]
    assert np.array_equal(np.concatenate([part.features for part in parts]), whole.features)
    assert [split for part in parts for split in part.split] == whole.split
