"""`aigc verify` and `aigc doctor` on the command line: what they print, and how they exit."""

import json
from pathlib import Path

import pytest
from harness import aigc

from aigc_cli.images.sample import Sample
from aigc_cli.workflows import doctor


@pytest.fixture
def images(demo: list[Sample], tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in demo[:4]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    return folder


def test_verify(images: Path, tiny_model: Path, tmp_path: Path) -> None:
    table, options = tmp_path / "t.csv", ("--model", tiny_model, "--device", "cpu", "-q")
    assert aigc("score", images, "-o", table, *options).code == 0
    code, out, err = aigc("verify", table, *options)
    assert (code, err) == (0, "")
    assert out.startswith("Verified: 4 of 4 rows scored again; largest change ")
    lines = table.read_text().splitlines()
    cells = lines[1].split(",")
    cells[4] = "4.99"
    table.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    code, out, err = aigc("verify", table, *options)
    assert (code, err) == (3, "")
    assert out.startswith(f"Different from the table (4 of 4 rows scored again):\n  {cells[0]}: ")
    code, out, _ = aigc("verify", table, *options, "--json")
    assert (code, json.loads(out)["checked"], len(json.loads(out)["problems"])) == (3, 4, 1)
    code, out, err = aigc("verify", tmp_path / "no.csv", *options)
    assert (code, out) == (2, "")
    assert err.startswith("aigc: Expected a table of scores at ")


def test_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, err = aigc("doctor", "--backbone", "mini")
    assert (code, err) == (0, "")
    assert "WRONG" not in out
    monkeypatch.setenv("AIGC_CACHE", "/dev/null/cache\x1b")
    code, out, err = aigc("doctor")
    assert code == 4
    assert "WRONG cache" in out
    assert "\x1b" not in out + err
    assert err.splitlines()[-1].strip() == "Set AIGC_CACHE to a writable folder."
    monkeypatch.setattr(doctor, "check_machine", lambda backbone: [doctor.Check("x", "y", False, "Replace it.")])
    code, out, err = aigc("doctor", "--json")
    assert (code, json.loads(out)) == (4, [{"name": "x", "found": "y", "ok": False, "remedy": "Replace it."}])
    assert err == "aigc: x: y.\n      Replace it.\n"
