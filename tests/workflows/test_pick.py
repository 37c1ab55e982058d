"""Which images are picked, and the notes on ties and on gaps within the noise."""

from pathlib import Path
from typing import Any

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.storage.results import TableWriter, iterate_rows, read_table_metadata, write_table
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.pick import Choice, Picks, choose_images, find_files, pick_images, write_picks


def row(name: str, quality: float | None, consistency: float | None = 3.0, **given: Any) -> dict[str, Any]:
    found = dict.fromkeys(SCHEMAS["scores"].names) | {"name": name, "path": f"images/{name}", "prompt": "a fox"}
    return found | {"quality": quality, "consistency": consistency, "status": "ok"} | given


ROWS = [
    row("a.png", 2.0, 4.0),
    row("b.png", 3.0, 1.0),
    row("c.png", 2.9, 3.5),
    row("d.png", 1.0, 1.0, prompt="a house"),
    row("e.png", None, None, status="failed", reason="truncated", prompt="a boat"),
    row("f.png", 4.0, None, prompt=None, reason="no_prompt"),
]


def names(picks: Picks) -> list[str]:
    return [found["name"] for found in picks.rows]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), ["b.png", "d.png", "f.png"]),
        (Choice("consistency"), ["a.png", "d.png"]),
        (Choice("both"), ["c.png", "d.png"]),
        (Choice("both", (0.0, 2.0)), ["a.png", "d.png"]),
        (Choice("both", (1.0, 0.0)), ["b.png", "d.png", "f.png"]),
        (Choice(keep=2), ["b.png", "c.png", "d.png", "f.png"]),
        (Choice(group="none"), ["f.png"]),
        (Choice(group="none", share=0.4), ["f.png", "b.png"]),
        (Choice(share=0.34), ["b.png", "c.png", "d.png", "f.png"]),
        (Choice(group="status", keep=9), ["f.png", "b.png", "c.png", "a.png", "d.png"]),
        (Choice(min_quality=2.95), ["b.png", "f.png"]),
        (Choice(min_consistency=2), ["c.png"]),
    ],
)
def test_the_best_of_each_group(choice: Choice, expected: list[str]) -> None:
    assert names(choose_images(ROWS, choice)) == expected


def test_both_is_the_weighted_mean() -> None:
    (best, *_) = choose_images(ROWS, Choice("both", (3.0, 1.0))).rows
    assert (best["name"], best["pick_score"]) == ("c.png", pytest.approx(0.75 * 2.9 + 0.25 * 3.5))


def test_what_could_not_be_picked_is_counted() -> None:
    found = choose_images(ROWS, Choice("consistency", min_consistency=2))
    assert found.left_out == {"failed": 1, "no score for consistency (no prompt)": 1, "consistency below 2": 2}
    assert (found.images, found.groups) == (6, 1)
    assert [r["pick_group"] for r in choose_images(ROWS, Choice()).rows] == ["a fox", "a house", "(no prompt)"]


def test_images_of_one_folder_are_a_group() -> None:
    rows = [row("1.png", 1.0, path="a/1.png"), row("2.png", 2.0, path="a/2.png"), row("3.png", 0.5, path="b/3.png")]
    assert names(choose_images(rows, Choice(group="folder"))) == ["2.png", "3.png"]


def test_ties_are_named_and_broken_by_name() -> None:
    equal = [row("b.png", 2.0), row("a.png", 2.0005), row("c.png", 1.0)]
    (best,) = choose_images([equal[2], equal[0], equal[1] | {"quality": 2.0}], Choice()).rows
    assert (best["name"], best["pick_note"]) == ("a.png", "tie with b.png")
    assert choose_images(equal, Choice()).rows[0]["pick_note"] == "tie with b.png"
    assert [r["pick_note"] for r in choose_images(equal, Choice(keep=2)).rows] == [None, None]
    assert choose_images(equal, Choice(keep=3)).rows[2]["pick_note"] is None


def test_a_gap_within_the_noise_is_named() -> None:
    def noisy(half: float) -> list[dict[str, Any]]:
        ends = [{"quality_low": q - half, "quality_high": q + half} for q in (3.0, 2.5)]
        return [row("a.png", 3.0, **ends[0]), row("b.png", 2.5, **ends[1])]

    assert choose_images(noisy(0.40), Choice()).rows[0]["pick_note"] == "not clearly better than b.png"
    assert choose_images(noisy(0.30), Choice()).rows[0]["pick_note"] is None
    assert choose_images(noisy(0.40), Choice("consistency")).rows[0]["pick_note"] == "tie with b.png"
    as_text = [{**r, **{key: str(r[key]) for key in ("quality_low", "quality_high")}} for r in noisy(0.40)]
    assert (
        choose_images(as_text, Choice()).rows[0]["pick_note"] == "not clearly better than b.png"
    )  # as a CSV may hold them


