"""Small pictures of images, for reports."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault

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
