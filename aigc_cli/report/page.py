"""Writes reports: one HTML file that works offline and loads nothing from another host.

Prompts and file names are untrusted. The template escapes them, the script reads them from a block of JSON and shows
them as text only, and a content security policy allows just the page's own script and style, by hash. The same results
give the same bytes: the page holds no date.
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

from aigc_cli.images.folders import FileFinder
from aigc_cli.images.reader import REASONS
from aigc_cli.mos_scale import DEFAULT_SCALE, MosScale
from aigc_cli.progress import Progress
from aigc_cli.report.page_output import MAX_EMBEDDED, PageOutput
from aigc_cli.report.thumbnails import make_thumbnails
from aigc_cli.storage.atomic_files import check_output, open_atomic, write_text
from aigc_cli.storage.schemas import ERROR_BARS
from aigc_cli.text import to_printable

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("state.js", "charts.js", "grid.js", "detail.js", "report.js")
SCORE_COLUMNS = ("quality", "consistency", "human_quality", "human_consistency")
PARTS = ("quality_base", "quality_delta", "consistency_base", "consistency_delta", "clip_cosine", *ERROR_BARS)
CATEGORIES = ("table", "split", "generator", "model", "sampler", "prompt_source")  # filters
DETAILS = ("steps", "cfg", "seed", "width", "height", "prompt_split", "status", "reason")


@dataclass(frozen=True)
class PageTable:
    """A small table of texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class PageFigure:
    """A plot: what it shows, in words, and the bytes of a PNG."""

    title: str
    png: bytes


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes:
        title: title of the page.
        facts: {name: value} below the title: model, hash, settings, version.
        notes: paragraphs below the facts.
        tables, figures: shown above the gallery.
        rows: images of the gallery, with columns of the scores table and optionally human_quality and
            human_consistency; None: no gallery.
        scale: MOS scale of all scores.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()
    rows: Sequence[Mapping[str, Any]] | None = None
    scale: MosScale = DEFAULT_SCALE


def write_page(output: PageOutput, page: Page, progress: Progress) -> None:
    """Writes the page and its thumbnails.

    Raises:
        EnvironmentProblem: the disk is full or the folder can't be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    gallery = None if page.rows is None else _make_gallery(output, page, progress)
    columns = {} if gallery is None else gallery["columns"]
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("template.html").render(
        report=page,
        data=None if gallery is None else _embed_json(gallery),
        present=list(columns),
        scores=[name for name in SCORE_COLUMNS if name in columns],
        categories=[name for name in CATEGORIES if len(set(columns.get(name, ()))) > 1],  # one value needs no filter
        failed=list(_list_failed(page.rows or ())),
        figures=[(figure.title, _make_data_uri("image/png", figure.png)) for figure in page.figures],
        style=style,
        script=script,
        policy=_make_policy(style, script),
    )
    write_text(output.path, html)


def _make_policy(style: str, script: str) -> str:
    """Allows the page's own script and style by hash, and images in the page or on the same disk; nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash_source(script)}",
            f"style-src {_hash_source(style)}",
            "img-src 'self' data: file:",  # a page opened from a disk has no origin that 'self' could match
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embed_json(value: Any) -> str:
    """JSON for a script element: it contains no character that can end the element or start another."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 is escaped too
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&"})


def _make_gallery(output: PageOutput, page: Page, progress: Progress) -> dict[str, Any]:
    rows = page.rows or ()
    columns: dict[str, list[Any]] = {"name": [to_printable(str(row["name"])) for row in rows]}
    for name in ("prompt", *SCORE_COLUMNS, *PARTS, *CATEGORIES, *DETAILS):
        values = [row.get(name) for row in rows]
        if any(value is not None for value in values):
            columns[name] = [to_printable(value) if isinstance(value, str) else _round(value) for value in values]
    finder = FileFinder()
    files = [finder(row.get("path")) for row in rows]
    columns["path"] = [None if row.get("path") is None else to_printable(row["path"]) for row in rows]
    columns["link"] = [None if file is None else _make_link(file, output.path.parent) for file in files]
    columns["thumb"] = list(_place_thumbnails(output, rows, files, progress))
    names = json.dumps([columns["name"], dict(page.facts)], sort_keys=True)
    key = hashlib.sha256(names.encode()).hexdigest()[:16]  # under which the browser stores the favourites of this page
    scale = [page.scale.low, page.scale.high]
    return {"columns": columns, "scale": scale, "key": key, "count": len(rows), "reasons": REASONS}


def _round(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _place_thumbnails(
    output: PageOutput, rows: Sequence[Mapping[str, Any]], files: Sequence[Path | None], progress: Progress
) -> Iterator[str | None]:
    """Yields the URL of each thumbnail: a data URI, or a link into the thumbnail folder."""
    path, thumbs = output.path, output.thumbs
    if thumbs is None and sum(file is not None for file in files) > MAX_EMBEDDED:
        thumbs = path.with_name(f"{path.stem}-thumbs")
        progress.say(f"More than {MAX_EMBEDDED:,} images: thumbnails are in {thumbs}. Keep it with the report.")
    if thumbs is not None:
        check_output(thumbs, overwrite=True, suffixes=(), option="--thumbs")
        thumbs.mkdir(parents=True, exist_ok=True)
    wanted = [file if row.get("status", "ok") == "ok" else None for file, row in zip(files, rows, strict=True)]
    progress.start("thumbnails", len(wanted))
    for number, picture in enumerate(make_thumbnails(wanted)):
        progress.advance(1)
        if picture is None:
            yield None
        elif thumbs is None:
            yield _make_data_uri("image/webp", picture)
        else:
            place = thumbs / f"{number:06}.webp"
            with open_atomic(place, "wb") as stream:
                stream.write(picture)
            yield _make_link(place, path.parent)


def _make_link(file: Path, folder: Path) -> str:
    """Relative URL from the report's folder to a file, so that both can move together; absolute on another drive."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix()))
    except ValueError:  # on another drive there is no relative path
        return file.absolute().as_uri()


def _make_data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _list_failed(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yields (name, reason, reason in words) of each image without scores."""
    for row in rows:
        if row.get("status") == "failed":
            reasons = (row.get("reason") or "").split(",")
            texts = "; ".join(REASONS.get(word, "") for word in reasons)
            yield to_printable(str(row["name"])), ", ".join(reasons), texts
