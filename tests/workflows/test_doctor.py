"""`aigc doctor`: finds what is wrong with a remedy, and does not wait long for a hub."""

import time
from importlib import metadata
from pathlib import Path
from typing import Any

import open_clip
import pytest

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.model import hub
from aigc_cli.model.loading import is_available_locally, load_backbone
from aigc_cli.runtime.hints import MINI
from aigc_cli.storage.tensors import find_wrong_sums
from aigc_cli.workflows import doctor
from aigc_cli.workflows.doctor import check_machine
from tools.sums import write_sums

ROOT = Path(__file__).parents[2]


def found(name: str, backbone: str | None = None) -> doctor.Check:
    (check,) = [check for check in check_machine(backbone) if check.name == name]
    return check


def test_all_is_well_here() -> None:
    checks = check_machine("mini")
    assert [check for check in checks if check.ok is False] == []
    names = [check.name for check in checks]
    assert {"aigc", "python", "torch", "open_clip_torch", "cache", "shipped weights", "mini"} <= {
        name.replace("open-clip-torch", "open_clip_torch") for name in names
    }
    assert found("torch").found == metadata.version("torch")


def test_the_shipped_weights_are_those_of_the_notice() -> None:
    """tools/train_scorer.py writes SHA256SUMS; NOTICE is corrected by hand."""
    sums = (MINI.parent / "SHA256SUMS").read_text()
    notice = (ROOT / "NOTICE").read_text()
    assert find_wrong_sums(MINI.parent) == []
    digests = {line.split()[1]: line.split()[0] for line in sums.splitlines()}
    weights = [name for name in digests if name.endswith(".safetensors")]
    assert len(weights) == 6
    for name in weights:
        digest = digests[name]
        assert f"aigc_cli/weights/{name}\n    sha256 {digest}\n" in notice


def test_other_weights_than_those_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scorer").mkdir()
    (tmp_path / "scorer" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    monkeypatch.setattr(doctor, "MINI", tmp_path / "scorer")
    assert (found("shipped weights").ok, "SHA256SUMS" in found("shipped weights").found) == (False, True)
    write_sums(tmp_path)
    assert found("shipped weights").ok
    (tmp_path / "scorer" / "a").write_text("other")
    (tmp_path / "b").unlink()
    check = found("shipped weights")
    assert (check.ok, check.found) == (False, "b, scorer/a: changed since they were shipped")
    assert check.remedy.startswith("pip install --force-reinstall")


def test_packages_that_are_old_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=999", "no-such-package>=1", "pillow>=2; extra == 'dev'", "numpy>=2"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    checks = {check.name: check for check in check_machine()}
    assert (checks["torch"].ok, checks["torch"].remedy) == (False, "pip install -U 'torch>=999'")
    assert (checks["no-such-package"].found, checks["no-such-package"].ok) == ("not installed", False)
    assert checks["numpy"].ok
    assert "pillow" not in checks


def test_what_scoring_does_without_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation by install/score.txt has no PyTorch."""
    version = metadata.version
    gone = {"torch", "open-clip-torch", "numpy"}

    def find(name: str) -> str:
        if name in gone:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", find)
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2", "open_clip_torch>=3", "numpy>=2"])
    monkeypatch.setattr(metadata, "version", lambda name: find(name.replace("_", "-")))
    checks = {check.name: check.ok for check in check_machine("mini")}
    assert (checks["torch"], checks["open_clip_torch"], checks["numpy"]) == (None, None, False)
    gone.discard("torch")
    checks = {check.name: check.ok for check in check_machine("mini")}
    assert (checks["torch"], checks["open_clip_torch"]) == (True, False)


def test_a_cache_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "file" / "below"))
    assert (found("cache").ok, found("cache").remedy) == (False, "Set AIGC_CACHE to a writable folder.")
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "new"))
    assert found("cache").ok
    monkeypatch.setattr(doctor, "FREE", 1 << 60)
    assert found("cache").ok is False


def test_a_backbone_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert found("ViT-L-14/openai").ok is None
    assert f"{doctor.RECOMMENDED_ON_HUB}/" == open_clip.get_pretrained_cfg("ViT-L-14", "openai")["hf_hub"]
    snapshot = tmp_path / f"models--{doctor.RECOMMENDED_ON_HUB.replace('/', '--')}" / "snapshots" / "a1"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a1")
    (snapshot / "open_clip_model.safetensors").write_text("weights")
    assert found("ViT-L-14/openai").found == "on this machine"
    check = found("ViT-B-32/openai", "ViT-B-32/openai")
    assert (check.ok, check.found) == (False, "not on this machine, and the hub does not answer")
    monkeypatch.setattr(doctor, "is_hub_reachable", lambda: True)
    assert found("ViT-B-32/openai", "ViT-B-32/openai").ok
    with pytest.raises(AigcError, match="nonsense/weights"):
        check_machine("nonsense/weights")


def test_a_backbone_in_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    assert is_available_locally(f"local-dir:{tiny_folder}")
    assert is_available_locally("ViT-B-32/random")
    check = found(f"local-dir:{tmp_path}", f"local-dir:{tmp_path}")
    assert (check.ok, check.found) == (False, "no weights there")


# --- a hub that nobody can reach


def test_a_hub_that_is_away_is_asked_once_and_not_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library retries for a minute; one request is enough here."""
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> Any:
            asked.append(url)
            assert timeout == hub.HUB_SECONDS <= 5
            raise OSError("no network")

    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    begun = time.process_time()
    with pytest.raises(EnvironmentProblem, match="were not found"):
        load_backbone("ViT-B-32/openai")
    assert len(asked) == 1
    assert time.process_time() - begun < 20
    from huggingface_hub import constants as now

    assert now.HF_HUB_OFFLINE is False
