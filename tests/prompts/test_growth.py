"""Time to read a text grows with its length, up to the limit of each reader: n against 4n, at most 5 times."""

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from written import png

from aigc_cli.errors import AigcError
from aigc_cli.images.reader import decode_image
from aigc_cli.images.sidecars import read_sidecar
from aigc_cli.prompts.any_program import read_any_program
from aigc_cli.prompts.clean import MAX_PROMPT, clean_prompt
from aigc_cli.prompts.infotext import read_infotext
from aigc_cli.storage.named_tables import read_prompts
from aigc_cli.storage.results import iterate_rows
from aigc_cli.strict_yaml import MAX_VALUES, read_yaml

LARGEST, LEAST, ATTEMPTS = 5.0, 0.002, 4  # a ratio; seconds, below which a clock says nothing
PICTURE = Image.new("RGB", (8, 8))

pytestmark = pytest.mark.slow


def measure(run: Callable[[Any], object], value: Any) -> float:
    """The shortest of three times, in seconds of this process, without the garbage collector."""
    times = []
    gc.disable()
    for _ in range(3):
        begun = time.process_time()
        run(value)
        times.append(time.process_time() - begun)
    gc.enable()
    return max(LEAST, min(times))


def check_growth(run: Callable[[Any], object], make: Callable[[int], Any], largest: int) -> None:
    few, many = make(largest // 4), make(largest)
    ratios = (measure(run, many) / measure(run, few) for _ in range(ATTEMPTS))
    assert any(ratio <= LARGEST for ratio in ratios)  # the clock of a busy machine is off at times


CLEANED = [
    "(",
    "[",
    "{",
    ")",
    "\\(",
    "((a))",
    "[a:b:0.5]",
    "[a|",
    "(a:1.2)",
    "<lora:x:1>",
    "<a:",
    "<",
    "AND ",
    " BREAK",
]
CLEANED += ["::", "1.2::a::", "-1::a", "a++ ", "(a).and(", "a.swap(b)", "embedding:a ", "<segment:a>b", " --ar 1", ", "]


@pytest.mark.parametrize("source", ["a1111", "novelai", "invokeai", "comfyui", "swarmui", "midjourney"])
@pytest.mark.parametrize("part", CLEANED)
def test_prompts_of_many_brackets(part: str, source: str) -> None:
    check_growth(lambda text: clean_prompt(text, source), lambda n: part * (n // len(part)), MAX_PROMPT)


TEXTS = {
    "settings": lambda n: "a\nSteps: 1, Sampler: a, Seed: 1" + ", a: b" * (n // 6),
    "lines": lambda n: "a\n" * (n // 2) + "Steps: 1, Sampler: a, Seed: 1",
    "negatives": lambda n: "Negative prompt: a\n" * (n // 19),
    "quotes": lambda n: 'a\nSteps: 1, Sampler: a, Seed: 1, a: "' + '\\"' * (n // 2),
    "colons": lambda n: "a: " * (n // 3),
    "pipes": lambda n: "Steps: 1 | Seed: 1 | Sampler: a" + " | a: b" * (n // 7),
    "easy": lambda n: "Prompt: a\n" + "Seed: 1\n" * (n // 8) + "Stable Diffusion model: a",
    "a deep object": lambda n: '{"prompt":' * (n // 10),
    "a wide object": lambda n: json.dumps({str(i): {"class_type": "X", "inputs": {}} for i in range(n // 60)}),
    "brackets": lambda n: "[" * n,
    "spaces": lambda n: "{" + " " * n,
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_programs(name: str, tmp_path: Path) -> None:
    check_growth(read_any_program, TEXTS[name], 400_000)
    check_growth(read_infotext, TEXTS[name], 400_000)

    def read_beside(text: str) -> None:
        (tmp_path / "a.txt").write_text(text)
        read_sidecar(tmp_path / "a.png", tmp_path)

    check_growth(read_beside, TEXTS[name], 400_000)


@pytest.mark.parametrize("part", ["<a>", "<a/>", "<a", "&amp;", "<!-- -->", "<a b='c'/>", "x"])
def test_xmp(part: str) -> None:
    def make(n: int) -> bytes:
        return png(PICTURE, **{"XML:com.adobe.xmp": f"<x><UserComment>{part * (n // len(part))}</UserComment></x>"})

    check_growth(decode_image, make, 120_000)


YAMLS = {
    "keys": lambda n: "\n".join(f'k{i}: "v"' for i in range(n)),
    "lists": lambda n: "k:\n" + "- 1\n" * n,
    "a flow": lambda n: "k: [" + "1, " * n + "1]",
    "a flow of keys": lambda n: "{" + ", ".join(f"k{i}: 1" for i in range(n)) + "}",
    "a long word": lambda n: "k: " + "a" * 100 * n,
    "comments": lambda n: "# a\n" * 10 * n + 'k: "v"',
    "quotes": lambda n: 'k: "' + "a\n\n" * n + '"',
}


@pytest.mark.parametrize("name", YAMLS)
@pytest.mark.parametrize("largest", [MAX_VALUES // 2, 40_000])
def test_yaml(name: str, largest: int, tmp_path: Path) -> None:
    def read(text: str) -> None:
        (tmp_path / "a.yaml").write_text(text)
        try:
            read_yaml(tmp_path / "a.yaml")
        except AigcError:
            return

    check_growth(read, YAMLS[name], largest)


def test_cells_and_rows(tmp_path: Path) -> None:
    def read(text: str) -> None:
        (tmp_path / "a.csv").write_text(text)
        read_prompts(tmp_path / "a.csv")

    check_growth(read, lambda n: "name,prompt\n" + "".join(f"{i}.png,a\n" for i in range(n)), 20_000)
    check_growth(read, lambda n: 'name,prompt\na.png,"' + 'a""\n,' * n + '"\n', 200_000)


def test_a_parquet_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """One text of 1 MB in each of 10,000 rows takes few bytes on disk, and 10 GB when it is unpacked."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array(["a" * 2**20]))
    names = pa.array([f"{i}.png" for i in range(10_000)])
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"name": names, "prompt": texts, "status": names}), path)
    assert path.stat().st_size < 10 * 2**20
    for read in (read_prompts, lambda place: list(iterate_rows(place))):
        with pytest.raises(AigcError):
            read(path)
