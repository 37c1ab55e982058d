"""Recommendations by size: the policy's row for every size, and a command that gives these settings."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.cli import main as cli
from aigc_cli.errors import AigcError
from aigc_cli.recipe import FIELDS, Recipe, read_recipe, resolve_recipe
from aigc_cli.training.rates import complete_recipe
from aigc_cli.workflows.recommend.by_size import POLICY, recommend_by_size

TINY, SMALL = {"freeze": "all", "lr": 1e-3, "residual_scale_q": 0.1, "residual_scale_c": 0.1}, "small"
FEW = {
    "freeze": "partial",
    "freeze_depth": pytest.approx(20 / 24, abs=1e-4),
    "lr": 3e-5,
    "residual_scale_q": 0.2,
    "residual_scale_c": 0.2,
}
MANY = {"freeze": "partial", "freeze_depth": 0.75, "lr": 3e-5, "residual_scale_q": 0.3, "residual_scale_c": 0.3}
HUGE = {"freeze": "none", "lr": 1e-5, "residual_scale_q": 0.4, "residual_scale_c": 0.4}
SIZES = [
    *((n, TINY, SMALL) for n in (1, 499)),
    *((n, FEW, "medium") for n in (500, 2999)),
    *((n, MANY, "medium") for n in (3000, 9999)),
    *((n, HUGE, "large") for n in (10_000, 10**7, 10**9)),
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `aigc` in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run_aigc(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run_aigc


@pytest.mark.parametrize(("n", "settings", "name"), SIZES)
def test_every_size_has_the_row_of_the_policy(n: int, settings: dict[str, Any], name: str) -> None:
    found = recommend_by_size(n)
    assert {key: getattr(found.recipe, key) for key in settings} == settings
    others = FIELDS.keys() - settings.keys() - {"freeze_depth"}
    base = resolve_recipe({}, name).recipe
    assert {key: getattr(found.recipe, key) for key in others} == {key: getattr(base, key) for key in others}


@pytest.mark.parametrize("text", ["", "many", "3.5", "1e3", "0x10", "nan", "1,000", "0", "-1", "9" * 30])
def test_what_is_no_size_is_bad_usage(text: str, run: Run) -> None:
    code, out, err = run("recommend", "--n", text)
    assert (code, out) == (2, "")
    assert "--n" in err


@pytest.mark.parametrize(
    ("n", "freeze", "scale"),
    [
        *((n, "all", 0.1) for n in (1, 499)),
        *((n, "partial", 0.2) for n in (500, 2999)),
        *((n, "partial", 0.3) for n in (3000, 9999)),
        *((n, "none", 0.4) for n in (10_000, 10**7)),
    ],
)
def test_the_sizes_at_the_edges_on_the_command_line(n: int, freeze: str, scale: float, run: Run) -> None:
    code, out, err = run("recommend", "--n", str(n))
    assert (code, err) == (0, "")
    assert out.startswith(f"For {n:,} rated images:\n")
    shown = dict(re.findall(r"^  (\w+) +(\S+)", out, re.M))
    assert (shown["freeze"], float(shown["residual_scale_q"]), float(shown["residual_scale_c"])) == (
        freeze,
        scale,
        scale,
    )
    assert max(map(len, out.splitlines())) <= 80


def test_the_published_value_stands_beside_that_of_the_backbone() -> None:
    frozen, tuned = recommend_by_size(100), recommend_by_size(600)
    assert frozen.recipe.residual_scale_q == 0.1
    assert frozen.reasons["residual_scale_q"].endswith(
        "; here residual scale of quality 0.3 (3 x, set by mini for frozen features)"
    )
    assert "here" not in tuned.reasons["residual_scale_q"]
    assert tuned.recipe.lr == 3e-5
    assert tuned.reasons["lr"].endswith("; here head learning rate 0.0009 (30 x lr, set by mini)")


@pytest.mark.parametrize("n", [0, -1, 10**9 + 1, 10**10])
def test_a_size_that_cannot_be(n: int) -> None:
    with pytest.raises(AigcError) as caught:
        recommend_by_size(n)
    assert caught.value.message == f"Expected a number of rated images from 1 to 1,000,000,000, found {n:,}."
    assert caught.value.hint == "Try --n 3000."


@pytest.mark.parametrize("size", POLICY, ids=lambda size: str(size.start))
def test_every_setting_has_a_reason(size: Any) -> None:
    reasons = {key: reason for key, (_, reason) in size.settings.items()}
    assert all(reasons.values())
    found = recommend_by_size(max(1, size.start)).reasons
    assert all(found[key].startswith(reason) for key, reason in reasons.items())


def test_the_neighbours_say_what_would_change() -> None:
    assert recommend_by_size(400).neighbours == [
        "from 500 images: freeze partial, freeze_depth 0.8333, residual_scale_q 0.2, residual_scale_c 0.2, lr 3e-05"
    ]
    assert recommend_by_size(3000).neighbours == [
        "below 3,000 images: freeze_depth 0.8333, residual_scale_q 0.2, residual_scale_c 0.2",
        "from 10,000 images: freeze none, residual_scale_q 0.4, residual_scale_c 0.4, lr 1e-05",
    ]
    assert [line.partition(":")[0] for line in recommend_by_size(10**6).neighbours] == ["below 10,000 images"]


@pytest.mark.parametrize("n", [1, 500, 3000, 10_000])
def test_the_command_gives_the_recommended_recipe(n: int, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("recommend", "--n", str(n), "--json")
    found = json.loads(out)
    assert (code, list(found), found["n"]) == (0, ["n", "recipe", "reasons", "command"], n)
    assert found["recipe"].keys() == FIELDS.keys()
    assert found["reasons"].keys() <= FIELDS.keys()
    folded = run("recommend", "--n", str(n))[1].partition("\nRun:    ")[2]
    assert shlex.split(folded.replace("\\\n", "")) == shlex.split(found["command"])
    words = shlex.split(found["command"])
    assert words[:3] == ["aigc", "train", "--recipe"]
    assert words[-4:] == ["--data", "ratings.csv", "--images", "images/"]
    code, out, err = run(*words[1:], "--print-config")
    assert (code, err) == (0, "")
    (tmp_path / "printed.yaml").write_text(out)
    assert Recipe(**found["recipe"]) == recommend_by_size(n).recipe
    assert Recipe(**read_recipe(tmp_path / "printed.yaml")) == complete_recipe(recommend_by_size(n).recipe)


def test_the_recipe_file_is_the_recommended_recipe(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("recommend", "--n", "800", "-o", "mine.yaml")
    assert code == 0
    assert "For 800 rated images:" in out
    assert Recipe(**read_recipe(tmp_path / "mine.yaml")) == recommend_by_size(800).recipe
    before = (tmp_path / "mine.yaml").read_bytes()
    code, out, err = run("recommend", "--n", "80000", "-o", "mine.yaml")
    assert (code, out) == (2, "")
    assert err == "aigc: The output mine.yaml exists.\n      Add --overwrite, or choose another place with -o.\n"
    assert (tmp_path / "mine.yaml").read_bytes() == before
    assert run("recommend", "--n", "80000", "-o", "mine.yaml", "--overwrite")[0] == 0
    assert Recipe(**read_recipe(tmp_path / "mine.yaml")) == recommend_by_size(80_000).recipe
    assert run("recommend", "--n", "800", "-o", "mine.csv")[0] == 2


def test_the_recipe_file_says_how_it_came_about(run: Run, tmp_path: Path) -> None:
    assert run("recommend", "--n", "800", "-o", "mine.yaml")[0] == 0
    first = (tmp_path / "mine.yaml").read_text().splitlines()[0]
    assert first == "# For 800 rated images, by `aigc recommend --n 800`."


def write_ratings(path: Path, n: int = 60) -> Path:
    """A table of `n` rated images of as many prompts, without the images."""
    rows = [f"{i}.jpg,a prompt {i},{5 * i / n:.2f},{5 * (7 * i % n) / n:.2f},0.5" for i in range(n)]
    path.write_text("\n".join(["name,prompt,mos_quality,mos_align,std_quality", *rows]) + "\n")
    return path


def test_a_look_at_data_on_the_command_line(run: Run, tmp_path: Path) -> None:
    table = write_ratings(tmp_path / "my ratings.csv")
    options = ("--data", str(table), "--raters", "9")
    code, out, err = run("recommend", *options)
    assert (code, err) == (0, "")
    for part in ("60 rated images of 60 prompts", "ceiling", "SROCC", "For 60 rated images"):
        assert part in out
    assert max(len(line) for line in out.splitlines() if "--data" not in line) <= 80  # a path is never broken
    code, text, _ = run("recommend", *options, "--json", "-o", "mine.yaml")
    found = json.loads(text)
    assert (code, list(found)) == (0, ["n", "recipe", "reasons", "command", "data"])
    assert found["data"]["targets"]["quality"]["raters"] == 9
    assert found["data"]["targets"]["consistency"]["ceiling"] is None
    assert Recipe(**read_recipe(tmp_path / "mine.yaml")) == Recipe(**found["recipe"])
    assert "by `aigc recommend --data " in (tmp_path / "mine.yaml").read_text()
    words = shlex.split(found["command"])
    assert words[:2] == ["aigc", "train"]
    code, out, err = run(*words[1:], "--print-config")
    assert (code, err) == (0, "")
    (tmp_path / "printed.yaml").write_text(out)
    assert Recipe(**read_recipe(tmp_path / "printed.yaml")) == complete_recipe(Recipe(**found["recipe"]))
    assert "--start-from accurate" in found["command"]  # with 60 images


def test_the_scale_comes_from_where_train_takes_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = str(write_ratings(tmp_path / "r.csv"))
    code, _, err = run("recommend", "--data", table, "--mos-max", "3")
    assert code == 2
    assert "expected a number from 0 to 3" in err
    code, _, err = run("recommend", "--data", table, "--mos-max", "x")
    assert (code, "--mos-max" in err) == (2, True)
    monkeypatch.setenv("AIGC_MOS_MAX", "10")
    found = json.loads(run("recommend", "--data", table, "--json")[1])
    assert found["recipe"]["mos_max"] == 10
    assert "--mos-max 10" in found["command"]
