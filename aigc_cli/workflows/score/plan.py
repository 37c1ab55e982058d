"""What a scoring is about to score, and whether it is still the same when it goes on."""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from PIL import Image

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.folders import leads_outside, list_images, wanted
from aigc_cli.images.sidecars import read_sidecar
from aigc_cli.storage.partial_table import INPUT_SCHEMA
from aigc_cli.text import printable
from aigc_cli.workflows.score.scorer import BATCH, Entry, Scorer, prompt_or_none

SHOWN = 5
AT_ONCE = 4096  # entries as Python objects twice; of a large folder all at once would be seen in the peak of memory
_NO_FILE = (None, None)


@dataclass(frozen=True)
class Selection:
    """Which images of a folder are scored, see `list_images`."""

    recursive: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


def entries_of(
    folder: Path, prompts: Mapping[str, str] | None, prompt: str | None, selection: Selection | None = None
) -> list[Entry]:
    """What `aigc score` rates: the folder's images by name, then the table's rows that have no image.

    An image that neither the table nor `prompt` has a text for gets that of the file beside it, see `read_sidecar`;
    without one, its own metadata is asked when it is read.

    Args:
        folder: searched for images.
        prompts: {image name: prompt} from a table; it comes before `prompt`.
        prompt: one text for every image that the table has none for.
        selection: which of the folder's images; default: those in it, not below.

    Raises:
        AigcError: the folder is none or holds no such images, or the prompt is no text.
    """
    if prompt and prompt != prompt.encode("utf-8", "replace").decode():
        raise AigcError(f"Expected --prompt as UTF-8 text, found {printable(prompt, 80)}.", "Type it again.")
    chosen = selection or Selection()
    known = dict(prompts or {})
    names = list_images(folder, recursive=chosen.recursive, include=chosen.include, exclude=chosen.exclude)
    prompt = prompt_or_none(prompt)
    entries, before = [], str(folder / "x")[:-1]
    for name in names:
        entry = Entry(name, f"{before}{name}", known.get(name, prompt), "csv" if name in known else prompt and "option")
        if entry.prompt is None:
            entry = _with_sidecar(entry, folder)
        entries.append(_kept_inside(entry, folder) if chosen.recursive else entry)
    there = set(names)
    others = [name for name in known if name not in there and wanted(name, chosen.include, chosen.exclude)]
    rows = [Entry(name, folder / name, known[name], "csv") for name in others]
    return entries + ([_kept_inside(row, folder) for row in rows] if chosen.recursive else rows)


def _kept_inside(entry: Entry, folder: Path) -> Entry:
    """The entry, not to be opened where a link leads out of the folder.

    Only where folders below are searched, which may hold anything: the links in the folder itself are there for a
    reason, as those that `aigc pick --link --symbolic` makes.
    """
    assert not isinstance(entry.source, Image.Image)
    return replace(entry, fault="link_outside") if leads_outside(Path(entry.source), folder) else entry


def _with_sidecar(entry: Entry, folder: Path) -> Entry:
    assert not isinstance(entry.source, Image.Image)
    found = read_sidecar(Path(entry.source), folder)
    if found is None:
        return entry
    if found.recorded is None:
        return replace(entry, sidecar=found.digest, note="bad_sidecar")
    prompt = found.recorded.prompt
    source = "sidecar" if prompt else None
    return replace(entry, prompt=prompt, prompt_source=source, beside=found.recorded, sidecar=found.digest)


def settings_of(scorer: Scorer, folder: Path) -> dict[str, str]:
    """Everything beside the images and prompts that a table of scores depends on."""
    device = next(scorer.model.judge.heads.parameters()).device.type
    computed = {"device": device, "engine": scorer.engine, "batch": str(BATCH)}
    return {"aigc_version": __version__, **scorer.model.metadata(), "folder": printable(str(folder)), **computed}


def inputs_of(entries: Sequence[Entry]) -> pa.Table:
    """The entries with size and time of change of their files, null where there is no regular file."""
    parts = [_inputs(entries[start : start + AT_ONCE]) for start in range(0, max(1, len(entries)), AT_ONCE)]
    return pa.concat_tables(parts)


