"""Folders without a CSV: each image's prompt is found, with its source and the settings of the generator."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rated import write_table
from scored import score as score_table
from written import (
    A1111,
    A1111_PROMPT,
    A1111_SETTINGS,
    FOOOCUS,
    INVOKEAI,
    comfy_png,
    comfy_webp,
    comment_exif,
    encode_image,
    fooocus_exif,
    node,
    novelai_texts,
    plain_graph,
    png,
    unicode_comment,
)

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.progress import SilentProgress
from aigc_cli.storage.results import iterate_rows, read_parquet_rows
from aigc_cli.workflows.compare import ComparisonPlan, compare_tables
from aigc_cli.workflows.evaluate import EvaluationPlan, EvaluationResult, evaluate_model
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.pick import Choice, pick_images
from aigc_cli.workflows.score import score as module
from aigc_cli.workflows.score import scorer as scoring
from aigc_cli.workflows.score.plan import Selection
from aigc_cli.workflows.score.scorer import Scorer
from aigc_cli.workflows.verify import verify_table

pytestmark = pytest.mark.usefixtures("few_resamples")

Row = dict[str, Any]
SETTINGS = ("model", "sampler", "steps", "cfg", "seed")
TWO_SAMPLERS = plain_graph(
    _10=plain_graph()["3"] | {"inputs": plain_graph()["3"]["inputs"] | {"positive": ["11", 0]}},
    _11=node("CLIPTextEncode", text="a dog", clip=["4", 1]),
    _12=node("VAEDecode", samples=["10", 0], vae=["4", 2]),
    _13=node("SaveImage", images=["12", 0]),
)


@pytest.fixture
def picture(demo: list[Sample]) -> Image.Image:
    with Image.open(demo[0].path) as opened:
        return opened.convert("RGB")


@pytest.fixture
def folder(picture: Image.Image, tmp_path: Path) -> Path:
    """Each form of metadata, as the programs write it, beside images without any."""
    folder = tmp_path / "images"
    folder.mkdir()
    written = {
        "a1111.png": png(picture, parameters=A1111),
        "a1111.jpg": encode_image(picture, "JPEG", exif=comment_exif(unicode_comment(A1111))),
        "a1111.webp": encode_image(picture, "WEBP", exif=comment_exif(unicode_comment(A1111, "le"))),
        "comfy.png": comfy_png(picture, plain_graph()),
        "comfy.webp": comfy_webp(picture, plain_graph()),
        "fooocus.png": png(picture, parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus"),
        "fooocus.jpg": encode_image(picture, "JPEG", exif=fooocus_exif(json.dumps(FOOOCUS), "fooocus")),
        "invokeai.png": png(picture, invokeai_metadata=json.dumps(INVOKEAI)),
        "novelai.png": png(picture, **novelai_texts()),
        "two.png": comfy_png(picture, TWO_SAMPLERS),
        "damaged.png": png(picture, prompt='{"3": {"class_type"'),
        "beside.png": encode_image(picture, "PNG"),
        "both.png": png(picture, parameters=A1111),
        "unreadable.png": png(picture, parameters=A1111),
        "nothing.png": encode_image(picture, "PNG"),
        "broken.png": b"",
    }
    for name, data in written.items():
        (folder / name).write_bytes(data)
    (folder / "beside.txt").write_text("雪地里的红色狐狸\n", encoding="utf-8")
    (folder / "both.txt").write_text("a fox of my own")
    (folder / "unreadable.txt").write_bytes(b"a \xff fox")
    return folder


EXPECTED = {
    "a1111.png": (A1111_PROMPT, "a1111", None),
    "a1111.jpg": (A1111_PROMPT, "a1111", None),
    "a1111.webp": (A1111_PROMPT, "a1111", None),
    "comfy.png": ("a red fox", "comfyui", None),
    "comfy.webp": ("a red fox", "comfyui", None),
    "fooocus.png": ("a red fox", "fooocus", None),
    "fooocus.jpg": ("a red fox", "fooocus", None),
    "invokeai.png": ("a red fox, in snow", "invokeai", None),
    "novelai.png": ("red fox, snow, very aesthetic, girl, blue hat", "novelai", None),
    "two.png": (None, "none", "no_prompt,ambiguous_prompt"),
    "damaged.png": (None, "none", "no_prompt,bad_metadata"),
    "beside.png": ("雪地里的红色狐狸", "sidecar", None),
    "both.png": ("a fox of my own", "sidecar", None),
    "unreadable.png": (A1111_PROMPT, "a1111", "bad_sidecar"),
    "nothing.png": (None, "none", "no_prompt"),
    "broken.png": (None, "none", "not_an_image"),
}

Score = Callable[..., dict[str, Row]]


@pytest.fixture
def score(folder: Path, tiny_model: Path, tmp_path: Path) -> Score:
    def run(**options: Any) -> dict[str, Row]:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        score_table(folder, output, tiny_model, **options)
        return {row["name"]: row for row in read_parquet_rows(output)}

    return run


def sources(rows: dict[str, Row]) -> dict[str, tuple[Any, ...]]:
    return {name: (row["prompt"], row["prompt_source"], row["reason"]) for name, row in rows.items()}


def test_every_form_is_found(score: Score) -> None:
    rows = score()
    assert sources(rows) == EXPECTED
    for name, (prompt, source, _) in EXPECTED.items():
        row = rows[name]
        assert (row["consistency"] is not None) == (prompt is not None)
        assert (row["prompt_raw"] is not None) == (source != "none")
        assert row["status"] == ("failed" if name == "broken.png" else "ok")
    for name in ("a1111.png", "a1111.jpg", "a1111.webp", "both.png"):  # settings, wherever the prompt is from
        assert {key: rows[name][key] for key in SETTINGS} == A1111_SETTINGS
    assert rows["a1111.png"]["prompt_raw"] == A1111[: A1111.index("\nNegative")]
    assert rows["both.png"]["prompt_raw"] == "a fox of my own"
    assert rows["two.png"]["sampler"] == "euler"
    assert [rows["nothing.png"][key] for key in SETTINGS] == [None] * 5


def test_the_table_comes_before_the_option_and_that_before_the_rest(score: Score, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("name", "prompt"), ("a1111.png", "a cat"), ("beside.png", "(a:1.2) <lora:x:1>")])
    rows = score(prompts=table)
    changed = {"a1111.png": ("a cat", "csv", None), "beside.png": ("(a:1.2) <lora:x:1>", "csv", None)}
    assert sources(rows) == EXPECTED | changed
    assert rows["a1111.png"]["sampler"] == A1111_SETTINGS["sampler"]
    assert rows["a1111.png"]["prompt_raw"] is None
    with_option = {name: ("a dog", "option", None) for name in EXPECTED}
    with_option["broken.png"] = ("a dog", "option", "not_an_image")
    assert sources(score(prompts=table, prompt="a dog")) == with_option | changed


def test_the_prompt_that_was_found_is_what_is_scored(score: Score, folder: Path, tiny_model: Path) -> None:
    rows = score()
    names = [name for name, (prompt, _, _) in EXPECTED.items() if prompt]
    scorer = Scorer.load(tiny_model, "cpu")
    told = scorer.score(images=[folder / n for n in names], prompts=[EXPECTED[n][0] for n in names])
    found = scorer.score(images=[folder / name for name in names])
    for i, name in enumerate(names):
        assert told.loc[i, "consistency"] == pytest.approx(rows[name]["consistency"], abs=1e-5)
        if EXPECTED[name][1] != "sidecar":  # from Python, images are asked, not their folder
            assert found.loc[i, "prompt"] == EXPECTED[name][0]
            assert found.loc[i, "consistency"] == pytest.approx(rows[name]["consistency"], abs=1e-5)
    with Image.open(folder / "a1111.png") as opened:
        assert scorer.score(images=[opened])["prompt_source"].tolist() == ["a1111"]


def test_what_was_found_is_verified(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    score_table(folder, tmp_path / "t.csv", tiny_model)
    found = verify_table(tmp_path / "t.csv", model=tiny_model, device="cpu")
    assert (found.checked, found.problems) == (15, [])


# --- folders below


def test_folders_below_and_patterns(score: Score, folder: Path, picture: Image.Image, tmp_path: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "x.png").write_bytes(comfy_png(picture, plain_graph()))
    (folder / "sub" / "y.png").write_bytes(encode_image(picture, "PNG"))
    (folder / "sub" / "y.txt").write_text("a fox below")
    (folder / "sub" / "up").symlink_to("..")
    (tmp_path / "secret.png").write_bytes(png(picture, parameters=A1111))
    (folder / "sub" / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "p.csv").write_text("name,prompt\nsub/deep/x.png,a cat\ngone.png,a cat\nsub/gone.png,a cat\n")
    assert "sub/y.png" not in score()
    found = sources(score(selection=Selection(recursive=True, include=["sub/*", "nothing.png"])))
    out = {"sub/out.png": (None, "none", "link_outside")}
    below = {"sub/deep/x.png": ("a red fox", "comfyui", None), "sub/y.png": ("a fox below", "sidecar", None)}
    assert found == {"nothing.png": EXPECTED["nothing.png"], **out, **below}
    chosen = Selection(recursive=True, include=["sub/*"], exclude=["out.*"])
    found = sources(score(prompts=tmp_path / "p.csv", selection=chosen))
    assert found == below | {"sub/deep/x.png": ("a cat", "csv", None)}


# --- gone on with


@pytest.fixture
def stopped(folder: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Scores to t.csv; with `stop`, ends as a kill would after so many batches of two images."""
    loaded = Scorer.load(tiny_model, "cpu")
    monkeypatch.setattr(Scorer, "load", lambda *_: loaded)
    monkeypatch.setattr(scoring, "BATCH", 2)
    monkeypatch.setattr(module, "SHARD_SECONDS", 0)
    honest = scoring.Scorer.iterate_batches

    def run(stop: int | None = None, name: str = "t.csv", **options: Any) -> Any:
        def batches(*given: Any) -> Iterator[list[Row]]:
            for number, rows in enumerate(honest(*given)):
                if number == stop:
                    raise KeyboardInterrupt
                yield rows

        monkeypatch.setattr(scoring.Scorer, "iterate_batches", batches)
        return score_table(folder, tmp_path / name, tiny_model, **options)

    return run


