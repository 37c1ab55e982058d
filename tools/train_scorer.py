"""Trains the scorer that ships in the package, with the very workflow behind `aigc train`.

    python tools/train_scorer.py --data AGIQA-3K/data.csv --images AGIQA-3K/images

All prompts are trained on, so nothing is left to measure: its accuracy is that of the same recipe in cross-validation,
which README reports. The settings were chosen there, among recipes compared on prompts they had not seen.
"""

import argparse
import tempfile
from hashlib import sha256
from pathlib import Path

from aigc_cli.cli.console import Terminal
from aigc_cli.io.checkpoints import DESCRIPTION, SHIPPED, WEIGHTS, load_checkpoint, save_checkpoint
from aigc_cli.recipe import resolve
from aigc_cli.workflows.ratings import Source
from aigc_cli.workflows.train import train

SETTINGS = {"val_fraction": 0.0, "checkpoint": "last"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--recipe", default="scorer")
    parser.add_argument("-o", "--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    resolved = resolve(SETTINGS, arguments.recipe)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        train(resolved, Source(arguments.data, arguments.images), run, progress=Terminal(quiet=False))
        checkpoint = load_checkpoint(run)
    description = {**checkpoint.description, "trained_on": "AGIQA-3K, 2,383 images of 240 prompts"}
    halves = {name: tensor.half() for name, tensor in checkpoint.tensors.items() if tensor.is_floating_point()}
    save_checkpoint(arguments.out, {**checkpoint.tensors, **halves}, description)
    for name in (WEIGHTS, DESCRIPTION):
        path = arguments.out / name
        print(f"{sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>10,}  {name}")


if __name__ == "__main__":
    main()