@pytest.mark.parametrize(
    "given",
    [{"by": "beauty"}, {"weights": (0, 0)}, {"weights": (-1, 2)}, {"keep": 0}, {"share": 0.0}, {"share": 1.5}],
)
def test_a_choice_that_makes_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(AigcError, match="Expected"):
        Choice(**given)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(AigcError, match="Expected a column scheduler to group by, found name, path"):
        choose_images(ROWS, Choice(group="scheduler"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_picks_are_a_table_of_scores_again(suffix: str, tmp_path: Path) -> None:
    table, output = tmp_path / f"s{suffix}", tmp_path / f"p{suffix}"
    with TableWriter(table, "scores", {"model_hash": "abc", "inputs": "d"}, extra=("scheduler",)) as writer:
        writer.write([{**r, "scheduler": "euler"} for r in ROWS])
    picks = pick_images(table, Choice(group="scheduler", keep=2))
    assert names(picks) == ["f.png", "b.png"]
    write_picks(picks, table, output)
    again = list(iterate_rows(output))
    assert [(r["name"], r["quality"], r["scheduler"], r["pick_rank"]) for r in again] == [
        ("f.png", 4.0, "euler", "1"),
        ("b.png", 3.0, "euler", "2"),
    ]
    metadata = read_table_metadata(output)
    assert metadata["model_hash"] == "abc"
    assert "inputs" not in metadata  # else it would count as a whole scoring
    assert names(pick_images(output, Choice(group="scheduler"))) == ["f.png"]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AigcError) as caught:
        pick_images(tmp_path, Choice())
    assert caught.value.hint == f"Score it first: aigc score {tmp_path} -o scores.parquet"
    with pytest.raises(AigcError, match="Expected a table"):
        pick_images(tmp_path / "a.txt", Choice())


def test_the_files_of_rows(tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b.png"
    odd.write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = [row("a\\x1b.png", 1.0, path=str(tmp_path / "a\\x1b.png")), row("b.png", 1.0, path=f"{tmp_path}/x/b.png")]
    assert find_files(rows, tmp_path) == [odd, tmp_path / "x/b.png"]
    assert find_files(rows, Path("elsewhere"), tmp_path) == [odd, tmp_path / "b.png"]
    for name in ("../b.png", "/b.png"):
        with pytest.raises(AigcError, match="inside the image folder"):
            find_files([row(name, 1.0)], tmp_path, tmp_path)
    with pytest.raises(AigcError, match="Expected a path"):
        find_files([row("b.png", 1.0, path=None)], tmp_path)
    for path in ("/etc/passwd", "x/ab.png", "b.png/x", ""):  # what is moved is what is shown
        with pytest.raises(AigcError, match=r"Expected a path .*b\.png"):
            find_files([row("b.png", 1.0, path=path)], tmp_path)


@pytest.mark.parametrize(
    "path", ["{tmp}/secret/b.png", "images/../../secret/b.png", "images/out/b.png", "images/b.png"]
)
def test_a_table_names_no_file_outside_its_folder(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table from a stranger could name any file, which `--move` would move and a report would show."""
    home, secret = tmp_path / "home", tmp_path / "secret"
    (home / "images").mkdir(parents=True)
    secret.mkdir()
    (secret / "b.png").write_bytes(b"private")
    (home / "images" / "out").symlink_to(secret)
    (home / "images" / "b.png").symlink_to(secret / "b.png")
    monkeypatch.chdir(home)
    bad = row("b.png", 1.0, path=path.format(tmp=tmp_path))
    with pytest.raises(AigcError, match="which leads out of it") as caught:
        find_files([bad], Path())
    assert "name their folder: --images " in caught.value.hint
    with pytest.raises(AigcError, match="which leads out of it"):
        find_files([bad], Path(), home / "images")
    assert find_files([bad], Path(), secret) == [secret / "b.png"]  # the user names the folder


def test_a_table_without_rows_picks_nothing(tmp_path: Path) -> None:
    write_table(tmp_path / "s.csv", "scores", [], {})
    assert pick_images(tmp_path / "s.csv", Choice()) == Picks([], 0, 0, {})
