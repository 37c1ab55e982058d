"""`aigc recommend`: recommends settings by the number of images, by the ratings, or by a finished run."""

import shlex
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli.cli import options
from aigc_cli.cli.completion import list_runs
from aigc_cli.cli.console import print_table, show_progress
from aigc_cli.cli.options import INPUT, OUTPUT, make_number, make_path
from aigc_cli.errors import AigcError
from aigc_cli.recipe import resolve_recipe
from aigc_cli.report.numbers import format_number
from aigc_cli.text import format_count, to_printable

if TYPE_CHECKING:
    from aigc_cli.workflows.recommend.by_size import Recommendation

WIDTH = 80
BASIS = "Basis (one of)"


def recommend(
    *,
    n: int | None = make_number(BASIS, "Number of rated images"),
    data: Path | None = make_path(BASIS, f"Table with {options.RATED_COLUMNS}; also std_quality, std_align, raters"),
    run: Path | None = make_path(BASIS, "Run folder of `aigc train`", autocompletion=list_runs),
    images: Path | None = options.IMAGES,
    mos_min: float | None = options.MOS_MIN,
    mos_max: float | None = options.MOS_MAX,
    raters: int | None = make_number(INPUT, "Raters per score, 2 or more; used for the ceiling"),
    output: Path | None = make_path(OUTPUT, "Write the settings to a recipe file (.yaml)", "-o", "--output"),
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
    columns: list[str] | None = options.COLUMNS,
    sep: str = options.SEPARATOR,
) -> None:
    """Recommend settings for your data, with a reason for each.

    \b
    aigc recommend --n 3000                             by the number of images
    aigc recommend --data ratings.csv --images images/  by the ratings
    aigc recommend --run runs/first                     by a finished training
    """
    only_with_data: dict[str, object] = {"--images": images, "--columns": columns, "--sep": None if sep == "," else sep}
    only_with_data |= {"--mos-min": mos_min, "--mos-max": mos_max, "--raters": raters}
    _check_usage({"--n": n, "--data": data, "--run": run}, only_with_data)
    options.check_least("--raters", raters, 2)
    if output:
        from aigc_cli.storage.atomic_files import check_output

        check_output(output, overwrite=overwrite, suffixes=(".yaml", ".yml"))
    if n is not None:
        from aigc_cli.workflows.recommend.by_size import recommend_by_size

        found, basis = recommend_by_size(n), f"--n {n}"
    elif data is not None:
        scale = resolve_recipe({"mos_min": mos_min, "mos_max": mos_max}).recipe.scale
        renames = options.parse_renames(columns)
        options.RatedOptions(data, images, columns, sep).make_source().check()

        from aigc_cli.workflows.recommend.by_data import recommend_by_data

        with show_progress(screen.quiet) as progress:
            found = recommend_by_data(
                data, images, scale=scale, columns=renames, sep=sep, raters=raters, progress=progress
            )
        basis = shlex.join(["--data", str(data)])
    else:
        from aigc_cli.workflows.recommend.by_run import recommend_by_run

        assert run is not None
        found, basis = recommend_by_run(run), shlex.join(["--run", str(run)])
    if output:
        _write_recipe(output, found, basis)
    screen.print_result(found.to_json(), lambda: _show(found))


def _check_usage(bases: Mapping[str, object], only_with_data: Mapping[str, object]) -> None:
    given = [flag for flag, value in bases.items() if value is not None]
    if len(given) != 1:
        raise AigcError(
            f"Expected one of --n, --data and --run, found {' and '.join(given) or 'none'}.",
            "Example: aigc recommend --n 3000",
        )
    if given != ["--data"] and (stray := [flag for flag, value in only_with_data.items() if value is not None]):
        raise AigcError(f"Expected --data beside {stray[0]}, found {given[0]}.", "Name the table with the scores.")


