"""Text files beside images: `name.txt` holds the prompt of `name.png`."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from aigc_cli.images.folders import leads_outside
from aigc_cli.prompts.any_program import read_any_program
from aigc_cli.prompts.clean import collapse_spaces, to_text
from aigc_cli.prompts.record import GenerationRecord
from aigc_cli.regular_file import FileTooLarge, NotRegularFile, read_regular

MAX_SIDECAR_BYTES = 1 << 20
_JSON = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\"{\[\]])")  # {"  {}  ["  [{  [[  []
_SETTING = re.compile(
    r"^[ \t]*(seed|steps|sampler|scheduler|cfg|guidance|width|height|model)\b[^\n:=]{0,30}[:=]",
    re.IGNORECASE | re.MULTILINE,
)
_SETTINGS = 3  # different settings that make a text a list of settings


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The content of the text file beside an image.

    Attributes:
        digest: SHA-256 of the file's bytes, or the reason why the file was not read.
        record: the prompt and, if a program wrote the file, the settings; None when the file is not readable text.
    """

    digest: str
    record: GenerationRecord | None


def read_sidecar(image: Path, folder: Path) -> Sidecar | None:
    """Read the text file of an image, `name.txt` for `name.png`; None when there is no such file.

    A text that a program wrote (see `read_any_program`) is parsed like metadata. Other JSON and settings are not read.
    Any other text is the prompt itself, put on one line. The file is UTF-8, or UTF-16 with a byte order mark, and at
    most 1 MiB large. A link that leads out of `folder`, in which the images were searched, is not followed.
    """
    path = image.with_suffix(".txt")
    if not os.path.lexists(path):
        return None
    try:
        if leads_outside(path, folder):
            return Sidecar("a link out of the folder", None)
        data = read_regular(path, MAX_SIDECAR_BYTES)
    except (NotRegularFile, FileTooLarge):
        return Sidecar("not a regular file, or too large", None)
    except OSError as error:
        return Sidecar(f"not readable: {error.errno}", None)
    digest = hashlib.sha256(data).hexdigest()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeError:
        text = "\0"
    if "\0" in text:  # no text at all
        return Sidecar(digest, None)
    if (record := read_any_program(text)) is not None:
        return Sidecar(digest, record)
    if _is_data(text):
        return Sidecar(digest, None)
    raw = to_text(text).strip()
    return Sidecar(digest, GenerationRecord(prompt=collapse_spaces(raw) or None, raw=raw or None))


def _is_data(text: str) -> bool:
    """Whether a text is JSON or a list of settings, of a program that is not known; a prompt is neither."""
    return bool(_JSON.match(text)) or len({name.lower() for name in _SETTING.findall(text)}) >= _SETTINGS
