"""`aigc recommend`: by the number of images, by a look at them, or by a finished run's curves."""

import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.completion import runs
from aigc_cli.cli.console import number, print_json, print_table, terminal
from aigc_cli.errors import AigcError

WIDTH = 80
EXAMPLES = """
Which settings suit my data, and why? Give one of --n, --data and --run.

\b
  aigc recommend --n 3000                                by the number of images
  aigc recommend --data ratings.csv --images images/     by a look at them
  aigc recommend --run runs/first                        by a run's curves
"""


def recommend(
    n: Annotated[Optional[int], typer.Option("--n", help="Number of rated images.")] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(help="CSV with name, prompt, mos_quality, mos_align; also std_quality, std_align, raters."),
    ] = None,
    run: Annotated[Optional[Path], typer.Option(help="Folder of a finished `aigc train`.", autocompletion=runs)] = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    mos_min: Annotated[Optional[str], typer.Option(metavar="NUMBER", help="Lowest human score (default 0).")] = None,
    mos_max: Annotated[Optional[str], typer.Option(metavar="NUMBER", help="Highest human score (default 5).")] = None,
    raters: Annotated[Optional[int], typer.Option(min=2, help="Opinions behind each score, for the ceiling.")] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Also write it as a recipe file (.yaml).")
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    looks = {
        "--images": images,
        "--columns": columns,
        "--sep": None if sep == "," else sep,
        "--mos-min": mos_min,
        "--mos-max": mos_max,
        "--raters": raters,
    }
    _check_usage({"--n": n, "--data": data, "--run": run}, looks)
    if output:
        from aigc_cli.storage.files import check_output

        check_output(output, overwrite=overwrite, suffixes=(".yaml", ".yml"))
    if n is not None:
        from aigc_cli.workflows.recommend.by_size import recommend as by_size

        found, basis = by_size(n), f"--n {n}"
    elif data is not None:
        from aigc_cli.recipe import resolve
        from aigc_cli.workflows.recommend.by_data import recommend_for

        recipe = resolve({"mos_min": mos_min, "mos_max": mos_max}).recipe
        renames, scale = options.renames(columns), (recipe.mos_min, recipe.mos_max)
        with terminal(quiet) as progress:
            found = recommend_for(data, images, scale=scale, columns=renames, sep=sep, raters=raters, progress=progress)
        basis = shlex.join(["--data", str(data)])
    else:
        from aigc_cli.workflows.recommend.by_run import advise

        assert run is not None
        found, basis = advise(run), shlex.join(["--run", str(run)])
    if output:
        _write_recipe(output, found, basis)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


recommend.__doc__ = EXAMPLES


def _check_usage(bases: dict[str, Any], looks: dict[str, Any]) -> None:
    given = [flag for flag, value in bases.items() if value is not None]
    if len(given) != 1:
        raise AigcError(
            f"Expected one of --n, --data and --run, found {' and '.join(given) or 'none'}.",
            "Example: aigc recommend --n 3000",
        )
    if given != ["--data"] and (stray := [flag for flag, value in looks.items() if value is not None]):
        raise AigcError(f"Expected --data beside {stray[0]}, found {given[0]}.", "Name the table with the scores.")


def _show(found: Any) -> None:
    """What was looked at, the settings with their reasons, and the command, within 80 columns."""
    values = found.to_json()["recipe"]
    if "run" in found.seen:
        _show_run(found.seen["run"])
    elif "data" in found.seen:
        _show_data(found.seen["data"])
    if found.reasons:
        print(f"{'Next, one change' if 'run' in found.seen else f'For {found.n:,} rated images'}:\n")
    for key, reason in found.reasons.items():
        value = f"{values[key]:g}" if isinstance(values[key], float) else str(values[key])
        _say(reason, f"  {key:<13}{value:<9}", 24)
    if found.neighbours:
        print()
        for label, line in zip(["Nearby:", ""], found.neighbours, strict=False):
            _say(line, f"{label:<8}", 10)
    if found.command:
        print(f"\nRun:    {_folded(found.command)}")


def _show_data(seen: dict[str, Any]) -> None:
    fewest, median, most = seen["per_prompt"]
    _say(
        f"{seen['images']:,} rated images of {seen['prompts']:,} prompts, {fewest} to {most} of each "
        f"(median {median:g}; {seen['single']:,} with only one)"
    )
    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "rated images": lambda of: f"{of['n']:,}",
        "mean": lambda of: f"{of['mean']:.2f}",
        "standard deviation": lambda of: f"{of['std']:.2f}",
        "range": lambda of: f"{of['low']:.2f} - {of['high']:.2f}",
        "at an end of the scale": lambda of: f"{of['at_low'] + of['at_high']:.0%}",
        "standard deviation of raters": lambda of: number(of["rater_std"], ".2f"),
        "raters": lambda of: number(of["raters"], "g"),
        "ceiling": lambda of: number(of["ceiling"]),
    }
    targets = seen["targets"]
    print_table("", ("MOS", *targets), [[name, *map(cell, targets.values())] for name, cell in lines.items()])
    if any(of["ceiling"] is not None for of in targets.values()):
        _say("Ceiling: even what people truly think correlates no better with these scores, since raters differ.")
    if len(targets) > 1:
        _say(f"Between both targets: SROCC {number(seen['srocc'])}, PLCC {number(seen['plcc'])}.")
    if seen["left_out"]:
        _say("Left out: " + ", ".join(f"{count:,} x {reason}" for reason, count in sorted(seen["left_out"].items())))
    for note in seen["notes"]:
        _say(note)
    print()


def _say(text: str, label: str = "", indent: int = 2) -> None:
    """A paragraph of 80 columns in which no word, such as a path, is broken."""
    from aigc_cli.text import printable

    shape = textwrap.TextWrapper(
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    print(shape.fill(printable(text)))


def _show_run(seen: dict[str, Any]) -> None:
    """The faults, first to act on first."""
    parts = ", ".join(f"{count:,} images in {part}" for part, count in seen["images"].items())
    _say(f"{seen['run']}: {seen['epochs']} epochs, {parts}.")
    for row in seen["faults"]:
        _say(f"- {row['fault']}: {row['figures']} ({row['meaning']})")
    for note in seen["notes"]:
        _say(note)
    print()


def _folded(command: str) -> str:
    """The command over several lines of a shell, broken before options only."""
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


def _write_recipe(output: Path, found: Any, basis: str) -> None:
    import yaml

    from aigc_cli.storage.files import write_text

    head = f"# For {found.n:,} rated images, by `aigc recommend {basis}`.\n"
    write_text(output, head + yaml.safe_dump(found.to_json()["recipe"], sort_keys=False))
