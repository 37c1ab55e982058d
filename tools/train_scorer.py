"""Trains the scorer that ships in the package, with the same workflow as `aigc train`.

    python tools/train_scorer.py --data AGIQA-3K/data.csv --images AGIQA-3K/images --calibrate-folds 5

It trains on all prompts, so its accuracy can't be measured on them: docs/accuracy.md reports a cross-validation of the
same recipe. One thread fixes the order of sums, so that another run gives the same file.

To keep the package under 40 MB, the fine-tuned matrices of the backbone are stored in eight bits for each row, the rest
in float16. The script prints how much this changes the scores. The calibration is fitted for this small form, on
predictions of models that had not seen the prompts: K more trainings (--calibrate-folds K), or the predictions of an
ablation, a cross-validation or a run (--calibrate-from).
"""

import argparse
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aigc_cli import Scorer
from aigc_cli.cli.console import Terminal
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.checkpoints import (
    CALIBRATION,
    DESCRIPTION,
    SHIPPED_SCORER,
    WEIGHTS,
    load_checkpoint,
    save_checkpoint,
)
from aigc_cli.workflows.experiment.predictions import PREDICTIONS
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource, calibrate_checkpoint
from aigc_cli.workflows.train.train import train_model
from tools.sums import write_sums

COMPARED_IMAGES = 200


def save_small(run: Path, target: Path) -> None:
    """Writes the run's checkpoint to `target` in its small form; doing so twice changes nothing."""
    checkpoint = load_checkpoint(run)
    tensors = checkpoint.tensors
    eight_bit = frozenset(name for name, t in tensors.items() if name.startswith("backbone.") and t.ndim > 1)
    halved = {name for name, t in tensors.items() if np.issubdtype(t.dtype, np.floating)} - eight_bit
    small = {name: t.astype(np.float16) if name in halved else t for name, t in tensors.items()}
    description = {**checkpoint.description, "trained_on": "AGIQA-3K, 2,383 images of 240 prompts"}
    save_checkpoint(target, small, description, eight_bit, checkpoint.calibration)


def compare_scores(run: Path, target: Path, data: Path, images: Path) -> None:
    """Prints how much the scores of the small form differ from those of the run."""
    table = pd.read_csv(data, dtype=str, keep_default_na=False).iloc[::12].head(COMPARED_IMAGES)
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
    parser.add_argument("--run", type=Path, help="folder of the run: an existing run is used, a new one is kept")
    parser.add_argument("--calibrate-folds", type=int, default=0, help="calibrate intervals by K-fold training")
    parser.add_argument("--calibrate-from", type=Path, help="calibrate intervals on these predictions")
    parser.add_argument("-o", "--out", type=Path, default=SHIPPED_SCORER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source, compute, progress = Source(arguments.data, arguments.images), Compute(), Terminal(quiet=False)
    with tempfile.TemporaryDirectory() as scratch:
        run = arguments.run or Path(scratch) / "run"
        if not run.exists():
            resolved = resolve_recipe({"val_fraction": 0.0}, arguments.recipe)
            held_out = HeldOutSource(arguments.calibrate_folds, arguments.calibrate_from)
            train_model(resolved, source, Output(run), held_out, compute, progress)
        save_small(run, arguments.out)
        compare_scores(run, arguments.out, arguments.data, arguments.images)
        if arguments.calibrate_from or arguments.calibrate_folds:
            predictions = arguments.calibrate_from or run / PREDICTIONS
            print(calibrate_checkpoint(arguments.out, source, predictions, compute, progress))
            save_small(arguments.out, arguments.out)
    if arguments.out == SHIPPED_SCORER:
        write_sums(SHIPPED_SCORER.parent)
    for path in (arguments.out / name for name in (WEIGHTS, CALIBRATION, DESCRIPTION)):
        if not path.exists():
            continue
        print(f"{sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>10,}  {path.name}")


if __name__ == "__main__":
    main()
