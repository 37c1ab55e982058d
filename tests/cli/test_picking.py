"""`aigc pick` and `aigc compare` on the command line: what goes to stdout, to files, and through pipes."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import Work, aigc, process
from PIL import Image

from aigc_cli.storage.results import iterate_rows, write_table
from aigc_cli.storage.schemas import SCHEMAS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three images of each of six prompts, the last of each the best; one failed."""
    (tmp_path / "images").mkdir()
    rows = []
    for prompt in range(6):
        for image in range(3):
            name = f"{prompt} {image}.png"
            (tmp_path / "images" / name).write_bytes(name.encode())
            row = dict.fromkeys(SCHEMAS["scores"].names) | {"name": name, "path": f"images/{name}", "status": "ok"}
            row |= {"prompt": f"prompt {prompt}", "quality": 1.0 + image + prompt / 10, "consistency": 3.0 - image}
            rows.append(row)
    rows.append(dict.fromkeys(SCHEMAS["scores"].names) | {"name": "bad.png", "status": "failed", "reason": "truncated"})
    write_table(tmp_path / "s.parquet", "scores", rows, {"model_hash": "abc"})
    return tmp_path / "s.parquet"


def test_the_picks_are_listed(table: Path) -> None:
    ending = aigc("pick", table)
    assert ending.code == 0
    assert ending.out.splitlines()[-1] == "6 of 19 images picked from 6 groups by quality"
    assert "5 2.png" in ending.out
    assert "5 1.png" not in ending.out
    assert ending.err == "1 not picked: failed\n"
    both = aigc("pick", table, "--by", "both", "--weights", "3,1", "-q").out
    assert both.splitlines()[-1] == "6 of 19 images picked from 6 groups by 0.75 x quality + 0.25 x consistency"
    tied = aigc("pick", table, "--by", "consistency", "--group", "none", "-q").out
    assert "0 0.png: tie with 1 0.png" in tied


def test_only_the_first_picks_without_a_clear_choice_are_named(table: Path, tmp_path: Path) -> None:
    rows = [{**row, "quality": 2.0} for row in iterate_rows(table) if row["status"] == "ok"]
    write_table(tmp_path / "alike.parquet", "scores", rows, {"model_hash": "abc"})
    lines = aigc("pick", tmp_path / "alike.parquet", "-q").out.splitlines()
    assert sum(": tie with " in line for line in lines) == 5
    assert "... and 1 more with a note; -o writes all of them to pick_note." in lines


def test_paths_alone(table: Path) -> None:
    expected = [f"images/{prompt} 2.png" for prompt in range(6)]
    ending = aigc("pick", table, "--paths", "-q")
    assert (ending.code, ending.out.splitlines(), ending.err) == (0, expected, "")
    piped = aigc("pick", table, "--null", "-q")
    assert piped.out.split("\0") == [*expected, ""]
    found = json.loads(aigc("pick", table, "--json", "-q").out)
    assert [row["file"] for row in found["picks"]] == expected
    assert found["left_out"] == {"failed": 1}


def test_a_path_of_two_lines_needs_null(tmp_path: Path) -> None:
    row = dict.fromkeys(SCHEMAS["scores"].names) | {"name": "a\nb", "path": "a\nb", "status": "ok", "quality": 1.0}
    write_table(tmp_path / "s.parquet", "scores", [row], {})
    assert aigc("pick", "s.parquet", "--paths").err.startswith("aigc: Expected paths without a line break")
    assert aigc("pick", "s.parquet", "--null").out == "a\nb\0"


@pytest.mark.parametrize("flag", ["--copy", "--link", "--move"])
def test_there_and_back(flag: str, table: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in (tmp_path / "images").iterdir())
    dry = aigc("pick", table, flag, "best", "--dry-run", "--paths")
    assert (dry.code, (tmp_path / "best").exists()) == (0, False)
    assert f"{tmp_path}/best/5 2.png" in dry.err
    assert dry.out.splitlines()[-1] == "images/5 2.png"
    ending = aigc("pick", table, flag, "best", "--paths")
    assert ending.out.splitlines() == [f"{tmp_path}/best/{prompt} 2.png" for prompt in range(6)]
    (record,) = (tmp_path / "best").glob("undo-*.json")
    assert f"To undo: aigc pick --undo {record}" in ending.err
    again = aigc("pick", table, "--copy", "best", "--images", "images")
    assert (again.code, "nothing is overwritten" in again.err or "found none" in again.err) == (2, True)
    back = aigc("pick", "--undo", record)
    assert (back.code, back.out) == (0, "6 files undone.\n")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == before
    assert not (tmp_path / "best").exists()


