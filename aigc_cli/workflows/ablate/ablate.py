"""`aigc ablate`: compares variants of a recipe on the same folds, seeds and features."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.by_name import compute_metric, explain_undefined
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.report.plots import draw_ablation
from aigc_cli.runtime.hints import check_backbone
from aigc_cli.storage.atomic_files import Output, write_text
from aigc_cli.storage.locks import own_folder
from aigc_cli.storage.results import write_table
from aigc_cli.storage.unchanged import list_changes
from aigc_cli.training.rates import complete_recipe
from aigc_cli.workflows.ablate.summary import (
    ZERO_SHOT,
    VariantSummary,
    format_ablation_page,
    make_plot_points,
    make_zero_shot,
    summarise_variants,
)
from aigc_cli.workflows.ablate.variants import Variants, apply_variants
from aigc_cli.workflows.experiment.folds import FoldDriver, open_folds
from aigc_cli.workflows.experiment.predictions import ABLATION_PLAN, FoldFailure, FoldResult
from aigc_cli.workflows.experiment.rated import hash_rated, read_rated
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.experiment.splits import Dealing

ABLATION_METRICS = ("srocc", "plcc")


@dataclass(frozen=True)
class AblationPlan:
    """The variants of an ablation, and the folds and seeds on which they are compared."""

    base: Recipe
    variants: Variants  # {name: settings that differ from `base`}; the first is the baseline
    folds: int = 5  # prompt-disjoint, at least 2
    seeds: Sequence[int] = (0,)  # each variant is trained on every fold with every seed


def run_ablation(
    plan: AblationPlan, source: Source, output: Output, compute: Compute, progress: Progress
) -> list[VariantSummary]:
    """Trains every variant on every fold and seed, and writes `ablation.parquet`, `.md`, `.png` and `.svg`.

    Every finished training (variant, fold, seed) is a file in `output/cells`; `resume` trains only the missing ones. A
    variant that fails gets rows with the reason; the other variants are still trained.

    Args:
        output: a folder. With `resume`, variants and seeds may be added; nothing else may change.

    Raises:
        AigcError: the table, the folds, a variant or the output has a fault; nothing was written.
        FolderConflict: another process works in the folder.
        Interruption: a signal ended it; finished trainings are kept.
    """
    recipes = {name: complete_recipe(recipe) for name, recipe in apply_variants(plan.base, plan.variants).items()}
    backbones = {recipe.backbone for recipe in recipes.values()}
    if len(backbones) == 1:  # with several, a variant may fail alone
        check_backbone(*backbones)
    with own_folder(output.path):
        output.check(suffixes=())
        rated = read_rated(source, plan.base.scale, progress)
        dealings = {name: Dealing(recipe.group_by, plan.folds) for name, recipe in recipes.items()}
        for dealing in dealings.values():
            dealing.deal(rated)  # too few prompts are an error before anything is computed
        compute.require_device()
        now = {"data": hash_rated(rated), "folds": plan.folds, "seeds": list(plan.seeds)}
        now["variants"] = {name: asdict(recipe) for name, recipe in recipes.items()}
        results: dict[str, list[FoldResult | FoldFailure]] = {name: [] for name in recipes}
        total = len(recipes) * len(plan.seeds) * plan.folds
        with open_folds(output, ABLATION_PLAN, "an ablation", now, _find_changes, total) as folder:
            driver = FoldDriver(rated, folder, compute, progress)
            for name, recipe in recipes.items():
                for seed in plan.seeds:
                    seeded = dataclasses.replace(recipe, seed=seed)
                    results[name] += driver.run(seeded, dealings[name], name, keep_going=True)
        return _write_results(output.path, results, source, plan)


def _find_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changes = list_changes({"folds": then["folds"]}, {"folds": now["folds"]})
    variants = {name: dict(settings) for name, settings in then["variants"].items()}
    for name in sorted(variants.keys() & now["variants"].keys()):
        changes += list_changes(variants[name], now["variants"][name], f" of '{name}'")
    return changes


def _write_results(
    output: Path, results: dict[str, list[FoldResult | FoldFailure]], source: Source, plan: AblationPlan
) -> list[VariantSummary]:
    results = {name: sorted(found, key=lambda one: (one.seed, one.fold)) for name, found in results.items()}
    rows = [row for name, found in results.items() for one in found for row in _make_rows(name, one)]
    done = {name: [one for one in found if isinstance(one, FoldResult)] for name, found in results.items()}
    whole = next((found for name, found in done.items() if len(found) == len(results[name])), None)
    if whole is None:
        reason = next(one.reason for found in results.values() for one in found if isinstance(one, FoldFailure))
        write_table(output / "ablation.parquet", "ablation", rows, {"aigc_version": __version__})
        raise AigcError(f"Every variant failed: {reason}", f"The reasons are in {output / 'ablation.parquet'}.")
    summaries = summarise_variants({**results, ZERO_SHOT: [make_zero_shot(one) for one in whole]})
    images = sum(len(one.names) for one in whole) // len(plan.seeds)
    metadata = {"aigc_version": __version__, "data": source.describe()}
    write_table(output / "ablation.parquet", "ablation", rows, metadata)
    page = format_ablation_page(summaries, f"{images:,} images of {source.describe()}", plan.folds, plan.seeds)
    write_text(output / "ablation.md", page)
    draw_ablation(make_plot_points(summaries), [output / "ablation.png", output / "ablation.svg"])
    return summaries


def _make_rows(name: str, found: FoldResult | FoldFailure) -> list[dict[str, Any]]:
    rows = []
    for target in TARGETS:
        for metric in ABLATION_METRICS:
            row = {"variant": name, "fold": found.fold, "seed": found.seed, "target": target, "metric": metric}
            if isinstance(found, FoldFailure):
                rows.append({**row, "reason": found.reason})
                continue
            predicted, human, _ = found.select_rated(target)
            row |= {"seconds": found.seconds, "trainable_parameters": found.trainable}
            reason = explain_undefined(metric, predicted, human) or None
            rows.append({**row, "value": compute_metric(metric, predicted, human), "reason": reason})
    return rows
