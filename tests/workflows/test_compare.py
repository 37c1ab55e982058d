"""Comparisons of tables and of folders: pairing, figures against NumPy, verdicts, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scored import score

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.by_name import UNDECIDED, estimate_mean
from aigc_cli.progress import SilentProgress
from aigc_cli.report.page_output import PageOutput
from aigc_cli.runtime.saved import read_model
from aigc_cli.storage.results import TableWriter, iterate_rows, read_parquet_rows, write_table
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.compare import Comparison, ComparisonPlan, compare_tables, label_tables
from aigc_cli.workflows.reports import report_comparison
from aigc_cli.workflows.score.plan import ScoringPlan, Selection

Rows = list[dict[str, Any]]
Make = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Make:
    def make(name: str, rows: Rows, extra: tuple[str, ...] = (), **metadata: str) -> Path:
        said = {"model": "m", "model_hash": "abc", "mos_min": "0.0", "mos_max": "5.0"} | metadata
        with TableWriter(tmp_path / name, "scores", said, extra) as writer:
            writer.write(rows)
        return tmp_path / name

    return make


def scored(shift: float = 0.0, prompts: int = 20, each: int = 3, seed: int = 0, name: str = "", **given: Any) -> Rows:
    """Images whose quality has a part that their prompt shares; consistency is the same whatever the shift."""
    random = np.random.default_rng(0)
    level = random.uniform(1, 4, prompts)
    noise = np.random.default_rng(seed).normal(0, 0.3, (prompts, each))
    blank = dict.fromkeys(SCHEMAS["scores"].names)
    return [
        blank
        | {"name": f"{name}{p}-{i}.png", "prompt": f"prompt {p}", "status": "ok"}
        | {"quality": float(level[p] + noise[p, i] + shift), "consistency": float(level[p])}
        | given
        for p in range(prompts)
        for i in range(each)
    ]


def of(found: Comparison, target: str = "quality", group: str = "all", nth: int = 0) -> dict[str, Any]:
    return [row for row in found.rows if (row["target"], row["group"]) == (target, group)][nth]


def test_the_same_images_are_paired_one_by_one(table: Make) -> None:
    """Pairing shows a shift far smaller than the spread of images; the interval is that of the mean difference."""
    before, after = scored(), scored(0.05)
    for row, noise in zip(after, np.random.default_rng(5).normal(0, 0.05, 60), strict=True):
        row["quality"] += float(noise)
    found = compare_tables([table("a.parquet", before), table("b.csv", after)])
    assert (found.labels, found.paired_by, found.notes) == (["a", "b"], "image", [])
    row = of(found)
    changes = [b["quality"] - a["quality"] for a, b in zip(before, after, strict=True)]
    expected = estimate_mean(changes, [r["prompt"] for r in before])
    assert (row["difference"], row["ci_low"], row["ci_high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert (row["pairs"], row["prompts"], row["verdict"]) == (60, 20, "better")
    means = np.array(changes).reshape(20, 3).mean(axis=1)
    wins = np.where(np.abs(means) <= 1e-3, 0.5, means > 0)
    assert row["win_rate"] == pytest.approx(np.mean(wins))
    assert row["win_low"] <= row["win_rate"] <= row["win_high"]
    same = of(found, "consistency")
    assert (same["difference"], same["win_rate"], same["verdict"]) == (0, 0.5, UNDECIDED)


def test_other_images_are_paired_by_prompt(table: Make) -> None:
    before, after = scored(), scored(-0.5, seed=1, name="other ", each=5)
    found = compare_tables([table("a.parquet", before), table("b.parquet", after)])
    row = of(found)
    assert (found.paired_by, row["pairs"], row["prompts"], row["verdict"]) == ("prompt", 20, 20, "worse")
    means = [
        np.mean([r["quality"] for r in after if r["prompt"] == f"prompt {p}"])
        - np.mean([r["quality"] for r in before if r["prompt"] == f"prompt {p}"])
        for p in range(20)
    ]
    assert row["difference"] == pytest.approx(np.mean(means))
    assert row["win_rate"] == pytest.approx(np.mean(np.array(means) > 0))


def test_equal_names_under_other_prompts_are_no_pairs(table: Make) -> None:
    """`00001.png` of two folders, in another order of prompts."""
    before, after = scored(), scored(seed=1)
    for row, other in zip(after, scored()[::-1], strict=True):
        row["name"] = other["name"]
    tables = [table("a.parquet", before), table("b.parquet", after)]
    assert compare_tables(tables).paired_by == "prompt"
    with pytest.raises(AigcError, match="Expected the same images under the same prompts"):
        compare_tables(tables, ComparisonPlan(pair="image"))


@pytest.mark.slow
def test_intervals_are_as_wide_as_they_should_be(table: Make) -> None:
    """Without a difference about 1 of 20 verdicts is wrong: 6 of 20 would be far too many."""
    called = 0
    for seed in range(20):
        tables = [
            table("a.parquet", scored(seed=2 * seed, each=1)),
            table("b.parquet", scored(seed=2 * seed + 1, each=1)),
        ]
        called += of(compare_tables(tables))["verdict"] != UNDECIDED
    assert called < 6


def test_four_prompts_tell_nothing(table: Make) -> None:
    row = of(compare_tables([table("a.parquet", scored(prompts=4)), table("b.parquet", scored(3.0, prompts=4))]))
    assert row["difference"] == pytest.approx(3)
    assert (row["ci_low"], row["win_low"], row["verdict"]) == (None, None, UNDECIDED)
    assert row["reason"] == "no interval: fewer than 5 prompts"


def test_effect_per_group(table: Make) -> None:
    sides = []
    for name, shifts in (("a.parquet", (0, 0)), ("b.csv", (1.0, -1.0))):
        rows = scored(shifts[0], sampler="euler") + scored(shifts[1], name="s", sampler="ddim")
        sides.append(table(name, rows))
    found = compare_tables(sides, ComparisonPlan(by="sampler"))
    verdicts = {g: of(found, group=g)["verdict"] for g in ("all", "sampler=euler", "sampler=ddim")}
    assert verdicts == {"all": UNDECIDED, "sampler=euler": "better", "sampler=ddim": "worse"}
    with pytest.raises(AigcError, match="Expected a column scheduler in a, found name"):
        compare_tables(sides, ComparisonPlan(by="scheduler"))


def test_what_is_left_out_and_who_scored_is_said(table: Make, tmp_path: Path) -> None:
    before = scored() + scored(prompts=1, each=2, name="bare", prompt=None)
    after = scored(prompts=19, name="b")
    after[0] |= {"status": "failed", "quality": None, "consistency": None}
    found = compare_tables([table("a.parquet", before), table("b.csv", after, model_hash="other", model="n")])
    assert found.notes == [
        "Different models scored the tables (a: m, b: n): a difference may come from the model.",
        "a: 2 images without a prompt left out.",
        "b: 1 failed rows left out.",
        "a: 1 prompts are not in all tables.",
    ]
    (tmp_path / "b.csv.meta.json").unlink()
    found = compare_tables([tmp_path / "a.parquet", tmp_path / "b.csv"])
    assert found.notes[0].startswith("The model behind b is unknown;")


def test_the_first_of_several_tables_is_the_baseline(table: Make, tmp_path: Path) -> None:
    tables = []
    for folder, shift in (("x", 0.0), ("y", 0.4), ("z", -0.4)):
        (tmp_path / folder).mkdir()
        tables.append(table(f"{folder}/scores.parquet", scored(shift)))
    found = compare_tables(tables, ComparisonPlan(output=tmp_path / "c.csv", plot=tmp_path / "c.svg"))
    assert found.labels == ["x/scores", "y/scores", "z/scores"]
    assert [of(found, nth=i)["verdict"] for i in (0, 1)] == ["better", "worse"]
    assert {row["baseline"] for row in found.rows} == {"x/scores"}
    assert list(iterate_rows(tmp_path / "c.csv", "comparison")) == found.rows
    drawing = (tmp_path / "c.svg").read_text()
    for part in ("y/scores - x/scores", "quality", "consistency", "difference of means (MOS)"):
        assert part in drawing
    compare_tables(tables, ComparisonPlan(output=tmp_path / "c.parquet", plot=tmp_path / "c.png"))
    assert read_parquet_rows(tmp_path / "c.parquet") == found.rows
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AigcError, match=r"c\.svg exists"):
        compare_tables(tables, ComparisonPlan(plot=tmp_path / "c.svg"))


@pytest.mark.parametrize(
    ("rows", "metadata", "message"),
    [
        (scored(prompt="elsewhere"), {}, "Expected prompts that a and b have in common"),
        (scored(status="failed"), {}, "Expected scored images in"),
        (scored(), {"mos_max": "100.0"}, r"Expected scores on one scale, found 0\.0 to 100\.0 and 0\.0 to 5\.0"),
    ],
)
def test_what_can_not_be_compared(rows: Rows, metadata: dict[str, str], message: str, table: Make) -> None:
    with pytest.raises(AigcError, match=message):
        compare_tables([table("a.parquet", scored()), table("b.parquet", rows, **metadata)])
    with pytest.raises(AigcError, match="Expected two tables or more"):
        compare_tables([table("a.parquet", scored())])


@pytest.fixture
def folders(demo: list[Sample], tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two folders `out` of 18 images each, one of which is broken; and one table of prompts for both, and for more."""
    lines = ["name,prompt", "nowhere.png,a prompt of another folder"]
    for side, parent in enumerate(("x", "y")):
        (tmp_path / parent / "out" / "below").mkdir(parents=True)
        for i in range(18):
            name = f"{parent}{i:02}.png"
            (tmp_path / parent / "out" / name).write_bytes(demo[18 * side + i].path.read_bytes())
            lines.append(f"{name},prompt {i % 6}")
        (tmp_path / parent / "out" / "below" / "more.png").write_bytes(demo[-1].path.read_bytes())
    (tmp_path / "y" / "out" / "y17.png").write_bytes(b"broken")
    (tmp_path / "p.csv").write_text("\n".join(lines))
    return tmp_path / "x" / "out", tmp_path / "y" / "out", tmp_path / "p.csv"


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.slow
def test_folders_are_compared_as_their_tables_would_be(
    folders: tuple[Path, Path, Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, prompts = folders
    tables = []
    for folder in (one, other):
        tables.append(tmp_path / f"{folder.parent.name}.parquet")
        score(folder, tables[-1], tiny_model, prompts=prompts)
    expected = compare_tables(tables, ComparisonPlan(pair="prompt"))
    loaded = []
    monkeypatch.setattr("aigc_cli.workflows.score.scorer.read_model", lambda at: loaded.append(at) or read_model(at))
    before = everything_in(tmp_path)
    scoring = ScoringPlan(prompts=prompts, model=tiny_model, device="cpu")
    found = compare_tables([one, other], ComparisonPlan(scoring=scoring))
    assert everything_in(tmp_path) == before
    assert loaded == [tiny_model]
    assert found.labels == [str(one), str(other)]
    assert found.paired_by == "prompt"  # although one table of prompts names the images of both
    names = {"x": str(one), "y": str(other)}
    assert found.rows == [row | {k: names[row[k]] for k in ("table", "baseline")} for row in expected.rows]
    assert of(found)["prompts"] == 6
    assert found.notes == [f"{other}: 1 failed rows left out (1 not_an_image)."]
    assert found.scores[0].all_rows == list(iterate_rows(tables[0]))[:18]

    mixed = compare_tables([tables[0], other], ComparisonPlan(pair="prompt", scoring=scoring))
    assert mixed.labels == ["x", str(other)]
    same = [{**row, "table": "y"} for row in mixed.rows]
    assert same == expected.rows
    assert not any("model" in note for note in mixed.notes)


def test_a_table_by_another_scorer_beside_a_folder(
    folders: tuple[Path, Path, Path], table: Make, tiny_model: Path
) -> None:
    one, _, prompts = folders
    scoring = ScoringPlan(prompts=prompts, model=tiny_model, device="cpu")
    found = compare_tables([table("a.parquet", scored(prompts=6)), one], ComparisonPlan(scoring=scoring))
    assert found.notes[0].startswith(f"Different models scored the tables (a: m, {one}: run)")
    with pytest.raises(AigcError, match="Expected scores on one scale"):
        compare_tables([table("b.parquet", scored(prompts=6), mos_max="100.0"), one], ComparisonPlan(scoring=scoring))


def test_how_a_folder_is_scored(folders: tuple[Path, Path, Path], tiny_model: Path) -> None:
    one, other, _ = folders
    selection = Selection(recursive=True, exclude=["y1*"])
    scoring = ScoringPlan(prompt="a fox", selection=selection, model=tiny_model, device="cpu")
    found = compare_tables([one, other], ComparisonPlan(scoring=scoring))
    assert [len(scores.all_rows) for scores in found.scores] == [19, 11]
    assert {row["prompt_source"] for scores in found.scores for row in scores.all_rows} == {"option"}


def test_what_is_wrong_is_found_before_a_model_is_loaded(
    folders: tuple[Path, Path, Path], table: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_cli.workflows.score.scorer.read_model", lambda _: pytest.fail("it was loaded"))
    one, _, prompts = folders
    (tmp_path / "empty").mkdir()
    tables = [table("a.csv", scored()), table("b.csv", scored())]
    (tmp_path / "torn.csv").write_text("name,status\n")
    for given, scoring, message in (
        ([one, tmp_path / "empty"], ScoringPlan(), r"empty: expected images .* found none in 0 entries"),
        ([one, tmp_path / "torn.csv"], ScoringPlan(), "Expected a CSV table"),
        (
            [one, tmp_path / "gone"],
            ScoringPlan(),
            "Expected a table .parquet, .csv, .jsonl or a folder of images, found",
        ),
        ([one, one], ScoringPlan(prompts=tmp_path / "gone.csv"), "gone.csv"),
        (
            [one, one],
            ScoringPlan(prompts=prompts, selection=Selection(include=["*.gif"])),
            "expected images selected by --include and --exclude",
        ),
        ([one, one], ScoringPlan(prompt="a \udcff"), "Expected --prompt as UTF-8 text"),
        (tables, ScoringPlan(prompts=prompts), "Expected a folder of images for the scoring options"),
    ):
        with pytest.raises(AigcError, match=message):
            compare_tables(given, ComparisonPlan(scoring=scoring, output=tmp_path / "c.csv"))
    assert not (tmp_path / "c.csv").exists()


def test_folders_are_called_what_they_were_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sd-1.4", "sd-1.5", "x/out", "y/out"):
        Path(name).mkdir(parents=True)
    assert label_tables([Path("sd-1.4/"), Path("sd-1.5")]) == ["sd-1.4", "sd-1.5"]
    assert label_tables([Path("x/out"), Path("y/out"), Path("out.csv")]) == ["x/out", "y/out", "out"]
    assert label_tables([Path("sd-1.4"), Path("sd-1.4.csv")]) == ["sd-1.4", f"{tmp_path.name}/sd-1.4"]
    assert label_tables([Path("x/out"), Path("x/../x/out"), Path("x/out")]) == ["1: x/out", "2: x/../x/out", "3: x/out"]


def test_a_report_shows_no_file_outside_the_folder_of_its_table(tmp_path: Path) -> None:
    """A table from a stranger could name any picture, and the page would carry it."""
    secret, home = tmp_path / "secret", tmp_path / "home"
    for folder in (secret, home):
        folder.mkdir()
        Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    for name, folder in (("own", home), ("foreign", secret)):
        row = {"name": "a.png", "path": str(folder / "a.png"), "prompt": "a", "status": "ok", "quality": 1.0}
        write_table(home / f"{name}.csv", "scores", [dict.fromkeys(SCHEMAS["scores"].names) | row], {})
    found = compare_tables([home / "own.csv", home / "foreign.csv"])
    report_comparison(found, PageOutput(home / "r.html"), SilentProgress())
    page = (home / "r.html").read_text()
    assert str(secret) not in page
    assert page.count("data:image/webp") == 1
