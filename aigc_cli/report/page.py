"""Reports: one HTML file about a table of results that works offline and asks no other host for anything.

Whatever stands in it that others wrote (prompts, names of files) is text: the template escapes it, and the script
reads it from a block of JSON and never as markup. A content-security policy admits this page's own script and style
by their hashes and nothing else. The same results give the same bytes, so nothing here reads a clock.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aigc_cli.images.folders import Finder
from aigc_cli.images.reader import REASONS
from aigc_cli.progress import Progress
from aigc_cli.report.thumbnails import thumbnails
from aigc_cli.storage.files import check_output, whole_file, write_text
from aigc_cli.storage.schemas import ERROR_BARS
from aigc_cli.text import printable

EMBEDDED = 2_000  # images; beyond it the file would take tens of megabytes, so thumbnails go beside it
PAGE = Path(__file__).with_name("assets")
SCRIPTS = ("state.js", "charts.js", "grid.js", "detail.js", "report.js")
SCORES = ("quality", "consistency", "human_quality", "human_consistency")
PARTS = ("quality_base", "quality_delta", "consistency_base", "consistency_delta", "clip_cosine", *ERROR_BARS)
CATEGORIES = ("table", "split", "generator", "model", "sampler", "prompt_source")  # filters
DETAILS = ("steps", "cfg", "seed", "width", "height", "prompt_truncated", "status", "reason")


@dataclass(frozen=True)
class Table:
    """A small table: cells are shown as they are, numbers to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot: the bytes of a PNG, and what it shows in words."""

    title: str
    png: bytes


@dataclass(frozen=True)
class Report:
    """What a page shows.

    Attributes:
        title: of the page.
        facts: {what: value} for its head: model, hash, settings, version.
        notes: paragraphs under the head.
        tables, figures: shown above the gallery.
        rows: of the gallery, with the columns of the scores table, and human_quality and human_consistency where
            there are such; None: no gallery.
        scale: the range of all scores.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    rows: Sequence[Mapping[str, Any]] | None = None
    scale: tuple[float, float] = (0.0, 5.0)


def check_report(path: Path, thumbs: Path | None = None, *, overwrite: bool) -> None:
    """Refuses a report that can't or must not be written, before anything is computed; raises as `check_output`."""
    check_output(path, overwrite=overwrite, suffixes=(".html",))
    if thumbs is not None:
        check_output(thumbs, overwrite=overwrite, suffixes=())


def write_report(path: Path, report: Report, progress: Progress, thumbs: Path | None = None) -> None:
    """Writes the page, and its thumbnails into the folder `thumbs`: always if it is named, by itself if there are many.

    Raises:
        EnvironmentProblem: the disk is full or the place can't be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    gallery = None if report.rows is None else _gallery(path, report, progress, thumbs)
    style = (PAGE / "report.css").read_text(encoding="utf-8")
    script = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("template.html").render(
        report=report,
        data=None if gallery is None else _embedded(gallery),
        present=[] if gallery is None else list(gallery["columns"]),
        scores=[name for name in SCORES if gallery is not None and name in gallery["columns"]],
        categories=[name for name in CATEGORIES if gallery is not None and _differs(gallery["columns"].get(name))],
        failed=[] if report.rows is None else list(_failed(report.rows)),
        figures=[(figure.title, _data_uri("image/png", figure.png)) for figure in report.figures],
        style=style,
        script=script,
        policy=_policy(style, script),
    )
    write_text(path, page)


def _differs(values: Sequence[Any] | None) -> bool:
    """Whether there is something to choose from."""
    return values is not None and len(set(values)) > 1


def _policy(style: str, script: str) -> str:
    """Own script and style by hash; pictures out of the page or from beside it; nothing else, and no connection."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "img-src 'self' data: file:",  # opened from a disk, 'self' is nobody
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII, so U+2028 is an escape as well
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&"})


def _gallery(path: Path, report: Report, progress: Progress, thumbs: Path | None) -> dict[str, Any]:
    rows = report.rows or ()
    columns: dict[str, list[Any]] = {"name": [printable(str(row["name"])) for row in rows]}
    for name in ("prompt", *SCORES, *PARTS, *CATEGORIES, *DETAILS):
        values = [row.get(name) for row in rows]
        if any(value is not None for value in values):
            columns[name] = [printable(value) if isinstance(value, str) else _rounded(value) for value in values]
    finder = Finder()
    files = [finder(row.get("path")) for row in rows]
    columns["path"] = [None if row.get("path") is None else printable(row["path"]) for row in rows]
    columns["link"] = [None if file is None else _link(file, path.parent) for file in files]
    columns["thumb"] = list(_thumbs(path, rows, files, progress, thumbs))
    names = json.dumps([columns["name"], dict(report.facts)], sort_keys=True)
    key = hashlib.sha256(names.encode()).hexdigest()[:16]  # whose favourites the browser keeps
    return {"columns": columns, "scale": list(report.scale), "key": key, "count": len(rows), "reasons": REASONS}


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _thumbs(
    path: Path, rows: Sequence[Mapping[str, Any]], files: Sequence[Path | None], progress: Progress, thumbs: Path | None
) -> Iterator[str | None]:
    """Where the page finds each thumbnail: in itself, or in a folder."""
    if thumbs is None and sum(file is not None for file in files) > EMBEDDED:
        thumbs = path.with_name(f"{path.stem}-thumbs")
        progress.say(f"More than {EMBEDDED:,} images: their thumbnails are in {thumbs}, which belongs to the report.")
    if thumbs is not None:
        thumbs.mkdir(parents=True, exist_ok=True)
    wanted = [file if row.get("status", "ok") == "ok" else None for file, row in zip(files, rows, strict=True)]
    progress.start("thumbnails", len(wanted))
    for number, picture in enumerate(thumbnails(wanted)):
        progress.advance(1)
        if picture is None:
            yield None
        elif thumbs is None:
            yield _data_uri("image/webp", picture)
        else:
            place = thumbs / f"{number:06}.webp"
            with whole_file(place, "wb") as stream:
                stream.write(picture)
            yield _link(place, path.parent)


def _link(file: Path, folder: Path) -> str:
    """A relative URL from the report's folder to a file where there is one, so that both may move together."""
    try:
        relative = Path(os.path.relpath(file.absolute(), folder.absolute()))
        return quote(os.fsencode(relative.as_posix()))
    except ValueError:  # another drive
        return file.absolute().as_uri()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _failed(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(name, reason, the reason in words) of each image without scores."""
    for row in rows:
        if row.get("status") == "failed":
            reasons = (row.get("reason") or "").split(",")
            yield printable(str(row["name"])), ", ".join(reasons), "; ".join(REASONS.get(word, "") for word in reasons)
