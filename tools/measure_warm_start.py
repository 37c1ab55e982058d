"""Measures whether going on from a trained model beats training from nothing, for k rated images; resumable.

    python -m tools.measure_warm_start --data AGIQA-3K/data.csv --images AGIQA-3K/images -o runs/warm

A draw deals the prompts: a start model is trained on one half, k images of a quarter adapt it, and the last quarter
tests it. The ways are the start model as it is, training from nothing on the k images, fitting a taste to the start
model, and with `--blocks` fine-tuning its last blocks. Each is measured with people's scores (same), with less quality
for the style `anime` (style), and with 70% quality and 30% colourfulness (colour). The differences to the start model
are paired; intervals are two standard errors over draws.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_cli.cli.console import Terminal
from aigc_cli.images.decoder import decode_file
from aigc_cli.metrics.by_name import compute_metric
from aigc_cli.metrics.splits import Split
from aigc_cli.model.heads import ResidualHeads
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe, resolve_recipe
from aigc_cli.storage.atomic_files import write_json
from aigc_cli.training.adaptation import limit_change
from aigc_cli.training.loop import fit_model, make_model, predict
from aigc_cli.training.rates import complete_recipe
from aigc_cli.training.taste import fit_taste
from aigc_cli.workflows.experiment.folds import PreparedData, prepare_data
from aigc_cli.workflows.experiment.rated import read_rated
from aigc_cli.workflows.experiment.source import Compute, Source

SIZES, BLOCK_SIZES = (25, 50, 100, 200, 400), (100,)
START_PROMPTS, ADAPTING_PROMPTS = 120, 60
PENALTY = 0.2  # of the scale, for the style that one taste dislikes
DISLIKED = "anime"
COLOUR = 0.3  # the share of colourfulness in another taste
BLOCKS: dict[str, Any] = {
    "freeze": "partial",
    "freeze_text": "all",
    "lr": 1e-5,
    "lr_backbone": 7e-6,
    "epochs": 4,
    "views": 2,
}
Found = dict[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Ways:
    """The ways to learn from k images: data on frozen features, and with blocks that can be trained."""

    ready: PreparedData
    recipe: Recipe
    blocks: PreparedData | None
    block_recipe: Recipe

    def make_start(self, weights: Mapping[str, Tensor] | None, recipe: Recipe, taste: bool = False) -> Model:
        """A model with the weights of the start model; None for an untrained one."""
        ready = self.blocks if recipe is self.block_recipe and self.blocks else self.ready
        with torch.no_grad():
            for name, tensor in ready.backbone.modules().state_dict().items():
                tensor.copy_(ready.untouched[name])
        model = make_model(ready.backbone, recipe)
        if weights:
            model.heads = ResidualHeads(replace(make_model(self.ready.backbone, self.recipe).heads.config, taste=taste))
            model.load_trained(dict(weights))
        return model

    def train(self, way: str, start: Mapping[str, Tensor], targets: Tensor, rows: Sequence[int]) -> Model:
        """The model after learning from `rows` in one of the ways."""
        quiet, split, prompts = SilentProgress(), Split(list(rows), []), self.ready.data.prompts
        data = replace(self.ready.data, targets=targets)
        if way == "taste":
            model = self.make_start(start, self.recipe, taste=True)
            fit_taste(model, data, split, prompts, self.recipe, quiet)
        elif way == "nothing":
            model = self.make_start(None, self.recipe)
            fit_model(model, data, split, self.recipe, quiet)
        else:
            assert self.blocks
            model, data = self.make_start(start, self.block_recipe), replace(self.blocks.data, targets=targets)
            begun = model.copy_trained()
            fit_model(model, data, split, self.block_recipe, quiet, warm=True)
            own = [prompts[row] for row in rows]
            limit_change(model, begun, data, rows, own, self.block_recipe, quiet)
        return model

    def rate(self, way: str, model: Model, targets: Tensor, rows: Sequence[int]) -> tuple[float | None, float | None]:
        """SROCC of quality and consistency on `rows`."""
        data = self.blocks.data if way == "blocks" and self.blocks else self.ready.data
        scores, human = predict(model, data, rows), targets[list(rows)].numpy()
        pairs = ((scores.quality, human[:, 0]), (scores.consistency, human[:, 1]))
        quality, consistency = (compute_metric("srocc", found.numpy(), wanted) for found, wanted in pairs)
        return quality, consistency

    def measure_draw(self, tastes: Mapping[str, Tensor], draw: int) -> Found:
        """{"TASTE K WAY": SROCC of quality and consistency} of one draw."""
        random, prompts = np.random.default_rng(draw), self.ready.data.prompts
        dealt = random.permutation(sorted(set(prompts)))
        parts = np.split(dealt, [START_PROMPTS, START_PROMPTS + ADAPTING_PROMPTS])
        first, pool, test = ([row for row, prompt in enumerate(prompts) if prompt in set(part)] for part in parts)
        pool = [pool[place] for place in random.permutation(len(pool))]
        begun, found = self.train("nothing", {}, self.ready.data.targets, first), Found()
        start = begun.copy_trained()
        for taste, targets in tastes.items():
            found[f"{taste} 0 start"] = self.rate("nothing", self.make_start(start, self.recipe), targets, test)
            for size in BLOCK_SIZES if self.blocks else SIZES:
                for way in ["blocks"] if self.blocks else ["nothing", "taste"]:
                    model = self.train(way, start, targets, pool[:size])
                    found[f"{taste} {size} {way}"] = self.rate(way, model, targets, test)
        return found


def measure_colourfulness(paths: Sequence[Path]) -> Tensor:
    """The rank (N,) in (0, 1] of each image's colourfulness (Hasler and Suesstrunk, Measuring colourfulness in natural
    images, Proc. SPIE 5007, 2003)."""
    found = []
    for path in paths:
        pixels = np.asarray(decode_file(path).image.resize((128, 128)), dtype=np.float64)
        red, green, blue = (pixels[..., channel] for channel in range(3))
        one, other = red - green, (red + green) / 2 - blue
        found.append(np.hypot(one.std(), other.std()) + 0.3 * np.hypot(one.mean(), other.mean()))
    return torch.tensor(np.argsort(np.argsort(found)) + 1.0, dtype=torch.float32) / len(found)


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
    parser.add_argument("--blocks", action="store_true", help="fine-tune blocks, which takes half an hour a draw")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of finished draws")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = complete_recipe(resolve_recipe({}, "scorer").recipe)
    block_recipe = replace(recipe, **BLOCKS)
    progress, source = Terminal(quiet=False), Source(arguments.data, arguments.images)
    rated = read_rated(source, recipe.scale, progress)

    def prepare(of: Recipe) -> PreparedData:
        backbone = load_backbone(of.backbone, of.image_size, of.levels or "few")
        return prepare_data(backbone, rated, of, Compute("cpu"), progress)

    ready = prepare(recipe)
    ways = Ways(ready, recipe, prepare(block_recipe) if arguments.blocks else None, block_recipe)
    same = ready.data.targets
    style, colour = same.clone(), same.clone()
    style[torch.tensor([DISLIKED in prompt for prompt in ready.data.prompts]), 0] -= PENALTY
    liked = measure_colourfulness([sample.path for sample in ready.rated.samples])
    colour[:, 0] = (1 - COLOUR) * colour[:, 0] + COLOUR * liked
    arguments.out.mkdir(parents=True, exist_ok=True)
    draws = []
    for draw in range(arguments.draws):
        path = arguments.out / f"{draw}.json"
        if not path.exists():
            write_json(path, ways.measure_draw({"same": same, "style": style, "colour": colour}, draw))
        draws.append(json.loads(path.read_text()))
        progress.say(f"{draw + 1} of {arguments.draws} draws")
    print_table(draws)


if __name__ == "__main__":
    main()
