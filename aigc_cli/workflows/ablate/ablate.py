"""`aigc ablate`: does each idea help? The same folds, seeds and features for every variant."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aigc_cli import __version__
from aigc_cli.errors import AigcError, Interrupted
from aigc_cli.metrics.by_name import undefined, value
from aigc_cli.metrics.splits import grouped_folds
from aigc_cli.model.devices import pick_device
from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.report.plots import ablation_plot
from aigc_cli.storage.files import check_output, discard_folder, read_json, sweep, write_json, write_text
from aigc_cli.storage.locks import owned
from aigc_cli.storage.results import write_table
from aigc_cli.workflows.ablate.summary import ZERO_SHOT, Summary, markdown, points, summarise, zero_shot
from aigc_cli.workflows.ablate.variants import Variants, recipes_of
from aigc_cli.workflows.experiment.folds import Cell, prepare, train_cell
from aigc_cli.workflows.experiment.predictions import CELLS, PLAN, Failure, cell_file, load_cell, save_cell
from aigc_cli.workflows.experiment.rated import TARGETS, Rated, data_digest, read_rated
from aigc_cli.workflows.experiment.source import Source

METRIC_NAMES = ("srocc", "plcc")


def ablate(
    base: Recipe,
    variants: Variants,
    source: Source,
    output: Path,
    *,
    progress: Progress,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    cache: bool | float = True,
    overwrite: bool = False,
    resume: bool = False,
) -> list[Summary]:
    """Trains every variant on every fold and seed, and writes `ablation.parquet`, `.md`, `.png` and `.svg`.

    Every finished cell (variant, fold, seed) is a file in `output/cells`, so that `resume` trains only what is missing.
    A variant that fails is a row with its reason; the others go on.

    Args:
        variants: {name: settings that differ from `base`}; the first is what the others are compared with.
        resume: go on in `output`; variants and seeds may be added, nothing else may have changed.

    Raises:
        AigcError: the table, the folds, a variant or the output is not as it should be; nothing was written.
        RunHeld: another process works in `output`.
        Interrupted: a signal ended it; what was finished is kept.
    """
    if folds < 2:
        raise AigcError(f"Expected at least 2 folds, found {folds}.", "Use --folds 5.")
    recipes = recipes_of(base, variants)
    with owned(output):
        check_output(output, overwrite=overwrite or resume, suffixes=())
        pick_device(device)  # one that is not there is an error before anything is read
        rated = read_rated(source, base, progress)
        for group_by in dict.fromkeys(recipe.group_by for recipe in recipes.values()):
            grouped_folds(rated.groups(group_by), folds, 0)  # too few prompts are an error before anything is computed
        _begin(output, rated, folds, seeds, recipes, resume)
        results: dict[str, list[Cell | Failure]] = {name: [] for name in recipes}
        try:
            for name, recipe in recipes.items():
                for seed in seeds:
                    seeded = dataclasses.replace(recipe, seed=seed)
                    results[name] += _cells(name, seeded, rated, folds, output / CELLS, device, cache, progress)
        except (KeyboardInterrupt, SystemExit) as ending:
            done, whole = len(list((output / CELLS).glob("*.parquet"))), len(recipes) * len(seeds) * folds
            raise Interrupted(
                f"{done} of {whole} trainings are finished and kept in {output}.",
                f"Go on with the same command and --resume -o {output}.",
                ending,
            ) from ending
        return _write(output, results, source, folds, seeds)


def _begin(
    output: Path, rated: Rated, folds: int, seeds: Sequence[int], recipes: Mapping[str, Recipe], resume: bool
) -> None:
    """Writes down what is about to be compared; a resumed ablation keeps its cells, a new one starts without."""
    plan = {
        "data": data_digest(rated),
        "folds": folds,
        "seeds": list(seeds),
        "variants": {name: asdict(recipe) for name, recipe in recipes.items()},
    }
    if resume:
        _check_plan(output, plan)
    else:
        discard_folder(output / CELLS)
    write_json(output / PLAN, plan)
    (output / CELLS).mkdir(exist_ok=True)
    sweep(output, output / CELLS)


def _check_plan(output: Path, plan: Mapping[str, Any]) -> None:
    """Refuses to resume what has changed, and says what."""
    try:
        old = read_json(output / PLAN)
        data, folds, variants = old["data"], old["folds"], {name: dict(then) for name, then in old["variants"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise AigcError(f"Expected an ablation to resume in {output}, found none.", "Leave out --resume.") from error
    changed = []
    if data != plan["data"]:
        changed.append("the images, prompts or scores")
    if folds != plan["folds"]:
        changed.append(f"folds ({folds} then, {plan['folds']} now)")
    for name in variants.keys() & plan["variants"].keys():
        then, now = variants[name], plan["variants"][name]
        keys = [key for key in now if then.get(key) != now[key]]
        changed += [f"{key} of '{name}' ({then.get(key)} then, {now[key]} now)" for key in keys]
    if changed:
        raise AigcError(
            f"Expected nothing changed since {output} was begun, found changes in {'; '.join(changed)}.",
            "Use the settings of then, or another folder with -o.",
        )


def _cells(
    name: str,
    recipe: Recipe,
    rated: Rated,
    folds: int,
    folder: Path,
    device: str,
    cache: bool | float,
    progress: Progress,
) -> Iterator[Cell | Failure]:
    """All folds of one variant with one seed: those on disk, the others trained now; a failure is told and kept."""
    data = data_digest(rated)
    try:
        backbone = load_backbone(recipe.backbone, recipe.image_size)
        files = [cell_file(folder, data, backbone.weights_hash, recipe, folds, fold) for fold in range(folds)]
        missing = [fold for fold in range(folds) if not files[fold].is_file()]
        yield from (load_cell(files[fold]) for fold in range(folds) if fold not in missing)
        if not missing:
            return
        ready = prepare(backbone, rated, recipe, device, cache, progress)
        groups = ready.rated.groups(recipe.group_by)
        parts = grouped_folds(groups, folds, 0)
    except (AigcError, RuntimeError, MemoryError) as error:
        yield from (_failure(name, fold, recipe.seed, error, progress) for fold in range(folds))
        return
    for fold in missing:
        progress.say(f"{name}: fold {fold + 1} of {folds}, seed {recipe.seed}")
        try:
            cell = train_cell(ready, groups, parts[fold], fold, recipe, progress)
        except (AigcError, RuntimeError, MemoryError) as error:
            yield _failure(name, fold, recipe.seed, error, progress)
            continue
        save_cell(files[fold], cell, {"variant": name, "aigc_version": __version__})
        yield cell


def _failure(name: str, fold: int, seed: int, error: Exception, progress: Progress) -> Failure:
    reason = error.message if isinstance(error, AigcError) else f"{type(error).__name__}: {error}".splitlines()[0]
    progress.say(f"{name}, fold {fold + 1}, seed {seed} failed: {reason}")
    return Failure(fold, seed, reason)


def _write(
    output: Path, results: dict[str, list[Cell | Failure]], source: Source, folds: int, seeds: Sequence[int]
) -> list[Summary]:
    """The table, the page and the plot of what was found."""
    results = {name: sorted(cells, key=lambda cell: (cell.seed, cell.fold)) for name, cells in results.items()}
    rows = [row for name, cells in results.items() for cell in cells for row in _rows(name, cell)]
    whole = next((cells for cells in results.values() if all(isinstance(cell, Cell) for cell in cells)), None)
    if whole is None:
        reason = next(cell.reason for cells in results.values() for cell in cells if isinstance(cell, Failure))
        write_table(output / "ablation.parquet", "ablation", rows, {"aigc_version": __version__})
        raise AigcError(f"Every variant failed: {reason}", f"The reasons are in {output / 'ablation.parquet'}.")
    summaries = summarise({**results, ZERO_SHOT: [zero_shot(cell) for cell in whole if isinstance(cell, Cell)]})
    images = sum(len(cell.names) for cell in whole if isinstance(cell, Cell)) // len(seeds)
    write_table(output / "ablation.parquet", "ablation", rows, {"aigc_version": __version__, "data": source.describe()})
    write_text(output / "ablation.md", markdown(summaries, images, source.describe(), folds, seeds))
    ablation_plot(points(summaries), [output / "ablation.png", output / "ablation.svg"])
    return summaries


def _rows(name: str, cell: Cell | Failure) -> list[dict[str, Any]]:
    """The ablation table's rows of one cell."""
    rows = []
    for target in TARGETS:
        for metric in METRIC_NAMES:
            row = {"variant": name, "fold": cell.fold, "seed": cell.seed, "target": target, "metric": metric}
            if isinstance(cell, Failure):
                rows.append({**row, "reason": cell.reason})
                continue
            predicted, human, _ = cell.rated(target)
            found = {
                "value": value(metric, predicted, human),
                "reason": undefined(metric, predicted, human) or None,
                "seconds": cell.seconds,
                "trainable_parameters": cell.trainable,
            }
            rows.append(row | found)
    return rows
