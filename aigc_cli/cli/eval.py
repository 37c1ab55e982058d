"""`aigc eval`: compares a model's scores with human ratings."""

from pathlib import Path

import typer

from aigc_cli.cli import options
from aigc_cli.cli.completion import list_models
from aigc_cli.cli.console import print_metrics, show_progress
from aigc_cli.cli.options import INPUT, OUTPUT, make_number, make_path
from aigc_cli.errors import AigcError


def eval(
    *,
    model: Path | None = typer.Argument(
        None,
        metavar="MODEL",
        help="Run or model folder, or accurate (default) or fast, which ship.",
        autocompletion=list_models,
    ),
    rated: options.RatedOptions,
    pairs: Path | None = options.PAIRS,
    by: str | None = options.GROUP_BY,
    mos_min: float | None = make_number(INPUT, "Lowest score of the rating scale; default: the model's"),
    mos_max: float | None = make_number(INPUT, "Highest score of the rating scale; default: the model's"),
    output: Path | None = make_path(OUTPUT, "Table of metrics (.parquet .csv .jsonl)", "-o", "--output"),
    predictions: Path | None = make_path(OUTPUT, "Table of model and human scores, for `aigc plot`"),
    page: options.PageOptions,
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
    machine: options.MachineOptions,
) -> None:
    """Compare a model's scores with human ratings.

    Prompts that the model was trained on are reported separately: only unseen prompts show how it does on new images.
    """
    if (mos_min is None) != (mos_max is None):
        raise AigcError("Expected --mos-min and --mos-max together, found one of them.", "Give both.")
    place = page.check(overwrite)
    source, compute = rated.make_source(pairs=pairs), machine.make_compute()
    options.check_model(model, machine.device)
    source.check()
    options.check_outputs(overwrite, output, predictions)

    from aigc_cli.mos_scale import MosScale
    from aigc_cli.workflows.evaluate import EvaluationPlan, evaluate_model

    scale = None if mos_min is None or mos_max is None else MosScale(mos_min, mos_max)
    plan = EvaluationPlan(model, by, scale, output, predictions, overwrite)
    with show_progress(screen.quiet) as progress:
        result = evaluate_model(source, plan, compute, progress)
        splits = {row["split"] for row in result.metrics}
        if "train" in splits:
            progress.say("Rows marked train: the model was trained on these prompts. Use them to check the fit only.")
        if "val" in splits:
            progress.say("Rows marked val: prompts of the run's validation part.")
        if place is not None:
            from aigc_cli.workflows.reports import report_evaluation

            report_evaluation(result, place, progress)
    title = f"Agreement of {result.model} with human scores"
    facts = {"model": result.model, "metrics": result.metrics}
    screen.print_result(facts, lambda: print_metrics(title, result.metrics))