def _inputs(entries: Sequence[Entry]) -> pa.Table:
    signatures = [_signature(entry.source) for entry in entries]
    columns = [
        [os.fsencode(entry.name) for entry in entries],
        [entry.prompt for entry in entries],
        [entry.prompt_source for entry in entries],
        [entry.sidecar for entry in entries],
        *([pair[i] for pair in signatures] for i in (0, 1)),
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, INPUT_SCHEMA, strict=True)], schema=INPUT_SCHEMA)


def _signature(source: str | Path | Image.Image) -> tuple[int | None, int | None]:
    try:
        found = None if isinstance(source, Image.Image) else os.stat(source)  # noqa: PTH116  (a million times)
    except (OSError, ValueError):
        return _NO_FILE
    return (found.st_size, found.st_mtime_ns) if found and stat.S_ISREG(found.st_mode) else _NO_FILE


def digest_of_inputs(settings: Mapping[str, str], inputs: pa.Table) -> str:
    """SHA-256 over the settings, the names and the prompts; not over times of change, which a copy does not keep."""
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for column in ("name", "prompt", "prompt_source", "sidecar"):
        for value in inputs[column].to_pylist():
            text = value if isinstance(value, bytes) else b"" if value is None else value.encode()
            digest.update(b"%d %d\n" % (value is None, len(text)) + text)
    return digest.hexdigest()


def in_the_order_of(inputs: pa.Table, entries: Sequence[Entry]) -> list[Entry]:
    """The entries in the order that they were planned in: an image that was missing then has moved to the others.

    Raises:
        AigcError: there are others now; the message names some.
    """
    now = {os.fsencode(entry.name): entry for entry in entries}
    names = inputs["name"].to_pylist()
    gone, new = set(names) - now.keys(), now.keys() - set(names)
    lists = [f"{len(part)} {word}: {_some(part)}" for part, word in ((gone, "gone"), (new, "new")) if part]
    if lists:
        raise changed(f"the list of images ({'; '.join(lists)})")
    return [now[name] for name in names]


def check_unchanged(
    before: tuple[Mapping[str, str], pa.Table], now: tuple[Mapping[str, str], pa.Table], failed: Collection[int]
) -> None:
    """Compares settings and inputs, both in the same order, with those that an interrupted scoring began with.

    The bytes of an image count as changed when their number or their time of change is another one.

    Args:
        failed: rows whose image may be another one now, since they are tried again; so may one that was no file.

    Raises:
        AigcError: names what changed.
    """
    for key in sorted(before[0].keys() | now[0].keys()):
        then, today = (printable(str(settings.get(key)), 60) for settings in (before[0], now[0]))
        if before[0].get(key) != now[0].get(key):
            raise changed(f"{key.replace('_', ' ')} ({then} then, {today} now)")
    for columns, what in ((("prompt", "prompt_source", "sidecar"), "the prompt"), (("size", "mtime_ns"), "the bytes")):
        old, new = (list(zip(*(part[1][c].to_pylist() for c in columns), strict=True)) for part in (before, now))
        rows = [i for i, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
        if what == "the bytes":
            rows = [i for i in rows if i not in failed and old[i] != _NO_FILE]
        if rows:
            names = before[1]["name"].take(rows[:SHOWN]).to_pylist()
            raise changed(f"{what} of {len(rows)} image{'s' * (len(rows) != 1)} ({_some(names, len(rows))})")


def changed(what: str) -> AigcError:
    """The refusal to go on with something else."""
    return AigcError(
        f"Expected what the interrupted run began with, found a change: {what}.",
        "Undo the change to go on, or start again with --overwrite and without --resume.",
    )


def _some(names: Collection[bytes], count: int | None = None) -> str:
    shown = [printable(os.fsdecode(name), 60) for name in sorted(names)[:SHOWN]]
    return ", ".join(shown) + (", ..." if (count or len(names)) > len(shown) else "")
