"""The answers of `aigc rate`: a CSV file to which each answer is appended and synced before the next question."""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc_cli.errors import AigcError, explain_os_errors
from aigc_cli.images.sample import MOS_COLUMNS, STD_COLUMNS, TARGETS, Sample
from aigc_cli.regular_file import check_regular
from aigc_cli.storage.atomic_files import write_text
from aigc_cli.storage.csv_tables import read_table
from aigc_cli.storage.pair_tables import PAIR_COLUMNS
from aigc_cli.storage.rating_tables import RATER, RATERS, average_raters

ANSWER, AGAIN, SKIP, UNDO = "answer", "again", "skip", "undo"
LOWEST, HIGHEST = 1, 5  # of a rating


@dataclass(frozen=True)
class Answer:
    """One row of the answers.

    Attributes:
        id: given by the page, so that an answer that is sent twice counts once.
        time: when it was given, ISO 8601 in UTC.
        kind: answer, again (the question had been asked before), skip, or undo.
        image, other: the name of the image; of the second one where two are compared.
        quality, consistency: 1 to 5, or a, b or tie; empty where not asked or not answered.
        seconds: from showing the question to the answer.
        undoes: the id of the answer that an undo takes back.
    """

    id: str
    time: str
    rater: str
    kind: str
    image: str
    other: str = ""
    prompt: str = ""
    quality: str = ""
    consistency: str = ""
    seconds: str = ""
    undoes: str = ""

    @property
    def images(self) -> tuple[str, ...]:
        """The one or two images."""
        return (self.image, self.other) if self.other else (self.image,)


ANSWER_COLUMNS = tuple(field.name for field in dataclasses.fields(Answer))


class AnswerLog:
    """Answers on disk. The caller holds the file's lock.

    Raises:
        AigcError: the file is another table.
        EnvironmentProblem: it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explain_os_errors(f"{path} could not be written", "Choose another place with -o."):
            self.rows = self._open()
            self._stream = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
        self._ids = {row.id for row in self.rows}

    def _open(self) -> list[Answer]:
        try:
            check_regular(self.path)
            text = self.path.read_bytes()
        except FileNotFoundError:
            text = b""
        whole = text[: text.rfind(b"\n") + 1]  # the program was killed within a line: nobody was told that it is saved
        if not whole:
            write_text(self.path, _format_row(ANSWER_COLUMNS))
            return []
        if whole != text:
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))
                os.fsync(stream.fileno())
        return read_answers(self.path)

    def add(self, answer: Answer) -> bool:
        """Appends the answer and syncs the file; False for an id that is there already."""
        if answer.id in self._ids:
            return False
        with explain_os_errors(f"{self.path} could not be written", "Free some space and start again."):
            line = _format_row([getattr(answer, name) for name in ANSWER_COLUMNS]).encode()
            while line:
                line = line[os.write(self._stream, line) :]
            os.fsync(self._stream)
        self.rows.append(answer)
        self._ids.add(answer.id)
        return True

    def close(self) -> None:
        os.close(self._stream)


def read_answers(path: Path) -> list[Answer]:
    """All rows of a file of answers, in order; AigcError if it is another table."""
    if path.read_bytes() == _format_row(ANSWER_COLUMNS).encode():
        return []  # nothing was answered yet
    table = read_table(path)
    if tuple(table.columns) != ANSWER_COLUMNS:
        raise AigcError(f"Expected answers of `aigc rate` in {path}, found another table.", "Choose another -o.")
    return [Answer(**row) for row in table.to_dicts()]


def _format_row(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([" ".join(cell.splitlines()) for cell in cells])
    return out.getvalue()


def drop_undone(rows: Iterable[Answer]) -> list[Answer]:
    """The answers and skips that were not taken back, in order."""
    rows = list(rows)
    undone = {row.undoes for row in rows if row.kind == UNDO}
    return [row for row in rows if row.kind != UNDO and row.id not in undone]


def list_given(rows: Iterable[Answer]) -> list[Answer]:
    """The answers that count: not taken back, and not skipped."""
    return [row for row in drop_undone(rows) if row.kind != SKIP]


def write_ratings(path: Path, rows: Iterable[Answer]) -> None:
    """Writes the table of ratings that `aigc train` reads: the means over raters of each image."""
    samples = []
    for row in list_given(rows):
        scores = [float(value) if (value := getattr(row, target)) else None for target in TARGETS]
        groups = {RATER: row.rater}
        samples.append(Sample(row.image, Path(row.image), row.prompt or None, scores[0], scores[1], groups))
    found = average_raters([one for one in samples if one.mos_quality or one.mos_align], str(path))
    columns = ("name", "prompt", *(c for t in TARGETS for c in (MOS_COLUMNS[t], STD_COLUMNS[t])), RATERS)

    def make_row(sample: Sample) -> list[str]:
        cells = [sample.name, sample.prompt or ""]
        for target in TARGETS:
            mos = sample.get_mos(target)
            cells += ["" if mos is None else f"{mos:.6g}", sample.groups[STD_COLUMNS[target]]]
        return [*cells, sample.groups[RATERS]]

    _write(path, columns, [make_row(sample) for sample in found])


def write_pairs(path: Path, rows: Iterable[Answer]) -> None:
    """Writes the table of choices that `aigc train --pairs` reads: a row for each question."""
    cells = [
        [row.prompt, row.image, row.other, value, target, row.rater]
        for row in list_given(rows)
        for target in TARGETS
        if (value := getattr(row, target))
    ]
    _write(path, PAIR_COLUMNS, cells)


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    write_text(path, "".join(map(_format_row, [columns, *rows])))
