"""`aigc score` of a folder of pictures as generators leave them, on the command line."""

import json
import re
import shlex
from pathlib import Path

import pytest
from harness import aigc
from PIL import Image
from written import A1111, comfy_png, node, plain_graph, png

from aigc_cli.storage.results import iterate_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One picture of Automatic1111, two of ComfyUI below it, one of these unclear, and thumbnails."""
    folder = tmp_path / "pictures"
    (folder / "comfy").mkdir(parents=True)
    (folder / "thumbs").mkdir()
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    (folder / "fox.png").write_bytes(png(picture, parameters=A1111))
    (folder / "comfy" / "a.png").write_bytes(comfy_png(picture, plain_graph()))
    mystery = plain_graph(_6=node("MysteryEncode", mystery="a fox"))
    (folder / "comfy" / "b.png").write_bytes(comfy_png(picture, mystery))
    (folder / "thumbs" / "t.png").write_bytes(png(picture))
    return folder


@pytest.mark.slow
def test_the_example_of_the_documentation(pictures: Path) -> None:
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- found -->\s*```sh\n(.*?)```", page, re.S)
    assert found is not None
    score, pick = (shlex.split(line)[1:] for line in found[1].strip().splitlines())
    ending = aigc(*score)
    assert ending.code == 0, ending.err
    assert "Prompts: 1 a1111, 1 comfyui, 1 none.\n" in ending.err
    assert "1 x no_prompt,ambiguous_prompt: there is no prompt for this image; its metadata holds" in ending.err
    rows = {row["name"]: (row["prompt_source"], row["sampler"]) for row in iterate_rows(Path("pictures.csv"))}
    assert rows == {
        "comfy/a.png": ("comfyui", "euler"),
        "comfy/b.png": ("none", "euler"),
        "fox.png": ("a1111", "DPM++ 2M Karras"),
    }
    ending = aigc(*pick)
    assert ending.code == 0
    best, fox = ending.out.splitlines()
    assert Path(best).parent == Path("pictures/comfy")
    assert fox == "pictures/fox.png"


def test_options_and_their_errors(pictures: Path, tiny_model: Path) -> None:
    given = ("score", "pictures", "--model", tiny_model, "--device", "cpu", "--json", "-q", "--overwrite")
    assert json.loads(aigc(*given).out)["sources"] == {"a1111": 1}
    chosen = ("--recursive", "--include", "*.png", "--exclude", "thumbs", "--exclude", "fox.*")
    assert json.loads(aigc(*given, *chosen).out)["sources"] == {"comfyui": 1, "none": 1}
    ending = aigc(*given, "--include", "*.gif")
    assert (ending.code, ending.out) == (2, "")
    assert ending.err.startswith("aigc: pictures: expected images selected by --include and --exclude, found none of 1")


def test_a_report_filters_by_what_was_found(pictures: Path, tiny_model: Path) -> None:
    ending = aigc(
        *("score", "pictures", "--recursive", "--model", tiny_model, "--device", "cpu", "-q", "--report", "r.html")
    )
    assert ending.code == 0, ending.err
    page = Path("r.html").read_text(encoding="utf-8")
    for part in ("DPM++ 2M Karras", "dream_v8", "18446744073709551615", '"prompt_source":', "ambiguous_prompt"):
        assert part in page