def test_symbolic_links(table: Path, tmp_path: Path) -> None:
    assert aigc("pick", table, "--link", "best", "--symbolic", "-q").code == 0
    assert (tmp_path / "best" / "0 2.png").readlink() == tmp_path / "images" / "0 2.png"


def test_an_undo_that_leaves_something_says_so(table: Path, tmp_path: Path) -> None:
    aigc("pick", table, "--copy", "best")
    (tmp_path / "best" / "0 2.png").write_bytes(b"edited")
    (record,) = (tmp_path / "best").glob("undo-*.json")
    ending = aigc("pick", "--undo", record)
    assert (ending.code, ending.out) == (3, "5 files undone.\n")
    assert "Not undone, and kept in the list: 1 file." in ending.err
    assert "0 2.png: the file or its original was changed" in ending.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "Expected a table of scores, found none."),
        ("images", "Expected a table of scores, found the folder images."),
        ("s.parquet --by beauty", "Expected --by quality, consistency, both, found beauty."),
        ("s.parquet --weights 1", "Expected --weights QUALITY,CONSISTENCY, found '1'."),
        ("s.parquet -k 0", "Expected --keep of 1 or more, found 0."),
        ("s.parquet -k 1 --top-share 0.5", "Expected either --keep or --top-share, found both."),
        ("s.parquet --copy a --move b", "Expected one of --copy, --link and --move, found --copy and --move."),
        ("s.parquet --dry-run", "Expected --copy, --link or --move beside --dry-run, found none."),
        ("s.parquet --symbolic --copy a", "Expected --link beside --symbolic, found none."),
        ("s.parquet --paths --json", "Expected one of --paths, --json and -o -, found several."),
        ("s.parquet --undo x.json", "Expected --undo without a table, found both."),
        ("--undo no.json", "Expected an undo list of `aigc pick` at no.json"),
    ],
)
def test_bad_usage(line: str, message: str, table: Path) -> None:
    ending = aigc("pick", *line.split())
    assert (ending.code, ending.out) == (2, "")
    assert ending.err.startswith(f"aigc: {message}")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_table_by_standard_input(suffix: str, table: Path, tmp_path: Path) -> None:
    write_table(tmp_path / f"t{suffix}", "scores", list(iterate_rows(table)), {})
    piped = aigc("pick", "-", "--paths", stdin=(tmp_path / f"t{suffix}").read_bytes())
    assert (piped.code, piped.out) == (0, aigc("pick", table, "--paths").out)


def test_a_wrong_table_by_standard_input() -> None:
    empty = aigc("pick", "-", "--paths")
    assert (empty.code, empty.out) == (2, "")
    assert "found nothing" in empty.err
    wrong = aigc("pick", "-", "--paths", stdin=b"name\na\n")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("aigc: Expected a CSV table at standard input, found no column path")
    assert tempfile.gettempdir() not in wrong.err


@pytest.mark.slow
def test_a_process_reads_and_writes_pipes(table: Path) -> None:
    text = process("pick", table, "-o", "-", "-q").out
    assert process("pick", "-", "--paths", "-q", stdin=text).out == aigc("pick", table, "--paths").out


