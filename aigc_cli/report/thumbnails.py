"""Makes thumbnails for reports."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault

SIDE = 224  # pixels of the longer side: sharp on most screens, about 5 kB
QUALITY = 74
THREADS = 2


def make_thumbnails(paths: Sequence[Path | None]) -> Iterator[bytes | None]:
    """One WebP per path, in order, at most `SIDE` pixels a side; None where the path is None or can't be decoded."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(_make_thumbnail, paths)
        finally:
            pool.shutdown(cancel_futures=True)


def _make_thumbnail(path: Path | None) -> bytes | None:
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
