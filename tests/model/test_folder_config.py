"""A backbone's folder is read alone: no configuration makes a request, or reads another folder."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.model.loading import load_backbone

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny backbone; any connection is an error of its own."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a request")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return shutil.copytree(tiny_folder, tmp_path / "folder")


def change(folder: Path, part: str, **values: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    place = config
    for name in filter(None, part.split(".")):
        place = place.setdefault(name, {})
    place |= values
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model_cfg.vision_cfg", {"timm_model_name": "hf-hub:someone/model"}),
        ("model_cfg.vision_cfg", {"timm_model_name": "hf_hub:someone/model"}),
        ("model_cfg.vision_cfg", {"timm_model_name": "local-dir:/home/someone/model"}),
        ("model_cfg.vision_cfg", {"timm_model_name": "../model"}),
        ("model_cfg.vision_cfg", {"timm_model_name": "resnet18", "timm_model_pretrained": True}),
        ("model_cfg.vision_cfg", {"timm_model_name": "resnet18", "timm_pretrained": True}),
        ("model_cfg.vision_cfg", {"timm_model_name": "resnet18", "timm_checkpoint_path": "x"}),
        ("model_cfg.text_cfg", {"hf_model_name": "someone/model"}),
        ("model_cfg.text_cfg", {"hf_model_pretrained": True}),
        ("model_cfg.text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}),
        ("model_cfg.text_cfg", {"hf_tokenizer_name": "/etc/model"}),
        ("model_cfg.text_cfg", {"layers": 10**9}),
        ("model_cfg.text_cfg", {"layers": {"a": 1}}),
        ("model_cfg.text_cfg", {"width": float("inf")}),
        ("model_cfg", {"pretrained": "openai"}),
        ("", {"weights": "/etc/passwd"}),
    ],
)
def test_fields_that_lead_elsewhere(part: str, values: dict[str, Any], folder: Path) -> None:
    change(folder, part, **values)
    with pytest.raises(AigcError) as caught:
        load_backbone(f"local-dir:{folder}")
    assert caught.value.exit_code == 2
    name = list(values)[-1] if "tokenizer_kwargs" not in values else "trust_remote_code"
    assert f"Expected only fields that describe a network in open_clip_config.json of {folder}, found {name}:" in str(
        caught.value
    )


def test_harmless_fields_stay_allowed(folder: Path) -> None:
    change(folder, "model_cfg.vision_cfg", timm_model_pretrained=False, timm_pool="")
    change(folder, "model_cfg", quick_gelu=False, init_logit_bias=None)
    load_backbone(f"local-dir:{folder}")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_files_that_are_links_out_of_the_folder(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(AigcError, match=f"found {name}, a link out of it"):
        load_backbone(f"local-dir:{folder}")


def test_the_cache_of_the_hub_is_a_folder_of_links(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(folder.iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    load_backbone(f"local-dir:{snapshot}")


def test_sizes_that_no_machine_holds(folder: Path) -> None:
    change(folder, "model_cfg.text_cfg", vocab_size=10**7, width=10**7)
    with pytest.raises(AigcError, match="Expected weights that fit"):
        load_backbone(f"local-dir:{folder}")
