"""A process that is told to stop says so, keeps what was trained and leaves no result that looks finished."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, 130, "Interrupted")],
)
def test_a_stopped_training(sent: signal.Signals, code: int, word: str, tiny_folder: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "aigc_cli", "train", "--backbone", f"local-dir:{tiny_folder}", "--freeze", "all"]
    with subprocess.Popen(
        [*line, "--epochs", "100000", "-o", "run"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for text in process.stderr:
            if text.startswith("epoch 2/"):
                break
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"aigc: {word}; the training so far is kept in run.\n" in stderr
    assert stderr.endswith("Go on with `aigc train --resume run`.\n")
    assert "Traceback" not in stderr
    assert stdout == ""
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["training"]