@pytest.mark.slow
def test_the_comparison_is_shown_within_80_columns(table: Path, tmp_path: Path) -> None:
    assert aigc("pick", table, "-o", "best.csv", "-q").code == 0
    ending = aigc("compare", table, "best.csv", "--by", "status", "--plot", "c.svg", "-o", "c.csv")
    assert ending.code == 0
    assert [line for line in ending.out.splitlines() if len(line) > 80] == []
    for part in ("quality, baseline s; means s 2.25, best 3.25", "+1.00 [+1.00, +1.00]", "100%", "better", "worse"):
        assert part in ending.out
    assert "s: 1 failed rows left out (1 truncated)." in ending.err
    assert (tmp_path / "c.svg").is_file()
    rows = json.loads(aigc("compare", table, "best.csv", "--json", "-q").out)["rows"]
    assert rows == [row for row in iterate_rows(tmp_path / "c.csv", "comparison") if row["group"] == "all"]
    few = aigc("pick", table, "--group", "none", "-k", "3", "-o", "few.csv", "-q")
    assert few.code == 0
    shown = aigc("compare", table, "few.csv").out
    assert "can't tell" in shown
    assert "no interval: fewer than 5 prompts" in shown


def test_folders_are_compared(work: Work, tmp_path: Path) -> None:
    given = ("--columns", "image=name", "--prompts", work.table, "--model", work.run, "--device", "cpu")
    for side in "ab":
        (tmp_path / side / "out").mkdir(parents=True)
    for image in work.images.iterdir():
        (tmp_path / "a" / "out" / image.name).symlink_to(image)
        (tmp_path / "b" / "out" / image.name).symlink_to(image)
    before = sorted(tmp_path.rglob("*"))
    ending = aigc("compare", "a/out", "b/out", *given)
    assert ending.code == 0, ending.err
    assert "quality, baseline a/out; means a/out " in ending.out
    assert "Paired image by image" in ending.out
    assert "scoring a/out: 48\nscoring b/out: 48\n" in ending.err
    rows = json.loads(aigc("compare", "a/out", "b/out", *given, "--json").out)["rows"]
    assert {row["difference"] for row in rows} == {0}
    (tmp_path / "empty").mkdir()
    ending = aigc("compare", "a/out", "empty", *given, "-o", "c.csv", "--report", "r.html")
    assert (ending.code, ending.out) == (2, "")
    assert ending.err.startswith("aigc: empty: expected images")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "empty"])


@pytest.mark.slow
def test_a_stopped_comparison_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    for folder in ("a", "b", "scratch"):
        (tmp_path / folder).mkdir()
    picture = Image.linear_gradient("L").resize((512, 512))
    picture.save(tmp_path / "b" / "0.png")
    for i in range(3000):
        (tmp_path / "a" / f"{i}.png").hardlink_to(tmp_path / "b" / "0.png")
    before = sorted(tmp_path.rglob("*"))
    with subprocess.Popen(
        [*f"{sys.executable} -m aigc_cli compare a b --device cpu -o c.csv --model".split(), tiny_model],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "scratch")},
    ) as running:
        assert running.stderr is not None
        while not running.stderr.readline().startswith("scoring a"):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "aigc: Interrupted; no result was written.\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_pipe_of_the_documentation_runs_as_it_is_written(tmp_path: Path) -> None:
    """In a shell, with the shipped scorer, on the example images."""
    page = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- pipe -->\s*```sh\n(.*?)```", page, re.S)
    assert found is not None
    (tmp_path / "pictures").symlink_to(ROOT / "examples")
    (tmp_path / "prompts.csv").symlink_to(ROOT / "examples" / "prompts.csv")
    (tmp_path / "aigc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aigc_cli "$@"\n')
    (tmp_path / "aigc").chmod(0o755)
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", found[1]],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | where,
    )
    assert done.returncode == 0, done.stderr
    assert "quality, baseline scores; means scores " in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    rows = list(iterate_rows(tmp_path / "scores.csv"))
    assert len(rows) == 12
    prompts = {row["prompt"] for row in rows}
    best = [max(row["quality"] for row in rows if row["prompt"] == prompt) for prompt in prompts]
    mean = [[row["quality"] for row in rows if row["prompt"] == prompt] for prompt in prompts]
    gain = sum(best) / len(best) - sum(sum(part) / len(part) for part in mean) / len(mean)
    assert f"{gain:+.2f} [" in done.stdout
    assert not re.search(r"could not|Traceback", done.stderr)
