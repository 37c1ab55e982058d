"""Orders for the warm process of forge.py, and what must be equal in the end."""

import json
import os
import re
import select
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from safetensors.torch import load_file

from aigc_cli.recipe import read_recipe

KILLED = -9


class Ending(NamedTuple):
    """How a run ended: its exit code (negative: the signal that killed it), how many events it saw, what it said."""

    code: int
    events: int
    err: str


@dataclass
class Forge:
    """Orders runs of `aigc` from the warm process."""

    process: subprocess.Popen[str]

    def begin(self, folder: Path, arguments: str, **order: Any) -> None:
        """Starts a run in `folder`; `at`, `do` and `with` say when something befalls it, and what."""
        folder.mkdir(exist_ok=True)
        assert self.process.stdin is not None
        text = json.dumps({"folder": str(folder), "arguments": arguments.split(), **order})
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def busy(self) -> bool:
        """Whether the run that was begun is still under way."""
        return not select.select([self.process.stdout], [], [], 0)[0]

    def end(self, folder: Path) -> Ending:
        """Waits for the run that was begun."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the warm process died"
        err = (folder / "err.txt").read_text()
        assert "Traceback" not in err
        assert "A bug" not in err
        return Ending(**json.loads(line), err=err)

    def __call__(self, folder: Path, arguments: str, **order: Any) -> Ending:
        self.begin(folder, arguments, **order)
        return self.end(folder)


READERS: dict[str, Callable[[Path], Any]] = {
    ".parquet": pq.read_table,
    ".json": lambda path: json.loads(path.read_text()),
    ".safetensors": load_file,
    ".yaml": read_recipe,
    ".md": lambda path: path.read_text().index("|\n"),
    ".png": lambda path: path.read_bytes().index(b"IEND"),
    ".svg": lambda path: path.read_text().index("</svg>"),
}


def check_whole(folder: Path) -> int:
    """Reads every visible file below `folder` in full; returns how many there were. One may go meanwhile."""
    seen = 0
    # os.walk rather than rglob, which raises on Python 3.11 when a folder goes away under it.
    for path in sorted(Path(where) / name for where, _, names in os.walk(folder) for name in names):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix not in READERS:
            assert hidden or not path.exists(), path
            continue
        try:
            READERS[path.suffix](path)
        except Exception as error:
            assert not path.exists(), f"{path} is not whole: {error}"
            continue
        seen += 1
    return seen


def results(run: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """All that a run folder holds, hidden files included, by name: bytes, and of tables all but the times."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path.suffix not in without):
        name = str(path.relative_to(run))
        found[name] = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            columns = [column for column in table.column_names if column != "seconds"]
            metadata = {key: re.sub(rb'"seconds": [\d.e-]+', b"", said) for key, said in table.schema.metadata.items()}
            found[name] = table.select(columns).to_pydict(), metadata
    return found
