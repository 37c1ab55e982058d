"""A table of scores while it grows: a folder `<output>.parts` with a plan, numbered shards and, last, a mark.

Every file appears whole (see `whole_file`), so the process may be killed at any moment: what is there counts, and
the rest is computed again. A plan is there when its settings are, which are written after its inputs.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.storage.files import LOCK, TEMPORARY, read_json, sweep, whole_file, write_json
from aigc_cli.storage.results import Row, read_parquet, write_table
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.text import printable

T = TypeVar("T")

SETTINGS, INPUTS, DONE = "plan.json", "inputs.parquet", "done.json"
INPUT_SCHEMA = pa.schema(
    {
        "name": pa.binary(),
        "prompt": pa.string(),
        "prompt_source": pa.string(),
        "sidecar": pa.string(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
    }
)


class Parts:
    """The unfinished table of scores that will be `output`.

    Attributes:
        folder: where it lies, beside the output.
        joined: where the whole table is to be written, for `publish`.
        counts: rows of each shard that is there; those after a damaged or missing one are not.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.parts")
        self.joined = self.folder / f"joined{output.suffix}"
        self.counts: list[int] = []

    def check(self) -> None:
        """Raises AigcError where the folder's place is taken by something else."""
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            found = "a link or a file"
        elif self.folder.is_dir() and not self.planned and self._foreign():
            found = printable(self._foreign()[0].name, 80)
        else:
            return
        raise AigcError(
            f"Expected {printable(str(self.folder), 200)} to be free for unfinished results, found {found} there.",
            "Move it away, or choose another place with -o.",
        )

    @property
    def planned(self) -> bool:
        """Whether a scoring was begun here."""
        return (self.folder / SETTINGS).is_file()

    @property
    def finished(self) -> bool:
        """Whether every row is in a shard."""
        return (self.folder / DONE).is_file()

    def begin(self, settings: Mapping[str, str], inputs: pa.Table) -> None:
        """Removes what an earlier scoring left and writes a new plan."""
        self.clear()
        self.update(inputs)
        write_json(self.folder / SETTINGS, dict(settings))

    def update(self, inputs: pa.Table) -> None:
        """Writes the inputs, see `INPUT_SCHEMA`."""
        with whole_file(self.folder / INPUTS, "wb") as stream:
            pq.write_table(inputs, stream, compression="zstd")

    def plan(self) -> tuple[dict[str, str], pa.Table]:
        """The settings and the inputs (`INPUT_SCHEMA`) that this was begun with; counts the shards."""
        try:
            settings = read_json(self.folder / SETTINGS)
            inputs = read_parquet(self.folder / INPUTS)
            if inputs.schema != INPUT_SCHEMA or not isinstance(settings, dict):
                raise ValueError("another layout")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise AigcError(
                f"Expected the plan of an interrupted run in {printable(str(self.folder), 200)}, "
                f"found {printable(str(error), 200)}.",
                "Start again with --overwrite.",
            ) from error
        self.counts = list(self._count(inputs.num_rows))
        return settings, inputs

    def _count(self, most: int) -> Iterator[int]:
        for number in itertools.count():
            try:
                with self._shard(number).open("rb") as stream:
                    rows = pq.read_metadata(stream).num_rows
            except (OSError, ValueError, pa.ArrowException):
                return
            most -= rows
            if most < 0:
                return
            yield rows

    def append(self, rows: Sequence[Row]) -> None:
        """One more shard, on disk when this returns."""
        write_table(self._shard(len(self.counts)), "scores", rows, {})
        self.counts.append(len(rows))

    def replace(self, number: int, rows: Sequence[Row]) -> None:
        """Another content for a shard; as many rows."""
        assert len(rows) == self.counts[number]
        write_table(self._shard(number), "scores", rows, {})

    def read(self, number: int) -> list[dict[str, Any]]:
        """The rows of one shard."""
        try:
            table = read_parquet(self._shard(number))
            if table.schema != SCHEMAS["scores"]:
                raise ValueError("other columns")
            return table.to_pylist()  # type: ignore[no-any-return]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise AigcError(
                f"Expected a whole shard at {printable(str(self._shard(number)), 200)}, "
                f"found {printable(str(error), 200)}.",
                "Remove it and resume: its rows and those after it are computed again.",
            ) from error

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, one shard in memory at a time."""
        return itertools.chain.from_iterable(self.read(number) for number in range(len(self.counts)))

    def finish(self) -> None:
        """Marks that all rows are there."""
        write_json(self.folder / DONE, {"rows": sum(self.counts)})

    def publish(self) -> None:
        """Moves the joined table to its place; the note that goes with some formats first."""
        note = f"{self.joined.name}.meta.json"
        try:
            if (self.folder / note).exists():
                (self.folder / note).replace(self.output.with_name(f"{self.output.name}.meta.json"))
            self.joined.replace(self.output)
        except OSError as error:
            raise EnvironmentProblem(
                f"{self.output} could not be written: {error.strerror or error}.", "Make room for it."
            ) from error

    def clear(self) -> None:
        """Removes what was written here, the plan first, so that half of it is never taken for the whole."""
        rest = [path for kind in ("shard-*", "joined.*") for path in self.folder.glob(kind)]
        for path in (self.folder / SETTINGS, self.folder / INPUTS, *rest):
            path.unlink(missing_ok=True)
        sweep(self.folder)
        (self.folder / DONE).unlink(missing_ok=True)
        self.counts = []

    def remove(self) -> None:
        """Removes the folder, if it is there, unless somebody put a file of theirs into it."""
        if not self.folder.is_dir():
            return
        self.clear()
        with contextlib.suppress(OSError):
            if not self._foreign():
                (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _foreign(self) -> list[Path]:
        """What is not ours in the folder."""
        ours = {SETTINGS, INPUTS, DONE}
        return [
            e
            for e in self.folder.iterdir()
            if e.name not in ours and not e.name.startswith((TEMPORARY, "shard-", "joined."))
        ]

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:06}.parquet"


def batched(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` rows, the last one shorter."""
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
