"""Measures whether going on from a trained model beats training from nothing, for k rated images; resumable.

    python -m tools.measure_warm_start --data AGIQA-3K/data.csv --images AGIQA-3K/images -o runs/warm

A draw deals the prompts: a start model is trained on one half, k images of a quarter adapt it, and the last quarter
tests it. The ways are the start model as it is, training from nothing on the k images, and going on from the start
model. Each is measured with people's scores, and with a changed taste: a MOS less quality for the style `anime`. The
differences to the start model are paired; intervals are two standard errors over draws.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aigc_cli.cli.console import Terminal
from aigc_cli.metrics.by_name import compute_metric
from aigc_cli.metrics.splits import Split
from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe, resolve_recipe
from aigc_cli.storage.atomic_files import write_json
from aigc_cli.training.adaptation import limit_change
from aigc_cli.training.loop import TrainingData, fit_model, make_model, predict
from aigc_cli.training.rates import complete_recipe
from aigc_cli.workflows.experiment.folds import PreparedData, prepare_data
from aigc_cli.workflows.experiment.rated import read_rated
from aigc_cli.workflows.experiment.source import Compute, Source

SIZES = (25, 50, 100, 200, 400)
START_PROMPTS, ADAPTING_PROMPTS = 120, 60
PENALTY = 0.2  # of the scale, for the style that the changed taste dislikes
DISLIKED = "anime"
Found = dict[str, tuple[float | None, float | None]]


def rate(
    ready: PreparedData, data: TrainingData, model: Mapping[str, Tensor], recipe: Recipe, rows: Sequence[int]
) -> tuple[float | None, float | None]:
    """SROCC of quality and consistency on `rows`."""
    made = make_model(ready.backbone, recipe)
    made.load_trained(dict(model))
    scores, human = predict(made, data, rows), data.targets[list(rows)].numpy()
    return (
        compute_metric("srocc", scores.quality.numpy(), human[:, 0]),
        compute_metric("srocc", scores.consistency.numpy(), human[:, 1]),
    )


def train(
    ready: PreparedData, data: TrainingData, recipe: Recipe, rows: Sequence[int], start: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The weights after training on `rows`, from `start` or from nothing."""
    model, quiet = make_model(ready.backbone, recipe), SilentProgress()
    if start:
        model.load_trained(dict(start))
    fit_model(model, data, Split(list(rows), []), recipe, quiet, warm=start is not None)
    if start:
        limit_change(model, start, data, rows, [data.prompts[row] for row in rows], recipe, quiet)
    return model.copy_trained()


def measure_draw(ready: PreparedData, start: Recipe, adapt: Recipe, draw: int) -> Found:
    """{"TASTE K WAY": SROCC of quality and consistency} of one draw."""
    random = np.random.default_rng(draw)
    prompts = ready.data.prompts
    dealt = random.permutation(sorted(set(prompts)))
    parts = np.split(dealt, [START_PROMPTS, START_PROMPTS + ADAPTING_PROMPTS])
    first, pool, test = ([row for row, prompt in enumerate(prompts) if prompt in set(part)] for part in parts)
    pool = [pool[place] for place in random.permutation(len(pool))]
    begun, found = train(ready, ready.data, start, first, None), Found()
    disliked = torch.tensor([DISLIKED in prompt for prompt in prompts])
    other = ready.data.targets.clone()
    other[disliked, 0] -= PENALTY
    for taste, data in (("same", ready.data), ("changed", replace(ready.data, targets=other))):
        found[f"{taste} 0 start"] = rate(ready, data, begun, start, test)
        for size in SIZES:
            for way, from_model in (("nothing", None), ("warm", begun)):
                weights = train(ready, data, adapt, pool[:size], from_model)
                found[f"{taste} {size} {way}"] = rate(ready, data, weights, adapt, test)
    return found


def print_table(draws: Sequence[Found]) -> None:
    """Prints the mean of each way, and its paired difference to the start model with two standard errors."""
    for key in draws[0]:
        values = np.array([draw[key] for draw in draws], dtype=float)
        starts = np.array([draw[f"{key.split()[0]} 0 start"] for draw in draws], dtype=float)
        gain, error = (values - starts).mean(0), 2 * (values - starts).std(0) / np.sqrt(len(draws))
        cells = [f"{values.mean(0)[i]:.3f}, {gain[i]:+.3f} ± {error[i]:.3f}" for i in (0, 1)]
        print(f"| {key} | {cells[0]} | {cells[1]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--lr", default="1e-3", help="of going on and of training from nothing")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of finished draws")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = complete_recipe(resolve_recipe({}, "scorer").recipe)
    adapt = replace(start, lr=float(arguments.lr))
    progress, source = Terminal(quiet=False), Source(arguments.data, arguments.images)
    rated = read_rated(source, start.scale, progress)
    backbone = load_backbone(start.backbone, start.image_size, start.levels or "few")
    ready = prepare_data(backbone, rated, start, Compute("cpu"), progress)
    arguments.out.mkdir(parents=True, exist_ok=True)
    draws = []
    for draw in range(arguments.draws):
        path = arguments.out / f"{draw}.json"
        if not path.exists():
            write_json(path, measure_draw(ready, start, adapt, draw))
        draws.append(json.loads(path.read_text()))
        progress.say(f"{draw + 1} of {arguments.draws} draws")
    print_table(draws)


if __name__ == "__main__":
    main()
