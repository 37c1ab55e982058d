"""Trains the scorer that ships in the package, with the very workflow behind `aigc train`.

    python tools/train_scorer.py --data AGIQA-3K/data.csv --images AGIQA-3K/images --calibrate-folds 5

All prompts are trained on, so nothing is left to measure: its accuracy is that of the same recipe in cross-validation,
which README reports. On one thread, so that sums are taken in one order and the artefact is the same again.

To keep the package under 40 MB the fine-tuned matrices of the backbone are stored in eight bits by row, the rest in
float16. The script prints what that does to the scores. Its error bars are computed for that small form, from images
that other trainings of the same recipe did not see: five more of them (--calibrate-folds 5), or those that an ablation,
a run or `aigc eval --predictions` left (--calibrate-from).
"""

import argparse
import tempfile
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch

from aigc_cli import Scorer
from aigc_cli.cli.console import Terminal
from aigc_cli.recipe import resolve
from aigc_cli.storage.checkpoints import CALIBRATION, DESCRIPTION, SHIPPED, WEIGHTS, load_checkpoint, save_checkpoint
from aigc_cli.storage.tensors import write_sums
from aigc_cli.workflows.experiment.predictions import PREDICTIONS
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.train.held_out import Calibrating, calibrate_checkpoint
from aigc_cli.workflows.train.train import train

CHECKED = 200


def ship(run: Path, target: Path) -> None:
    """Writes the run's checkpoint to `target` in its small form; of one that is small already nothing changes."""
    checkpoint = load_checkpoint(run)
    tensors = checkpoint.tensors
    eight_bit = frozenset(name for name, t in tensors.items() if name.startswith("backbone.") and t.ndim > 1)
    small = {n: t.half() if t.is_floating_point() and n not in eight_bit else t for n, t in tensors.items()}
    description = {**checkpoint.description, "trained_on": "AGIQA-3K, 2,383 images of 240 prompts"}
    save_checkpoint(target, small, description, eight_bit, checkpoint.calibration)


def compare(run: Path, target: Path, data: Path, images: Path) -> None:
    """Prints how far the small form's scores are from those of the run."""
    table = pd.read_csv(data, dtype=str, keep_default_na=False).iloc[::12].head(CHECKED)
    paths, prompts = [images / name for name in table["name"]], list(table["prompt"])
    full, small = (Scorer.load(place).score(images=paths, prompts=prompts) for place in (run, target))
    for score in ("quality", "consistency"):
        gap = (full[score] - small[score]).abs()
        order = full[score].corr(small[score], method="spearman")
        print(f"{score}: largest change {gap.max():.4f} MOS, mean {gap.mean():.4f}, SROCC with the run {order:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--recipe", default="scorer")
    parser.add_argument("--run", type=Path, help="keep the run in this folder, or use the one that is there")
    parser.add_argument("--calibrate-folds", type=int, default=0, help="error bars from so many further trainings")
    parser.add_argument("--calibrate-from", type=Path, help="error bars from such trainings, see `aigc train`")
    parser.add_argument("-o", "--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source, progress = Source(arguments.data, arguments.images), Terminal(quiet=False)
    with tempfile.TemporaryDirectory() as scratch:
        run = arguments.run or Path(scratch) / "run"
        if not run.exists():
            resolved = resolve({"val_fraction": 0.0}, arguments.recipe)
            bars = Calibrating(arguments.calibrate_folds, arguments.calibrate_from)
            train(resolved, source, run, progress=progress, calibrating=bars)
        ship(run, arguments.out)
        compare(run, arguments.out, arguments.data, arguments.images)
        if arguments.calibrate_from or arguments.calibrate_folds:
            predictions = arguments.calibrate_from or run / PREDICTIONS
            print(calibrate_checkpoint(arguments.out, source, predictions, progress=progress))
            ship(arguments.out, arguments.out)
    if arguments.out == SHIPPED:
        write_sums(SHIPPED.parent)
    for path in (arguments.out / name for name in (WEIGHTS, CALIBRATION, DESCRIPTION)):
        if not path.exists():
            continue
        print(f"{sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>10,}  {path.name}")


if __name__ == "__main__":
    main()
