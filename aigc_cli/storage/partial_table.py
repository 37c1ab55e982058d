"""An unfinished table of scores: a folder `<output>.parts` with a plan, numbered shards and a mark at the end.

Every file is written atomically (see `open_atomic`), so the process may be killed at any moment: existing shards count,
and the other rows are computed again. The plan is complete when its settings file exists, which is written last.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_cli.errors import AigcError, explain_os_errors
from aigc_cli.storage.atomic_files import LOCK, TEMPORARY_PREFIX, open_atomic, read_json, sweep_leftovers, write_json
from aigc_cli.storage.results import Row, read_parquet, write_table
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.text import show_path, to_printable

T = TypeVar("T")

SETTINGS_FILE, INPUTS_FILE, DONE_FILE = "plan.json", "inputs.parquet", "done.json"
_TEXTS, _SIZES = ("prompt", "prompt_source", "sidecar"), ("size", "mtime_ns")
INPUT_SCHEMA = pa.schema(
    {"name": pa.binary(), **dict.fromkeys(_TEXTS, pa.string()), **dict.fromkeys(_SIZES, pa.int64())}
)


class PartialTable:
    """The unfinished table of scores of the file `output`, in a folder beside it.

    The caller writes the complete table to `joined` before `publish`. `counts` holds the number of rows of each valid
    shard; shards after a damaged or missing one do not count.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.parts")
        self.joined = self.folder / f"joined{output.suffix}"
        self.counts: list[int] = []

    def check(self) -> None:
        """Raise an AigcError if there is a file, a link, or a folder with foreign files in place of the folder."""
        found = ""
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            found = "a link or a file"
        elif self.folder.is_dir() and not self.planned and (foreign := self._list_foreign()):
            found = to_printable(foreign[0].name, 80)
        if found:
            expected = f"Expected {show_path(self.folder)} to be free for unfinished results"
            raise AigcError(f"{expected}, found {found} there.", "Move it away, or choose another place with -o.")

    @property
    def planned(self) -> bool:
        """Whether the folder has a plan."""
        return (self.folder / SETTINGS_FILE).is_file()

    @property
    def finished(self) -> bool:
        """Whether every row is in a shard."""
        return (self.folder / DONE_FILE).is_file()

    def begin(self, settings: Mapping[str, str], inputs: pa.Table) -> None:
        """Remove the parts of an earlier scoring and write a new plan."""
        self.clear()
        self.update(inputs)
        write_json(self.folder / SETTINGS_FILE, dict(settings))

    def update(self, inputs: pa.Table) -> None:
        """Write the inputs; their schema is `INPUT_SCHEMA`."""
        with open_atomic(self.folder / INPUTS_FILE, "wb") as stream:
            pq.write_table(inputs, stream, compression="zstd")
        pa.default_memory_pool().release_unused()  # what it took for 100,000 rows, 25 MB, would stay until the end

    def read_plan(self) -> tuple[dict[str, str], pa.Table]:
        """Read the plan (settings, inputs with `INPUT_SCHEMA`) and set `counts`; AigcError if it is damaged."""
        try:
            settings = read_json(self.folder / SETTINGS_FILE)
            inputs = read_parquet(self.folder / INPUTS_FILE)
            if inputs.schema != INPUT_SCHEMA or not isinstance(settings, dict):
                raise ValueError("another format")
        except (OSError, ValueError, pa.ArrowException) as error:
            plan = f"the plan of an interrupted run in {show_path(self.folder)}"
            found = to_printable(str(error), 200)
            raise AigcError(f"Expected {plan}, found {found}.", "Start again with --overwrite.") from error
        self.counts = []
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            while True:
                with self._shard_path(len(self.counts)).open("rb") as stream:
                    rows = pq.read_metadata(stream).num_rows
                if sum(self.counts) + rows > inputs.num_rows:
                    break
                self.counts.append(rows)
        return settings, inputs

    def append(self, rows: Sequence[Row]) -> None:
        """Write one more shard; it is on the disk when this returns."""
        write_table(self._shard_path(len(self.counts)), "scores", rows, {})
        self.counts.append(len(rows))

    def replace(self, number: int, rows: Sequence[Row]) -> None:
        """Write a shard again with as many rows as before."""
        assert len(rows) == self.counts[number]
        write_table(self._shard_path(number), "scores", rows, {})

    def read_shard(self, number: int) -> list[dict[str, Any]]:
        """Read the rows of one shard; AigcError if it is missing or damaged."""
        try:
            table = read_parquet(self._shard_path(number))
            if table.schema != SCHEMAS["scores"]:
                raise ValueError("other columns")
            return table.to_pylist()  # type: ignore[no-any-return]
        except (OSError, ValueError, pa.ArrowException) as error:
            found = f"{show_path(self._shard_path(number))}, found {to_printable(str(error), 200)}"
            hint = "Remove it and resume: its rows and those after it are computed again."
            raise AigcError(f"Expected a complete shard at {found}.", hint) from error

    def iterate_rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows, with one shard in memory at a time."""
        return itertools.chain.from_iterable(self.read_shard(number) for number in range(len(self.counts)))

    def finish(self) -> None:
        """Write the mark that all rows are in shards."""
        write_json(self.folder / DONE_FILE, {"rows": sum(self.counts)})

    def publish(self) -> None:
        """Move the joined table to the output, after its metadata file if any; EnvironmentProblem on failure."""
        metadata = self.folder / f"{self.joined.name}.meta.json"
        with explain_os_errors(f"{self.output} could not be written", "Free some space, or change permissions."):
            if metadata.exists():
                metadata.replace(self.output.with_name(f"{self.output.name}.meta.json"))
            self.joined.replace(self.output)

    def clear(self) -> None:
        """Remove all parts. The plan goes first, so that the rest is never taken for a valid table."""
        rest = [path for kind in ("shard-*", "joined.*") for path in self.folder.glob(kind)]
        for path in (self.folder / SETTINGS_FILE, self.folder / INPUTS_FILE, *rest):
            path.unlink(missing_ok=True)
        sweep_leftovers(self.folder)
        (self.folder / DONE_FILE).unlink(missing_ok=True)
        self.counts = []

    def remove(self) -> None:
        """Remove all parts, and the folder unless it contains other files."""
        if not self.folder.is_dir():
            return
        self.clear()
        with contextlib.suppress(OSError):
            if not self._list_foreign():
                (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _list_foreign(self) -> list[Path]:
        """Return the files in the folder that this class did not write."""
        own, prefixes = {SETTINGS_FILE, INPUTS_FILE, DONE_FILE}, (TEMPORARY_PREFIX, "shard-", "joined.")
        foreign = (entry for entry in self.folder.iterdir() if entry.name not in own)
        return [entry for entry in foreign if not entry.name.startswith(prefixes)]

    def _shard_path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06}.parquet"


def split_batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` rows; the last one may be shorter."""
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
