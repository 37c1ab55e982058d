"""The inputs of a scoring: listing them, and finding what changed before it is resumed."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import pyarrow as pa
from PIL import Image

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.folders import is_selected, leads_outside, list_images, place_in_folder
from aigc_cli.images.matching import find_nearest, match_names
from aigc_cli.images.sidecars import read_sidecar
from aigc_cli.regular_file import check_regular
from aigc_cli.storage.partial_table import INPUT_SCHEMA, split_batches
from aigc_cli.storage.unchanged import list_changes, refuse_changes
from aigc_cli.text import format_count, show_path, to_printable
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.scorer import BATCH, ImageEntry, Scorer, drop_blank_prompt

SHOWN_NAMES = 5
AT_ONCE = 4096  # entries converted at a time: those of a large folder together would raise the peak of memory
_NO_FILE = (None, None)


class FolderEntries(Sequence[ImageEntry]):
    """The images of a folder that `aigc score` scores. An entry is made when it is asked for, which saves memory.

    Attributes:
        unmatched: names in the table of prompts that mean no image of the folder.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], prompts: Mapping[str, str], prompt: str | None, unmatched: list[str]
    ) -> None:
        self.unmatched = unmatched
        self._before, self._names, self._prompts, self._prompt = str(folder / "x")[:-1], names, prompts, prompt
        self._special: dict[int, ImageEntry] = {}
        self._chosen = range(len(names))

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, index: slice) -> "FolderEntries": ...
    def __getitem__(self, index: int | slice) -> "ImageEntry | FolderEntries":
        if isinstance(index, slice):
            part = copy.copy(self)
            part._chosen = self._chosen[index]
            return part
        place = self._chosen[index]
        if (special := self._special.get(place)) is not None:
            return special
        name = self._names[place]
        source = "csv" if name in self._prompts else self._prompt and "option"
        return ImageEntry(name, f"{self._before}{name}", self._prompts.get(name, self._prompt), source)

    def update(self, change: Callable[[ImageEntry], ImageEntry]) -> None:
        """Keeps the entries that `change` returns in place of others."""
        for place in self._chosen:
            entry = self[place]
            if (changed := change(entry)) is not entry:
                self._special[place] = changed


def list_entries(folder: Path, prompts: Mapping[str, str], plan: ScoringPlan) -> FolderEntries:
    """Lists what `aigc score` scores: the folder's images by name, then other files that the table of prompts names.

    An image's prompt comes from `prompts` by its name (see `match_names`), else from `plan.prompt`, else from the text
    file beside it (see `read_sidecar`). An image without any of these keeps None: the scorer then reads the image's own
    metadata.

    Raises:
        AigcError: the folder does not exist or holds no such images, or the prompt is not UTF-8 text.
    """
    chosen = plan.selection
    try:
        prompt = plan.prompt and os.fsencode(plan.prompt).decode()  # a C locale leaves the bytes of UTF-8 as they are
    except UnicodeError as error:
        shown = to_printable(plan.prompt or "", 80)
        raise AigcError(f"Expected --prompt as UTF-8 text, found {shown}.", "Type it again.") from error
    names = list_images(folder, recursive=chosen.recursive, include=chosen.include, exclude=chosen.exclude)
    of, unmatched = _match_prompts(folder, prompts, names)
    others = [name for name in unmatched if os.path.lexists(folder / name)]  # below the folder, or of another suffix
    unmatched = [name for name in unmatched if name not in set(others)]
    others = [name for name in others if is_selected(name, chosen.include, chosen.exclude)]
    of |= {name: prompts[name] for name in others}
    entries = FolderEntries(folder, [*names, *others], of, drop_blank_prompt(prompt), unmatched)
    if len(of) < len(entries) and not drop_blank_prompt(prompt):
        entries.update(lambda entry: _add_sidecar(entry, folder) if entry.prompt is None else entry)
    if chosen.recursive:  # subfolders may hold anything; `aigc pick --link --symbolic` makes links in the folder itself
        entries.update(
            lambda entry: replace(entry, fault="link_outside") if leads_outside(folder / entry.name, folder) else entry
        )
    return entries


def _match_prompts(folder: Path, prompts: Mapping[str, str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({image: prompt}, names in the table that mean no image); both are relative to the folder."""
    given: dict[str, str] = {}
    for name, prompt in prompts.items():
        try:
            given[place_in_folder(folder, name, escaped=True).relative_to(folder).as_posix()] = prompt
        except AigcError:  # an image of another folder
            continue
    there = set(names) if given else set()
    found = {name: prompt for name, prompt in given.items() if name in there}
    rest = [name for name in given if name not in there]
    if rest:
        matched = match_names(rest, [name for name in names if name not in found])
        found |= {file: given[name] for name, file in matched.items()}
        rest = [name for name in rest if name not in matched]
    return found, rest


def explain_unmatched(table: Path, rows: int, names: Sequence[str], entries: Sequence[ImageEntry]) -> str:
    """Says how many rows of a table of prompts mean none of the images, with an example and the name nearest to it."""
    near = find_nearest(names[0], (entry.name for entry in entries))
    like = f"; the nearest is '{to_printable(near, 60)}'" if near else ""
    example = f"'{to_printable(names[0], 60)}'{like}"
    return f"{show_path(table)}: {len(names):,} of {format_count(rows, 'row')} fit no image, such as {example}."


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
        for chunk in inputs[column].chunks:  # one at a time: a large folder's texts would take much memory
            for value in chunk.to_pylist():
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
