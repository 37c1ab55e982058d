"""The inputs of a scoring: listing them, and finding what changed before it is resumed."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from PIL import Image

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.folders import is_selected, leads_outside, list_images
from aigc_cli.images.sidecars import read_sidecar
from aigc_cli.regular_file import check_regular
from aigc_cli.storage.partial_table import INPUT_SCHEMA, split_batches
from aigc_cli.storage.unchanged import list_changes, refuse_changes
from aigc_cli.text import format_count, to_printable
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.scorer import BATCH, ImageEntry, Scorer, drop_blank_prompt

SHOWN_NAMES = 5
AT_ONCE = 4096  # entries converted at a time: those of a large folder together would raise the peak of memory
_NO_FILE = (None, None)


def list_entries(folder: Path, prompts: Mapping[str, str], plan: ScoringPlan) -> list[ImageEntry]:
    """Lists what `aigc score` scores: the folder's images by name, then the table's rows that have no image.

    An image's prompt comes from `prompts` by its name, else from `plan.prompt`, else from the text file beside it (see
    `read_sidecar`). An image without any of these keeps None: the scorer then reads the image's own metadata.

    Raises:
        AigcError: the folder does not exist or holds no such images, or the prompt is not UTF-8 text.
    """
    prompt, chosen = plan.prompt, plan.selection
    if prompt and prompt != prompt.encode("utf-8", "replace").decode():
        raise AigcError(f"Expected --prompt as UTF-8 text, found {to_printable(prompt, 80)}.", "Type it again.")
    names = list_images(folder, recursive=chosen.recursive, include=chosen.include, exclude=chosen.exclude)
    prompt = drop_blank_prompt(prompt)
    entries, before = [], str(folder / "x")[:-1]
    for name in names:
        source = "csv" if name in prompts else prompt and "option"
        entry = ImageEntry(name, f"{before}{name}", prompts.get(name, prompt), source)
        entries.append(_add_sidecar(entry, folder) if entry.prompt is None else entry)
    there = set(names)
    others = [name for name in prompts if name not in there and is_selected(name, chosen.include, chosen.exclude)]
    entries += [ImageEntry(name, folder / name, prompts[name], "csv") for name in others]
    if chosen.recursive:  # subfolders may hold anything; `aigc pick --link --symbolic` makes links in the folder itself
        outside = [leads_outside(folder / entry.name, folder) for entry in entries]
        entries = [replace(e, fault="link_outside") if out else e for e, out in zip(entries, outside, strict=True)]
    return entries


def _add_sidecar(entry: ImageEntry, folder: Path) -> ImageEntry:
    found = read_sidecar(folder / entry.name, folder)
    if found is None:
        return entry
    if found.record is None:
        return replace(entry, sidecar=found.digest, note="bad_sidecar")
    source = "sidecar" if found.record.prompt else None
    return replace(entry, prompt=found.record.prompt, prompt_source=source, beside=found.record, sidecar=found.digest)


def describe_scoring(scorer: Scorer, folder: Path) -> dict[str, str]:
    """The settings that a table of scores depends on, besides the images and prompts."""
    model, network = {"aigc_version": __version__, **scorer.saved.make_metadata()}, scorer.network
    machine = {"device": network.device, "engine": network.engine, "batch": str(BATCH)}
    return model | {"folder": to_printable(str(folder)), **machine}


def list_inputs(entries: Sequence[ImageEntry]) -> pa.Table:
    """The entries with size and modification time of their files; null where there is no regular file."""
    tables = [INPUT_SCHEMA.empty_table()]
    for batch in split_batches(entries, AT_ONCE):
        rows = [(os.fsencode(e.name), e.prompt, e.prompt_source, e.sidecar, *_stat_source(e.source)) for e in batch]
        tables.append(pa.Table.from_arrays(list(zip(*rows, strict=True)), schema=INPUT_SCHEMA))
    return pa.concat_tables(tables)


def _stat_source(source: str | Path | Image.Image) -> tuple[int | None, int | None]:
    try:
        found = None if isinstance(source, Image.Image) else check_regular(source)
    except (OSError, ValueError):
        return _NO_FILE
    return (found.st_size, found.st_mtime_ns) if found else _NO_FILE


def hash_inputs(settings: Mapping[str, str], inputs: pa.Table) -> str:
    """SHA-256 over the settings, names and prompts, but not over modification times, which copying changes."""
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for column in ("name", "prompt", "prompt_source", "sidecar"):
        for value in inputs[column].to_pylist():
            text = value if isinstance(value, bytes) else b"" if value is None else value.encode()
            digest.update(b"%d %d\n" % (value is None, len(text)) + text)
    return digest.hexdigest()


def restore_order(inputs: pa.Table, entries: Sequence[ImageEntry], place: Path) -> list[ImageEntry]:
    """Sorts the entries as they were planned; AigcError if images were added or removed."""
    now = {os.fsencode(entry.name): entry for entry in entries}
    names = inputs["name"].to_pylist()
    gone, new = set(names) - now.keys(), now.keys() - set(names)
    lists = [f"{len(part)} {word}: {_show_names(part)}" for part, word in ((gone, "gone"), (new, "new")) if part]
    refuse_scoring_changes(place, [f"the list of images ({'; '.join(lists)})"] if lists else [])
    return [now[name] for name in names]


def find_changes(
    before: tuple[Mapping[str, str], pa.Table], now: tuple[Mapping[str, str], pa.Table], failed: Collection[int]
) -> list[str]:
    """Describes the settings and inputs that changed since a scoring began; both tables have the same order.

    An image counts as changed when its size or modification time differs, unless its row is in `failed` (it is tried
    again) or had no file.
    """
    keys = sorted(before[0].keys() | now[0].keys())
    changes = list_changes(before[0], {key: now[0].get(key) for key in keys})
    for columns, what in ((("prompt", "prompt_source", "sidecar"), "the prompt"), (("size", "mtime_ns"), "the bytes")):
        old, new = (list(zip(*(part[1][c].to_pylist() for c in columns), strict=True)) for part in (before, now))
        rows = [i for i, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
        if what == "the bytes":
            rows = [i for i in rows if i not in failed and old[i] != _NO_FILE]
        if rows:
            names = before[1]["name"].take(rows[:SHOWN_NAMES]).to_pylist()
            changes.append(f"{what} of {format_count(len(rows), 'image')} ({_show_names(names, len(rows))})")
    return changes


def refuse_scoring_changes(place: Path, changes: Sequence[str]) -> None:
    """Raises AigcError if anything changed since an interrupted scoring began."""
    hint = "Undo the change to go on, or start again with --overwrite and without --resume."
    refuse_changes("the scoring", place, changes, hint)


def _show_names(names: Collection[bytes], count: int | None = None) -> str:
    shown = [to_printable(os.fsdecode(name), 60) for name in sorted(names)[:SHOWN_NAMES]]
    return ", ".join(shown) + (", ..." if (count or len(names)) > len(shown) else "")
