"""Text files beside images: `name.txt` holds the prompt of `name.png`."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from aigc_cli.images.folders import leads_outside
from aigc_cli.prompts.clean import as_text, one_line
from aigc_cli.prompts.programs import Recorded, is_infotext, read_infotext

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a text file says.

    Attributes:
        digest: SHA-256 of its bytes; what is wrong with it where it could not be read.
        recorded: prompt and, if Automatic1111 wrote the file, settings; None where it could not be read.
    """

    digest: str
    recorded: Recorded | None


def read_sidecar(image: Path, folder: Path) -> Sidecar | None:
    """The text file of an image, `name.txt` beside `name.png`; None where there is none.

    A file that Automatic1111 wrote (its option to save texts) is read as its metadata is; any other is the prompt
    itself, as it stands, on one line. UTF-8, or UTF-16 with a byte order mark; 1 MiB at most.

    Args:
        folder: that the images were searched in; a link out of it is not followed.
    """
    path = image.with_suffix(".txt")
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return None
    try:
        if leads_outside(path, folder):
            return Sidecar("a link out of the folder", None)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return Sidecar("no file, or too large", None)
        data = path.read_bytes()
    except OSError as error:
        return Sidecar(f"not readable: {error.errno}", None)
    digest = hashlib.sha256(data).hexdigest()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeError:
        return Sidecar(digest, None)
    if "\0" in text:
        return Sidecar(digest, None)
    if is_infotext(text):
        return Sidecar(digest, read_infotext(text))
    raw = as_text(text).strip()
    return Sidecar(digest, Recorded(prompt=one_line(raw) or None, raw=raw or None))
