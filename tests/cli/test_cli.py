"""The command line: exit codes, what goes to stdout and what to stderr, and errors that say what to do."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from harness import Work, aigc, process
from test_startup import HEAVY, find_modules
from typer.core import TyperGroup

from aigc_cli.cli import main as cli
from aigc_cli.cli.console import print_metrics
from aigc_cli.cli.help import COMMAND_GROUPS
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.by_name import METRICS
from aigc_cli.recipe import FIELDS
from aigc_cli.storage.results import iterate_rows
from aigc_cli.workflows import evaluate
from aigc_cli.workflows.experiment import rated
from aigc_cli.workflows.recommend import by_size

COMMANDS = [name for group in COMMAND_GROUPS.values() for name in group]
HELPS = [[], *([name] for name in COMMANDS), *(["cache", name] for name in ("size", "list", "clear"))]
REMOVED = "It was removed because "


pytestmark = pytest.mark.usefixtures("few_resamples")


# --- help and version


def list_options(text: str) -> list[str]:
    """The long name of every option that a help shows."""
    return re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.M)


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_shows_at_most_20_options_and_help_all_shows_all(command: list[str]) -> None:
    ending, complete = aigc(*command, "--help"), aigc(*command, "--help-all")
    assert (ending.code, ending.err, complete.code, complete.err) == (0, "", 0, "")
    assert [line for line in (ending.out + complete.out).splitlines() if len(line) > 80] == []
    assert ending == aigc(*command, "-h")
    shown, everything = list_options(ending.out), list_options(complete.out)
    assert len(shown) <= 20
    assert len(everything) == len({*everything}) >= len(shown)
    assert {*everything} >= {*shown}
    assert not {"columns", "sep", "thumbs", "cache-gb"} & {*shown}
    entered = typer.main.get_command(cli.app)
    for word in command:
        assert isinstance(entered, TyperGroup)
        entered = entered.commands[word]
    names = {name for parameter in entered.params for name in parameter.opts if name.startswith("--")}
    assert names - {"--install-completion", "--show-completion"} <= {f"--{name}" for name in everything}
    metavars = {*re.findall(r"^  (?:-\w, )?--[\w-]+ ([^ ]+)", complete.out, re.M)}
    assert metavars <= {"PATH", "NUMBER", "TEXT"}
    if "sep" in everything:
        main_ones = [name for name in ("model", "output", "prompts", "data") if name in everything]
        assert max(map(everything.index, main_ones)) < everything.index("columns") < everything.index("sep")


def test_no_command_is_help() -> None:
    assert aigc() == aigc("--help")


def test_help_lists_all_commands_in_groups_and_ends_with_two_examples() -> None:
    out = aigc("--help").out
    sections = {
        title: re.findall(r"^  (\w+)  ", part, re.M) for title, part in re.findall(r"^(.+):\n((?:  .*\n)+)", out, re.M)
    }
    assert {title: sections[title] for title in COMMAND_GROUPS} == {
        t: list(names) for t, names in COMMAND_GROUPS.items()
    }
    registered = {*typer.main.get_command(cli.app).commands}  # type: ignore[attr-defined]
    assert registered == {*COMMANDS}
    for name, text in ((name, text) for texts in COMMAND_GROUPS.values() for name, text in texts.items()):
        assert aigc(name, "--help").out.split("\n\n")[1].split() == text.split()
    head, examples = out.split("\nExamples:\n")
    assert head
    for line in examples.strip().splitlines():
        name, *words = shlex.split(line)
        assert (name, words[0] in COMMANDS) == ("aigc", True)
    assert len(examples.strip().splitlines()) == 2


def test_every_setting_is_an_option() -> None:
    assert {name.replace("_", "-") for name in FIELDS} <= {*list_options(aigc("train", "--help-all").out)}


@pytest.mark.parametrize("command", ["train", "eval", "score", "ablate", "crossval", "stress"])
def test_commands_share_their_options(command: str) -> None:
    shared = {"output", "quiet", "json", "device", "overwrite", "columns", "sep"}
    assert shared <= {*list_options(aigc(command, "--help-all").out)}


# --- bad usage


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("train --frobnicate 1", "No such option: --frobnicate", "See `aigc train --help`."),
        ("train --epoch 1", "No such option: --epoch", "Did you mean --epochs?"),
        ("score x --outptu y", "No such option: --outptu", "Did you mean --output?"),
        ("frobnicate", "No such command 'frobnicate'.", "See `aigc --help`."),
        ("recommend", "Expected one of --n, --data and --run, found none.", "Example: aigc recommend --n 3000"),
        (
            "recommend --n 5 --data a.csv",
            "Expected one of --n, --data and --run, found --n and --data.",
            "Example: aigc recommend --n 3000",
        ),
        (
            "recommend --n 5 --raters 3",
            "Expected --data beside --raters, found --n.",
            "Name the table with the scores.",
        ),
        (
            "recommend --data a.csv --raters 1",
            "Expected --raters of 2 or more, found 1.",
            "Leave it out for the default.",
        ),
        ("score", "Missing argument 'FOLDER'.", "See `aigc score --help`."),
        ("recommend --n", "Option '--n' requires an argument.", "See `aigc --help`."),
        ("recommend --n many", "Expected a whole number for --n, found 'many'.", "See `aigc recommend --help`."),
        ("eval --mos-min low", "Expected a number for --mos-min, found 'low'.", "See `aigc eval --help`."),
        ("train --epochs many", "Expected a whole number for epochs in --epochs, found 'many'.", "The default is 20."),
        ("train --lr 2", "Expected lr of 0 to 1 in --lr, found 2.", "The default is 3e-05."),
        ("train --columns a", "Expected --columns THEIRS=OURS, found 'a'.", "Example: score=mos_quality"),
        ("eval --mos-min 1", "Expected --mos-min and --mos-max together, found one of them.", "Give both."),
        (
            "crossval --splits s.csv --folds 3",
            "Expected either --splits or --folds and --repeats, found both.",
            "The splits table sets the folds.",
        ),
        ("crossval --folds 1", "Expected --folds of 2 or more, found 1.", "Leave it out for the default."),
        (
            "crossval --resume",
            "Expected -o beside --resume, found none.",
            "Name the folder of the interrupted run: -o FOLDER",
        ),
        ("crossval --set lr", "Expected --set SETTING=VALUE, found 'lr'.", "Example: --set lr=1e-4"),
        ("crossval --set lrr=1", "Expected a known setting in --lrr, found 'lrr'.", "Did you mean 'lr'?"),
    ],
)
def test_bad_usage(line: str, message: str, hint: str) -> None:
    ending = aigc(*line.split())
    assert (ending.code, ending.out) == (2, "")
    first, *rest = ending.err.splitlines()
    assert first.rstrip(".").lower() == f"aigc: {message}".rstrip(".").lower()
    assert rest == [f"      {hint}"]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("eval --protocol prompt", "Use `aigc crossval` instead of `aigc eval --protocol`."),
        ("eval --splits-out s.csv", "Use `aigc crossval` instead of `aigc eval --protocol`."),
        ("ablate --stress", "Use `aigc stress` instead of `aigc ablate --stress`."),
        ("ablate --model run", "Use `aigc stress` instead of `aigc ablate --stress`."),
        ("train --scale-q 0.3", "It is called --residual-scale-q now."),
        ("train --scale-c 0.3", "It is called --residual-scale-c now."),
        ("train --ema 0.9", REMOVED),
        ("train --drop-path 0.1", REMOVED),
        ("train --freeze-text-depth 0.5", REMOVED),
        ("train --lr-text 1e-5", REMOVED),
    ],
)
def test_an_option_of_an_earlier_version_names_what_replaces_it(line: str, hint: str) -> None:
    ending = aigc(*line.split())
    assert (ending.code, ending.out) == (2, "")
    message, shown = ending.err.splitlines()
    assert message == f"aigc: No such option: {line.split()[1]}"
    assert shown.startswith(f"      {hint}")


def test_usage_errors_come_before_heavy_imports() -> None:
    lines = ["eval --protocol prompt", "crossval --folds 1", "ablate --vary lr", "train --calibrate-folds 1"]
    lines += ["score x --thumbs t", "stress --n 0", "verify t.csv --n 0", "compare a b --columns x"]
    code = "from aigc_cli.cli import main; "
    code += f"codes = [main.run(line.split()) for line in {lines}]; assert codes == [2] * {len(lines)}"
    assert find_modules(code, quiet=False) & HEAVY == set()


def test_a_command_that_is_nearly_right() -> None:
    ending = aigc("scor")
    assert ending.code == 2
    assert "score" in ending.err


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("train --data no.csv", "no.csv: expected a CSV file, found nothing there"),
        ("train --recipe smal", "found 'smal'"),
        ("eval no/run", "found none at no/run"),
        ("crossval --data no.csv", "no.csv: expected a CSV file, found nothing there"),
        ("crossval --recipe smal", "found 'smal'"),
        ("score no", "no: expected a folder of images, found nothing there"),
        ("recommend --n 0", "found 0."),
        ("recommend --n 10000000000", "found 10,000,000,000."),
        ("recommend --n 5 -o recipe.txt", "found recipe.txt."),
    ],
)
def test_bad_input_writes_nothing(line: str, part: str, tmp_path: Path) -> None:
    ending = aigc(*line.split())
    assert (ending.code, ending.out) == (2, "")
    assert part in ending.err.splitlines()[0]
    assert len(ending.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_column_to_group_by(work: Work) -> None:
    ending = aigc("eval", work.run, *work.rated, "--by", "artist", "-q")
    assert (ending.code, ending.out) == (2, "")
    assert ending.err.splitlines()[0] == (
        "aigc: Expected a column to group by out of prompt, name, distortion, found 'artist'."
    )


def test_control_characters_are_shown_not_sent() -> None:
    ending = aigc("score", "no\x1b[31m")
    assert "\x1b" not in ending.err
    assert "no\\x1b[31m" in ending.err


# --- processes


def test_a_process_ends_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "aigc.yaml").write_text("epochs: 1\nepochs: 2\n")
    ending = process("train", "--print-config")
    assert (ending.code, ending.out) == (2, "")
    assert ending.err == (
        "aigc: Expected plain YAML in aigc.yaml, line 2, found the key 'epochs' twice.\n"
        "      Write `key: value` lines.\n"
    )


def test_a_run_that_diverges(work: Work, tmp_path: Path) -> None:
    wild = ("--freeze", "none", "--lr", "1", "--weight-decay", "1e30", "--warmup-ratio", "0", "--val-fraction", "0")
    ending = aigc("train", "--data", work.table, *work.options, *wild, "-o", "run", "--epochs", "3", "-q")
    assert (ending.code, ending.out) == (6, "")
    message, hint = ending.err.splitlines()
    assert re.match(r"aigc: Training diverged: the (loss|gradient) became (nan|-?inf) in epoch \d", message)
    assert hint.endswith("aigc recommend --run run")
    assert (tmp_path / "run" / "checkpoint" / "model.json").is_file()


@pytest.mark.slow
def test_weights_that_cannot_be_had(work: Work, tmp_path: Path) -> None:
    name = "ViT-B-32/laion2b_s34b_b79k"
    home = str(tmp_path / "empty")
    ending = process(
        "train", "--data", work.table, *work.options, "--backbone", name, "-o", "run", HF_HUB_OFFLINE="1", HF_HOME=home
    )
    assert (ending.code, ending.out) == (4, "")
    assert "The weights 'laion2b_s34b_b79k' of ViT-B-32 were not found: looked for laion/CLIP-ViT-B-32" in ending.err
    assert "--backbone local-dir:PATH; --backbone mini needs neither." in ending.err
    assert "Traceback" not in ending.err
    assert not (tmp_path / "run").exists()


# --- the unexpected


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """A function that makes `aigc recommend --n` raise."""

    def raises(error: BaseException) -> None:
        def stop(n: int) -> None:
            raise error

        monkeypatch.setattr(by_size, "recommend_by_size", stop)

    return raises


def test_a_bug_is_one_line_and_the_traceback_is_on_request(broken: Callable[[BaseException], None]) -> None:
    broken(KeyError("lost\nsecond line \x1b[31m"))
    ending = aigc("recommend", "--n", "5")
    assert (ending.code, ending.out) == (1, "")
    first, second = ending.err.splitlines()
    assert first.startswith("aigc: A bug in aigc: KeyError: ")
    assert "\x1b" not in first
    assert second == "      Run again with --debug and report the output."
    for arguments in (("--debug", "recommend", "--n", "5"), ("recommend", "--n", "5", "--debug")):
        ending = aigc(*arguments)
        assert (ending.code, ending.out) == (1, "")
        assert ending.err.startswith("Traceback (most recent call last):")
        assert "in stop" in ending.err


def test_a_package_that_is_not_installed(broken: Callable[[BaseException], None]) -> None:
    broken(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    ending = aigc("recommend", "--n", "5")
    assert (ending.code, ending.out) == (4, "")
    assert ending.err == (
        "aigc: Expected the package torch, found it not installed.\n"
        "      Install everything with: pip install aigc-cli\n"
    )


def test_an_interrupt(broken: Callable[[BaseException], None]) -> None:
    broken(KeyboardInterrupt())
    ending = aigc("recommend", "--n", "5")
    assert (ending.code, ending.out) == (130, "")
    assert ending.err == "aigc: Interrupted; no result was written.\n"


# --- what a run prints


def test_train_prints_its_result(work: Work, tmp_path: Path) -> None:
    assert work.trained.code == 0
    found = json.loads(work.trained.out)
    assert found.keys() >= {"run", "metrics", "diagnosis", "kept_epoch"}
    assert found["run"] == str(work.run)
    assert "epoch 2/2" in work.trained.err
    ending = aigc("train", "--data", work.table, *work.options, "-o", "run", "-q")
    assert (ending.code, ending.err) == (0, "")
    for part in ("SROCC", "quality", "consistency", "zero shot cosine", "Run folder: run", "--model run"):
        assert part in ending.out
    assert "\x1b" not in ending.out


def test_print_config_is_a_recipe_and_trains_nothing(work: Work, tmp_path: Path) -> None:
    ending = aigc("train", "--data", work.table, *work.options, "--print-config", "-q")
    assert (ending.code, ending.err) == (0, "")
    assert "epochs: 2  # flag\n" in ending.out
    assert "lr: 0.001  # recipe quick\n" in ending.out
    assert list(tmp_path.iterdir()) == []


def test_print_config_warns_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_EPOCH", "3")
    ending = aigc("train", "--lr", "0.5", "--print-config")
    assert ending.code == 0
    assert ending.err.splitlines() == [
        "AIGC_EPOCH is not a setting and has no effect. Did you mean AIGC_EPOCHS?",
        "lr = 0.5 (flag) is outside its sensible range 1e-06 to 0.001.",
    ]
    assert aigc("train", "--lr", "0.5", "--print-config", "-q").err == ""


def test_eval_prints_its_result(work: Work) -> None:
    ending = aigc("eval", work.run, *work.rated, "--by", "distortion", "-o", "m.csv")
    assert ending.code == 0
    assert "Rows marked train: " in ending.err
    assert "Agreement of run with human scores" in ending.out
    assert "distortion=blur" in ending.out
    assert "\x1b" not in ending.out
    assert {row["split"] for row in iterate_rows(Path("m.csv"), "metrics")} == {"train", "val"}


@pytest.mark.slow
def test_crossval_prints_its_result_and_goes_on(work: Work, tmp_path: Path) -> None:
    tiny = ("--set", f"backbone={work.backbone}", "--set", "views=1", "--set", "batch-size=16", "--epochs", "1")
    plan = ("--protocol", "image", "--recipe", "quick", "--folds", "2", "--seed", "1")
    given = ("crossval", *work.rated, "-q", *tiny, *plan, "-o", "out", "--report", "r.html")
    ending = aigc(*given)
    assert (ending.code, ending.err) == (0, "")
    written = {"metrics.parquet", "predictions.parquet", "splits.parquet", "crossval.json", "cells"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == written
    assert [line for line in ending.out.splitlines() if len(line) > 80 and not line.startswith("Warning: ")] == []
    for part in (
        "Recipe quick: means over folds",
        "image-level 2-fold",
        "prompt-disjoint 2-fold",
        "SROCC in prompt",
        "by chance",
        "SD of SROCC, image-level 2-fold, quality: over folds",
        "Warning: image-level 2-fold: ",
    ):
        assert part in ending.out
    assert "Recipe quick, cross-validated by image" in (tmp_path / "r.html").read_text(encoding="utf-8")
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    resumed = aigc(*given, "--resume", "--json")
    assert (resumed.code, resumed.err) == (0, "")
    found = json.loads(resumed.out)
    assert (found["protocol"], found["recipe"], len(found["warnings"])) == ("image", "quick", 1)
    assert {row["run"] for row in found["metrics"]} == {"quick"}
    assert len({row["group"] for row in found["folds"]}) == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()} == cells


def test_score_prints_its_result(work: Work, tmp_path: Path) -> None:
    given = ("score", work.images, "--model", work.run, "--device", "cpu", "--prompt", "[/] [red]x")
    ending = aigc(*given, "-o", "s.csv")
    assert ending.code == 0
    assert ending.out.splitlines()[-1].startswith("48 images by run, 0 failed, mean quality ")
    assert ending.out.splitlines()[-1].endswith("; scores in s.csv")
    assert "[/] [red]x" in ending.out
    assert (tmp_path / "s.csv").is_file()
    again = aigc(*given, "-o", "s.csv")
    assert (again.code, again.err.splitlines()[0]) == (2, "aigc: The output s.csv exists.")


def test_bad_images_and_the_exit_code(work: Work, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(next(work.images.iterdir()).read_bytes())
    (folder / "b.jpg").write_bytes(b"")
    given = ("score", folder, "--model", work.run, "--device", "cpu", "--json", "--overwrite")
    ending = aigc(*given)
    assert ending.code == 0
    found = json.loads(ending.out)
    assert (found["output"], found["rows"], found["failed"]) == ("scores.parquet", 2, 1)
    assert found["reasons"] == {"no_prompt": 1, "not_an_image": 1}
    assert found["means"]["consistency"] is None
    assert "1 x not_an_image: the content is not an image: it is empty, text or unknown data" in ending.err
    assert aigc(*given, "--fail-on-bad").code == 3


def test_a_pipe_gets_a_table_alone_and_no_control_sequence(work: Work, tmp_path: Path) -> None:
    given = ("score", work.images, "--model", work.run, "--device", "cpu", "--prompt", "狐狸")
    piped, filed = aigc(*given, "-o", "-"), aigc(*given, "-o", "s.csv")
    assert (piped.code, filed.code) == (0, 0)
    assert piped.out == (tmp_path / "s.csv").read_bytes().decode()
    assert not (tmp_path / "-").exists()
    assert "\x1b" not in piped.err + filed.out + filed.err
    refused = aigc(*given, "-o", "-", "--json")
    assert (refused.code, refused.out) == (2, "")
    plain = aigc(*given, "-o", "s.csv", "--overwrite", encoding="ascii")
    assert (plain.code, plain.out.isascii()) == (0, True)
    assert re.search(r" - [\d.]+ +#+ \d+", plain.out)
    assert "\\u72d0" in plain.out


def test_colour_only_where_it_is_wanted(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    ending = aigc("score", work.images, "--model", work.run, "--device", "cpu", "-o", "s.csv", "-q")
    assert ending.code == 0
    assert re.search(r"\x1b\[[0-9;]*(?:3[0-8]|9[0-7])", ending.out) is None


def test_the_demonstration_says_that_its_scores_are_not_human(
    work: Work, demo: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rated, "render_demo", lambda folder: demo)
    ending = aigc("eval", work.run, "--device", "cpu", "--json")
    assert ending.code == 0
    assert json.loads(ending.out)["metrics"]
    assert "they are not human scores." in ending.err


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has MPS")
def test_a_device_that_is_not_there(work: Work) -> None:
    ending = aigc("score", work.images, "--model", work.run, "--device", "mps")
    assert (ending.code, ending.out) == (4, "")
    assert "aigc: Expected the device mps, found none on this machine." in ending.err.splitlines()


def test_a_metric_with_its_interval_is_one_line_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    common = {"split": "prompt-disjoint 5-fold", "group": "all", "value": 0.757, "ci_low": 0.731, "ci_high": 0.784}
    targets = ("quality", "consistency", "zero_shot_cosine")
    rows = [common | {"target": t, "metric": m, "n": 2383, "reason": ""} for t in targets for m in METRICS]
    print_metrics("Recipe small", rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("0.757 [0.73, 0.78]") == 3 for line in lines) == len(METRICS)


def test_null_where_nothing_is_defined(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"run": "r", "split": "unseen", "group": "all", "target": "quality", "metric": "srocc"}
    row: dict[str, Any] = nothing | {"value": None, "ci_low": None, "ci_high": None, "n": 1}
    row["reason"] = "n = 1, at least 2 are needed"
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_: evaluate.EvaluationResult([row], [], "r", [], {}))
    assert json.loads(aigc("eval", "--json").out)["metrics"] == [row]
    out = aigc("eval").out
    assert re.search(r"SROCC +- *\n", out)
    assert "quality: n = 1, at least 2 are needed" in out


def test_a_run_leads_to_the_next_command(work: Work, tmp_path: Path) -> None:
    ending = aigc("recommend", "--run", work.run, "-o", "next.yaml")
    assert (ending.code, ending.err) == (0, "")
    found = json.loads(aigc("recommend", "--run", work.run, "--json").out)
    assert list(found) == ["n", "recipe", "reasons", "command", "run"]
    assert all(fault["fault"] in ending.out for fault in found["run"]["faults"])
    change = found["run"]["change"]
    assert change  # two epochs are too few to learn anything
    words = shlex.split(found["command"])
    assert words[words.index("--columns") + 1] == "image=name"
    ending = aigc(*words[1:], "--print-config", "-q")
    assert ending.code == 0
    printed = dict(line.partition(":")[::2] for line in ending.out.splitlines())
    assert all(printed[key].split("#")[0].strip() == f"{value:g}" for key, value in change.items())
    assert (
        (tmp_path / "next.yaml").read_text().startswith(f"# For 48 rated images, by `aigc recommend --run {work.run}")
    )


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_what_is_no_run(place: str) -> None:
    ending = aigc("recommend", "--run", place)
    assert (ending.code, ending.out) == (2, "")
    assert ending.err.startswith(f"aigc: Expected a run folder of `aigc train` at {place}, found none of its files.\n")


@pytest.mark.parametrize(
    "line", ["plot FOLDER", "recommend --run FOLDER", "score . --model FOLDER", "train --recipe FOLDER"]
)
def test_a_path_that_may_not_be_looked_at(line: str, tmp_path: Path) -> None:
    """Asking whether a file exists fails where a folder above it may not be entered."""
    locked = tmp_path / "locked"
    arguments = line.replace("FOLDER", str(locked / "inner" / "run")).split()
    assert aigc(*arguments).code == 2  # nothing there; and everything is imported from here on
    (locked / "inner").mkdir(parents=True)
    locked.chmod(0)
    user = os.geteuid()
    if user == 0:  # whom nothing is forbidden
        os.seteuid(65534)
    try:
        ending = aigc(*arguments)
    finally:
        os.seteuid(user)
        locked.chmod(0o755)
    assert ending.code == 4
    assert "Expected access to" in ending.err
    assert "Change the permissions" in ending.err


@pytest.mark.parametrize(("command", "flag"), [("eval", "--model"), ("score", "--folder"), ("pick", "--table")])
def test_an_argument_as_an_option_is_explained(command: str, flag: str) -> None:
    ending = aigc(command, flag, "runs/first")
    assert ending.code == 2
    assert f"Give it without {flag}: `aigc {command} {flag[2:].upper()}`." in ending.err
