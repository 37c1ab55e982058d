"""Writes the digests of the shipped weights, which `aigc doctor` compares."""

import hashlib
from pathlib import Path

from aigc_cli.storage.atomic_files import write_text
from aigc_cli.storage.tensors import SUMS


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file below `folder` to `folder`/SHA256SUMS, in the format of `sha256sum -c`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files
    ]
    write_text(folder / SUMS, "".join(lines))
