"""Trains the two scorers that ship in the package, with the same workflow as `aigc train`.

    python -m tools.train_scorer --data AGIQA-3K/data.csv --images AGIQA-3K/images

They train on all prompts, so their accuracy can't be measured on them: docs/accuracy.md reports a cross-validation of
the same recipes. One thread fixes the order of sums, so that another run gives the same files. A run folder that is
there already is used, or resumed: after an interruption, start the same command again.

To keep the package small, the principal axes are stored in eight bits for each row, other tensors in float16. The
script prints how much this changes the scores. The calibration is fitted on five further trainings, each without the
prompts that it predicts. `python -m tools.make_graphs` follows.
"""

import argparse
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from aigc_cli import Scorer
from aigc_cli.cli.console import Terminal
from aigc_cli.recipe import resolve_recipe
from aigc_cli.runtime.hints import MINI
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.checkpoints import (
    CALIBRATION,
    DESCRIPTION,
    SHIPPED_SCORERS,
    WEIGHTS,
    load_checkpoint,
    save_checkpoint,
)
from aigc_cli.workflows.experiment.run_folder import is_unfinished
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model
from tools.sums import write_sums

# What differs from the recipe `scorer`.
SETTINGS: dict[str, dict[str, Any]] = {"accurate": {}, "fast": {"backbone": "mini", "image_size": 256}}
FOLDS = 5
COMPARED_IMAGES = 200


def train_scorer(name: str, source: Source, run: Path) -> None:
    """Trains a scorer in the run folder `run`, unless that is done; an interrupted training goes on."""
    if (run / "run.json").exists() and not is_unfinished(run):
        return
    resolved = resolve_recipe({"val_fraction": 0.0, **SETTINGS[name]}, "scorer")
    output = Output(run, resume=is_unfinished(run))
    train_model(resolved, source, output, HeldOutSource(FOLDS), Compute(), Terminal(quiet=False))


def save_small(run: Path, target: Path) -> None:
    """Writes the run's checkpoint to `target` in its small form, without graphs."""
    checkpoint = load_checkpoint(run)
    tensors = checkpoint.tensors
    eight_bit = frozenset(name for name in tensors if name.endswith(".axes"))
    halved = {name for name, t in tensors.items() if np.issubdtype(t.dtype, np.floating)} - eight_bit
    small = {name: t.astype(np.float16) if name in halved else t for name, t in tensors.items()}
    description = {**checkpoint.description, "trained_on": "AGIQA-3K, 2,383 images of 240 prompts", "graphs": {}}
    save_checkpoint(target, small, description, eight_bit, checkpoint.calibration)


def compare_scores(run: Path, target: Path, source: Source) -> None:
    """Prints how much the scores of the small form differ from those of the run."""
    assert source.data
    assert source.images
    table = pd.read_csv(source.data, dtype=str, keep_default_na=False).iloc[::12].head(COMPARED_IMAGES)
    paths, prompts = [source.images / name for name in table["name"]], list(table["prompt"])
    full, small = (Scorer.load(place, engine="eager").score(images=paths, prompts=prompts) for place in (run, target))
    for score in ("quality", "consistency"):
        gap = (full[score] - small[score]).abs()
        order = full[score].corr(small[score], method="spearman")
        print(f"{score}: largest change {gap.max():.4f} MOS, mean {gap.mean():.4f}, SROCC with the run {order:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    parser.add_argument("-o", "--out", type=Path, default=MINI.parent, help="folder of the scorers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = Source(arguments.data, arguments.images)
    for name in SHIPPED_SCORERS:
        run, target = arguments.runs / f"scorer-{name}", arguments.out / name
        train_scorer(name, source, run)
        save_small(run, target)
        compare_scores(run, target, source)
        for path in (target / file for file in (WEIGHTS, CALIBRATION, DESCRIPTION)):
            print(f"{sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>10,}  {name}/{path.name}")
    if arguments.out == MINI.parent:
        write_sums(MINI.parent)


if __name__ == "__main__":
    main()
