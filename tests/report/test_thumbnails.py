"""Small pictures of images."""

import io
from pathlib import Path

from PIL import Image

from aigc_cli.report.thumbnails import SIDE, make_thumbnails


def test_a_picture_for_each_path_in_order(tmp_path: Path, noise_image: Image.Image) -> None:
    large, bad = tmp_path / "large.png", tmp_path / "bad.png"
    noise_image.resize((3 * SIDE, SIDE)).save(large)
    bad.write_bytes(b"no image")
    found = list(make_thumbnails([bad, large, None, tmp_path / "gone.png"]))
    assert [picture is None for picture in found] == [True, False, True, True]
    with Image.open(io.BytesIO(found[1] or b"")) as picture:
        assert (picture.format, max(picture.size)) == ("WEBP", SIDE)