def _show(found: "Recommendation") -> None:
    """Prints what was looked at, the settings with their reasons, and the command, in 80 columns."""
    values = found.to_json()["recipe"]
    for basis, show in (("run", _show_run), ("data", _show_data)):
        if seen := found.seen.get(basis):
            show(seen)
            for note in seen["notes"]:
                _print_paragraph(note)
            print()
    if found.reasons:
        print(f"{'Change one setting' if 'run' in found.seen else f'For {found.n:,} rated images'}:\n")
    for key, reason in found.reasons.items():
        value = f"{values[key]:g}" if isinstance(values[key], float) else str(values[key])
        _print_paragraph(reason, f"  {key:<17}{value:<9}", 28)
    if found.neighbours:
        print()
        for label, line in zip(["Nearby:", ""], found.neighbours, strict=False):
            _print_paragraph(line, f"{label:<8}", 10)
    if found.command:
        print(f"\nRun:    {_fold_command(found.command)}")


def _show_data(seen: Mapping[str, Any]) -> None:
    fewest, median, most = seen["per_prompt"]
    _print_paragraph(
        f"{format_count(seen['images'], 'rated image')} of {format_count(seen['prompts'], 'prompt')}: {fewest} to "
        f"{most} images per prompt, median {median:g}; {format_count(seen['single'], 'prompt')} with only one."
    )
    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "rated images": lambda of: f"{of['n']:,}",
        "mean": lambda of: f"{of['mean']:.2f}",
        "standard deviation": lambda of: f"{of['std']:.2f}",
        "range": lambda of: f"{of['low']:.2f} - {of['high']:.2f}",
        "at either end of the scale": lambda of: f"{of['at_low'] + of['at_high']:.0%}",
        "standard deviation of raters": lambda of: format_number(of["rater_std"], ".2f"),
        "raters": lambda of: format_number(of["raters"], "g"),
        "ceiling": lambda of: format_number(of["ceiling"]),
    }
    targets = seen["targets"]
    print_table("", ("MOS", *targets), [[name, *map(cell, targets.values())] for name, cell in lines.items()])
    if any(of["ceiling"] is not None for of in targets.values()):
        _print_paragraph(
            "Ceiling: the highest correlation that a model can reach on these scores, because raters differ."
        )
    if len(targets) > 1:
        _print_paragraph(
            f"Quality against consistency: SROCC {format_number(seen['srocc'])}, PLCC {format_number(seen['plcc'])}."
        )
    if seen["left_out"]:
        _print_paragraph(
            "Left out: " + ", ".join(f"{count:,} x {reason}" for reason, count in sorted(seen["left_out"].items()))
        )


def _print_paragraph(text: str, label: str = "", indent: int = 2) -> None:
    """Prints a paragraph in 80 columns; long words, such as paths, stay whole."""
    shape = textwrap.TextWrapper(
        WIDTH, initial_indent=label, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    print(shape.fill(to_printable(text)))


def _show_run(seen: Mapping[str, Any]) -> None:
    """Prints the faults of a run, the most important first."""
    parts = ", ".join(f"{count:,} images in {part}" for part, count in seen["images"].items())
    _print_paragraph(f"{seen['run']}: {seen['epochs']} epochs, {parts}.")
    for row in seen["faults"]:
        _print_paragraph(f"- {row['fault']}: {row['figures']} ({row['meaning']})")


def _fold_command(command: str) -> str:
    """The command on several lines of a shell, broken before options."""
    words = shlex.split(command)
    starts = [index for index, word in enumerate(words) if index == 0 or word.startswith("--")]
    parts = [shlex.join(words[start:end]) for start, end in zip(starts, [*starts[1:], len(words)], strict=True)]
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 11 <= WIDTH:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return " \\\n          ".join(lines)


def _write_recipe(output: Path, found: "Recommendation", basis: str) -> None:
    import yaml

    from aigc_cli.storage.atomic_files import write_text

    head = f"# For {found.n:,} rated images, by `aigc recommend {basis}`.\n"
    write_text(output, head + yaml.safe_dump(found.to_json()["recipe"], sort_keys=False))
