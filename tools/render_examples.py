"""Renders the images in `examples/` and their `prompts.csv`; the same Pillow gives the same bytes.

    python tools/render_examples.py [--out examples]

Some images are clean, some are degraded, some do not match their prompt, so that their scores differ.
"""

import argparse
import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aigc_cli.images.degrade import distort
from aigc_cli.images.demo import PlacedObject, paint

SIZE = 256  # pixels
JPEG_QUALITY = 82


@dataclass(frozen=True)
class Example:
    """One image.

    Attributes:
        prompt: its prompt, which the image may not match.
        background: a key of `demo.BACKGROUNDS`.
        objects: what is drawn; later objects cover earlier ones.
        severities: distortions, see `degrade.distort`; empty for a clean image.
    """

    prompt: str
    background: str
    objects: list[PlacedObject]
    severities: dict[str, float] = field(default_factory=dict)


CIRCLES: list[PlacedObject] = [("circle", "red", 0.3, 0.5, 0.36), ("circle", "red", 0.7, 0.5, 0.36)]
COTTAGE: list[PlacedObject] = [
    ("sun", "yellow", 0.8, 0.19, 0.28),
    ("tree", "green", 0.16, 0.5, 0.36),
    ("tree", "green", 0.87, 0.6, 0.3),
    ("house", "red", 0.5, 0.57, 0.46),
    ("flower", "pink", 0.16, 0.84, 0.2),
    ("flower", "yellow", 0.3, 0.88, 0.16),
    ("flower", "purple", 0.74, 0.86, 0.18),
]
BOATS: list[PlacedObject] = [
    ("sun", "orange", 0.2, 0.2, 0.22),
    ("boat", "blue", 0.78, 0.36, 0.22),
    ("boat", "red", 0.42, 0.54, 0.5),
]
CUPS: list[PlacedObject] = [("cup", "purple", 0.34, 0.56, 0.44), ("cup", "green", 0.74, 0.62, 0.34)]
BALLOONS: list[PlacedObject] = [
    ("balloon", "pink", 0.24, 0.4, 0.42),
    ("balloon", "yellow", 0.72, 0.32, 0.4),
    ("balloon", "red", 0.5, 0.58, 0.5),
]
NIGHT: list[PlacedObject] = [
    ("circle", "green", 0.5, 1.52, 1.6),
    ("moon", "yellow", 0.76, 0.22, 0.28),
    ("star", "yellow", 0.2, 0.16, 0.08),
    ("star", "yellow", 0.42, 0.28, 0.06),
    ("tree", "green", 0.18, 0.72, 0.48),
    ("house", "orange", 0.58, 0.72, 0.46),
]

COTTAGE_PROMPT = "a red house under a yellow sun in a green meadow"
BOATS_PROMPT = "a red boat and a blue boat at sea"

EXAMPLES = {
    "red-circles-clean.jpg": Example("two red circles on a white background", "white", CIRCLES),
    "red-circles-blurred.jpg": Example("two red circles on a white background", "white", CIRCLES, {"blur": 0.8}),
    "cottage-clean.jpg": Example(COTTAGE_PROMPT, "meadow", COTTAGE),
    "cottage-noisy.jpg": Example(COTTAGE_PROMPT, "meadow", COTTAGE, {"noise": 0.33}),
    "boats-clean.jpg": Example(BOATS_PROMPT, "sea", BOATS),
    "boats-overcompressed.jpg": Example(BOATS_PROMPT, "sea", BOATS, {"jpeg": 0.9}),
    "cups-low-contrast.jpg": Example(
        "a purple cup and a green cup on a wooden table", "table", CUPS, {"contrast": 0.8}
    ),
    "moonlit-house-clean.jpg": Example("an orange house and a green tree under the moon at night", "night", NIGHT),
    "balloons-clean.jpg": Example("three balloons in a cloudy sky", "sky", BALLOONS),
    "blue-star-wrong-colour.jpg": Example(
        "a blue star above a green square",
        "paper",
        [("star", "orange", 0.5, 0.28, 0.42), ("square", "green", 0.5, 0.72, 0.38)],
    ),
    "pink-flowers-wrong-count.jpg": Example(
        "four pink flowers in a green meadow", "meadow", [("flower", "pink", 0.5, 0.56, 0.66)]
    ),
    "red-heart-wrong-everything.jpg": Example(
        "a red heart on old paper", "sea", [("fish", "orange", 0.36, 0.66, 0.4), ("fish", "purple", 0.74, 0.8, 0.26)]
    ),
}


def render_examples(folder: Path) -> None:
    """Writes every example and `prompts.csv` into `folder`; creates it if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, example in EXAMPLES.items():
        rng = np.random.default_rng(3)
        image = distort(paint(example.background, example.objects, SIZE, rng), example.severities, rng)
        image.save(folder / name, "JPEG", quality=JPEG_QUALITY)
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["name", "prompt"])
        table.writerows([name, example.prompt] for name, example in EXAMPLES.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "examples", help="folder to write to")
    render_examples(parser.parse_args().out)


if __name__ == "__main__":
    main()
