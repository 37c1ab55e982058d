"""Orders for the process of forge.py, and comparison of what runs leave."""

import json
import os
import random
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
SEED = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))


class Ending(NamedTuple):
    """How a run ended: exit code (negative: killed by that signal), number of events, and stderr."""

    code: int
    events: int
    err: str


@dataclass
class Forge:
    """Orders runs of `aigc` from the process of forge.py, which has imported everything."""

    process: subprocess.Popen[str]

    def begin(self, folder: Path, arguments: str, **order: Any) -> None:
        """Starts a run in `folder`; at event number `at` it does `do`, with the argument `with`."""
        folder.mkdir(exist_ok=True)
        assert self.process.stdin is not None
        text = json.dumps({"folder": str(folder), "arguments": arguments.split(), **order})
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def is_busy(self) -> bool:
        """Whether the started run has not ended."""
        return not select.select([self.process.stdout], [], [], 0)[0]

    def end(self, folder: Path) -> Ending:
        """Waits for the end of the started run."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process of forge.py died"
        err = (folder / "err.txt").read_text()
        assert "Traceback" not in err, err
        assert "A bug" not in err, err
        return Ending(**json.loads(line), err=err)

    def run(self, folder: Path, arguments: str, **order: Any) -> Ending:
        """Starts a run, see `begin`, and waits for its end."""
        self.begin(folder, arguments, **order)
        return self.end(folder)


def draw_moments(events: int, kills: int) -> list[int]:
    """One random event number out of each of `kills` equal parts of a run, in random order."""
    print(f"KILL_SEED={SEED}")  # set it to repeat a failure
    draw = random.Random(SEED)
    moments = [draw.randint(1 + events * i // kills, events * (i + 1) // kills) for i in range(kills)]
    draw.shuffle(moments)
    return moments


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
    """Reads every visible file below `folder` and returns their number. A file may be removed meanwhile."""
    seen = 0
    # os.walk, because rglob raises on Python 3.11 when a folder is removed meanwhile.
    for path in sorted(Path(where) / name for where, _, names in os.walk(folder) for name in names):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix not in READERS:
            assert hidden or not path.exists(), path
            continue
        try:
            READERS[path.suffix](path)
        except Exception as error:
            assert not path.exists(), f"{path} is damaged: {error}"
            continue
        seen += 1
    return seen


def read_results(run: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """{name: content} of all files of a run folder, hidden ones included; tables without times."""
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
