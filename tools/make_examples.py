"""Makes the images in `examples/` and their `prompts.csv` from photographs in the scikit-image package.

    pip download --no-deps -d parts scikit-image
    python -m tools.make_examples parts/scikit_image*.whl

Each of four photographs is there three times: as it is, harmed, and mirrored under another prompt. So it is known which
image is better and which prompt is wrong, and a test holds that the scorer says so. NOTICE has their origins.
"""

import argparse
import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from aigc_cli.images.degrade import distort

SIZE = 320  # pixels
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Photograph:
    """A photograph of the package, its prompt, a wrong prompt, and how it is harmed: (word, severities)."""

    file: str
    prompt: str
    wrong: str
    harm: tuple[str, dict[str, float]]


PHOTOGRAPHS = {
    "astronaut": Photograph(
        "astronaut.png",
        "a portrait of an astronaut in an orange suit",
        "a bowl of fruit on a table",
        ("blurred", {"blur": 0.5}),
    ),
    "cat": Photograph("chelsea.png", "a close-up of a tabby cat", "a red sports car", ("noisy", {"noise": 0.5})),
    "coffee": Photograph(
        "coffee.png",
        "a cup of coffee on a wooden table",
        "a snowy mountain under the moon",
        ("overcompressed", {"jpeg": 0.8}),
    ),
    "rocket": Photograph(
        "rocket.jpg", "a rocket launch at dusk", "a herd of horses", ("low-contrast", {"contrast": 0.6})
    ),
}


def make_examples(wheel: Path, folder: Path) -> None:
    """Writes the images as JPEG and their prompts to `folder`."""
    rows = []
    with zipfile.ZipFile(wheel) as package:
        for name, photograph in PHOTOGRAPHS.items():
            with Image.open(io.BytesIO(package.read(f"skimage/data/{photograph.file}"))) as opened:
                clean = ImageOps.fit(opened.convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS)
            word, severities = photograph.harm
            images = {
                "clean": (clean, photograph.prompt),
                word: (distort(clean, severities, np.random.default_rng(0)), photograph.prompt),
                "wrong-prompt": (ImageOps.mirror(clean), photograph.wrong),
            }
            for kind, (image, prompt) in images.items():
                image.save(folder / f"{name}-{kind}.jpg", quality=JPEG_QUALITY)
                rows.append((f"{name}-{kind}.jpg", prompt))
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("name", "prompt"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="the downloaded wheel of scikit-image")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parents[1] / "examples")
    arguments = parser.parse_args()
    make_examples(arguments.wheel, arguments.out)


if __name__ == "__main__":
    main()