def test_a_scoring_with_found_prompts_is_resumed_to_the_byte(stopped: Callable[..., Any], tmp_path: Path) -> None:
    whole = stopped(name="whole.csv")
    assert whole.sources == {
        "a1111": 4,
        "comfyui": 2,
        "fooocus": 2,
        "invokeai": 1,
        "novelai": 1,
        "sidecar": 2,
        "none": 4,
    }
    for stop in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            stopped(stop, resume=stop > 1)
    assert stopped(resume=True).sources == whole.sources
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("name", ["both.txt", "beside.txt", "unreadable.txt", "nothing.txt"])
def test_a_sidecar_that_changed_is_noticed(name: str, stopped: Callable[..., Any], folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stopped(2)
    before = (folder / name).read_bytes() if (folder / name).exists() else None
    (folder / name).write_bytes(b"another fox \xff" if name == "unreadable.txt" else b"another fox")
    with pytest.raises(AigcError) as caught:
        stopped(resume=True)
    assert f"the prompt of 1 image ({name.replace('txt', 'png')})" in caught.value.message
    (folder / name).unlink()
    if before is not None:
        with pytest.raises(AigcError, match="the prompt of 1 image"):
            stopped(resume=True)
        (folder / name).write_bytes(before)
    assert stopped(resume=True).rows == len(EXPECTED)
    (folder / name).write_bytes(b"another fox again")
    with pytest.raises(AigcError, match="is complete, but was made from other images, prompts"):
        stopped(resume=True)


# --- settings as groups


@pytest.fixture
def samplers(demo: list[Sample], tmp_path: Path) -> Path:
    """The small rated set again; half of its images record one sampler, half another, and the last one none."""
    folder = tmp_path / "record"
    folder.mkdir()
    for i, sample in enumerate(demo):
        said = f"{sample.prompt}\nSteps: 20, Sampler: {'Euler a' if i % 2 else 'DDIM'}, Seed: {i}, Size: 64x64"
        with Image.open(sample.path) as opened:
            picture = opened.convert("RGB")
        last = i == len(demo) - 1
        (folder / f"{sample.path.stem}.png").write_bytes(png(picture, **({} if last else {"parameters": said})))
    return folder


@pytest.mark.slow
def test_settings_are_groups_in_every_command(
    samplers: Path, demo: list[Sample], tiny_model: Path, tmp_path: Path
) -> None:
    for name in ("one.csv", "two.parquet"):
        score_table(samplers, tmp_path / name, tiny_model)
    rows = list(iterate_rows(tmp_path / "one.csv"))
    assert {row["sampler"] for row in rows} == {"DDIM", "Euler a", None}
    picked = pick_images(tmp_path / "one.csv", Choice(group="sampler"))
    assert {row["pick_group"] for row in picked.rows} == {"DDIM", "Euler a", "(no sampler)"}
    compared = compare_tables([tmp_path / "one.csv", tmp_path / "two.parquet"], ComparisonPlan(by="sampler"))
    assert {row["group"] for row in compared.rows} >= {"sampler=DDIM", "sampler=Euler a"}
    names = [(f"{s.path.stem}.png", s.prompt, s.mos_quality, s.mos_align) for s in demo]
    table = write_table(tmp_path / "ratings.csv", [], *names)
    source = Source(table, samplers)

    def evaluate(by: str) -> EvaluationResult:
        return evaluate_model(source, EvaluationPlan(tiny_model, by), Compute("cpu"), SilentProgress())

    groups = {row["group"] for row in evaluate("sampler").metrics}
    assert groups == {"all", "sampler=DDIM", "sampler=Euler a", "sampler=(no sampler)"}
    assert {row["group"] for row in evaluate("steps").metrics} == {"all", "steps=20", "steps=(no steps)"}
    with pytest.raises(AigcError, match="Expected a column cfg, or images that record their cfg, found neither"):
        evaluate("cfg")
