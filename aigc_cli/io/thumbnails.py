"""Small pictures of images, for reports."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from aigc_cli.io.decoder import decode_file
from aigc_cli.io.images import ImageFault
from aigc_cli.io.text import printable

SIDE = 224  # pixels of the longer side: sharp in a card on most screens, five kilobytes or so
QUALITY = 74
THREADS = 2


def thumbnails(paths: Sequence[Path | None]) -> Iterator[bytes | None]:
    """A WebP of at most `SIDE` pixels a side for each path, in order; None where there is no image to read."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(_thumbnail, paths)
        finally:
            pool.shutdown(cancel_futures=True)


def _thumbnail(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        image = decode_file(path).image
    except ImageFault:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    return stream.getvalue()


class Finder:
    """Files by the paths that a table shows, where characters that could harm a terminal are escaped."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def __call__(self, shown: str | None) -> Path | None:
        """The file that is meant, None where there is none."""
        if shown is None:
            return None
        try:
            path = Path(shown)
            if "\\" in shown and not path.is_file():
                path = self._meant(path)
            return path if path.is_file() else None
        except (OSError, ValueError):
            return None

    def _meant(self, path: Path) -> Path:
        """The path whose parts are shown so; a part of which there is none stays."""
        found = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            if "\\" in part and not (found / part).exists():
                if found not in self._folders:
                    self._folders[found] = {printable(entry.name): entry for entry in found.iterdir()}
                found = self._folders[found].get(part, found / part)
            else:
                found /= part
        return found
