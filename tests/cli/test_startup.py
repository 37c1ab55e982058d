"""The command line starts at once: nothing heavy is imported before it is needed, and bad input is refused before."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import aigc_cli
from aigc_cli.storage.locks import own_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAVY = {"torch", "pandas", "pyarrow", "open_clip", "scipy", "safetensors", "transformers"}
UNUSED = {"pydantic", "numpy", "PIL", "rich", "yaml"}  # by what only prints a text
TRAINING = {"torch", "open_clip", "timm", "torchvision", "scipy", "pandas", "onnxscript", "transformers"}
RARE = {"matplotlib", "jinja2", "rich", "onnxruntime"}
LOADED = """
import json, sys
try:
    {}
finally:
    print("\\n" + json.dumps(sorted(name for name, module in sys.modules.items() if module)))
"""
EACH = """
import contextlib, io, json, sys
from aigc_cli.cli.main import main

found, before = {}, set()
for line in json.load(sys.stdin):
    sys.argv[1:], code = line.split(), 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as ending:
            code = ending.code
    now = {name.split(".")[0] for name, module in sys.modules.items() if module}
    found[line], before = (code, said.getvalue(), sorted(now - before)), now
print(json.dumps(found))
"""


def find_modules(code: str, quiet: bool = True) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`, which prints no error if `quiet`."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (quiet and done.stderr)
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def run_each(lines: Sequence[str], folder: Path) -> dict[str, tuple[int, str, set[str]]]:
    """Runs command lines one after the other in one process: {line: (exit code, stderr, libraries it imported first)}.

    A library counts for the first line that imports it: start with the lines that need the least.
    """
    done = subprocess.run(
        [sys.executable, "-c", EACH],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {line: (code, said, set(names)) for line, (code, said, names) in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with tables, images, outputs that exist, and files with faults."""
    place = tmp_path_factory.mktemp("work")
    for name in ("images", "empty", "taken"):
        (place / name).mkdir()
    names = sorted(path.name for path in EXAMPLES.glob("*.jpg"))[:6]
    for name in names:
        (place / "images" / name).write_bytes((EXAMPLES / name).read_bytes())
    for name in ("taken/notes.txt", "taken.parquet", "taken.csv", "taken.html", "taken.png", "taken.yaml"):
        (place / name).write_text("mine")
    rows = [f"{name},prompt {i % 6},{1 + i % 4},{1 + i % 3}\n" for i, name in enumerate(names)]
    (place / "ratings.csv").write_text("name,prompt,mos_quality,mos_align\n" + "".join(rows))
    (place / "high.csv").write_text(f"name,prompt,mos_quality\n{names[0]},x,77\n")
    (place / "other.csv").write_text("file,text\na,b\n")
    (place / "alone.csv").write_text("name,prompt,mos_quality\n" + "".join(f"{name},x,3\n" for name in names))
    columns = "quality,consistency,quality_base,quality_delta,consistency_base,consistency_delta,clip_cosine"
    scores = [f"{name},images/{name},prompt {i % 6},csv,{i / 9},3,3,0,3,0,1,8,8,ok,\n" for i, name in enumerate(names)]
    head = f"name,path,prompt,prompt_source,{columns},width,height,status,reason\n"
    for table in ("scores.csv", "more.csv"):
        (place / table).write_text(head + "".join(scores))
        (place / f"{table}.meta.json").write_text("{}")
    (place / "torn.parquet").write_bytes(b"PAR1")
    (place / "bad.yaml").write_text("lr: [1\n")
    return place


# --- what a command imports


TEXTS = ["--version", "--help", "train --help", "train --help-all", "recommend --n 3000", "recommend --n 1 --json"]
TABLES: dict[str, set[str]] = {  # and what they may import of `RARE`
    "pick scores.csv --paths": set(),
    "compare scores.csv more.csv --json": set(),
    "recommend --data ratings.csv --images images --json": set(),
    "doctor --json": set(),
    "pick scores.csv": {"rich"},
}
SCORES = [
    "score images -o new.csv --device cpu --json",
    "verify new.csv --device cpu",
    "compare images new.csv --device cpu",
]


def test_what_prints_a_text_imports_nothing_else(folder: Path) -> None:
    for line, (code, _, names) in run_each(TEXTS, folder).items():
        assert (code, names & (HEAVY | UNUSED)) == (0, set()), line


def test_what_reads_tables_needs_no_model_and_no_statistics(folder: Path) -> None:
    for line, (code, said, names) in run_each([*TABLES], folder).items():
        assert (code, names & TRAINING, names & RARE) == (0, set(), TABLES[line]), f"{line}\n{said}"


@pytest.mark.slow
def test_drawing_needs_no_model_and_no_statistics(folder: Path) -> None:
    ((code, said, names),) = run_each(["plot scores.csv --data ratings.csv -o plots"], folder).values()
    assert (code, names & TRAINING, names & RARE) == (0, set(), {"matplotlib"}), said


def test_scoring_on_a_cpu_needs_no_torch(folder: Path) -> None:
    found = run_each(SCORES, folder)
    for line, (code, said, names) in found.items():
        assert (code, names & (TRAINING | {"matplotlib", "jinja2"})) == (0, set()), f"{line}\n{said}"
    assert "onnxruntime" in found[SCORES[0]][2]


def test_the_scorer_needs_no_torch() -> None:
    found = find_modules("from aigc_cli import Scorer; Scorer.load(device='cpu')")
    assert "onnxruntime" in found
    assert found & (TRAINING | {"matplotlib", "jinja2", "typer"}) == set()


def test_the_package_imports_nothing_heavy() -> None:
    found = find_modules("import aigc_cli; aigc_cli.__version__")
    assert "aigc_cli" in found
    assert found & (HEAVY | UNUSED | {"typer"}) == set()


# --- what is refused


RATED = "--data ratings.csv --images images"
UNRATED = [
    *("--data no.csv", "--data other.csv", "--data high.csv --images images", f"{RATED} --columns a=name"),
    *("--data ratings.csv --images nowhere", "--data ratings.csv --images empty", "--images images"),
    f"{RATED} --device tpu",
]
REFUSED = {  # {command: (without the rated images, with them)}
    "train": (
        [*UNRATED, "--data alone.csv --images images", "--resume nowhere", "--frobnicate"],
        [
            *("-o taken", "--recipe smal", "--recipe bad.yaml", "--lr 9", "--group-by artist", "--splits no.csv"),
            *("--splits other.csv", "--calibrate-from no.parquet", "--calibrate-folds 99", "--backbone mimi"),
            "--backbone local-dir:nowhere",
        ],
    ),
    "eval": (
        [*UNRATED],
        [
            *("-o taken.parquet", "--predictions taken.csv", "-o x.txt", "--by artist", "--report taken.html"),
            *("--thumbs t", "nowhere", "empty"),
        ],
    ),
    "crossval": (
        [*UNRATED],
        [
            *("-o taken", "--recipe smal", "--by artist", "--protocol x", "--protocol group:artist", "--folds 99"),
            *("--splits no.csv", "--resume -o empty", "--backbone mimi", "--set lr=9"),
        ],
    ),
    "ablate": (
        [*UNRATED],
        [
            *("-o taken", "--recipe smal", "--folds 99", "--vary lrr=1,2", "--variants no.yaml", "--resume -o empty"),
            *("--report taken.html", "--vary backbone=mimi"),
        ],
    ),
    "stress": ([*UNRATED, "--data alone.csv --images images"], ["-o taken", "--model nowhere", "--n 0"]),
    "score": (
        [
            *("nowhere", "empty", "images -o taken.parquet", "images -o x.txt", "images --prompts no.csv"),
            *("images --prompts other.csv", "images --model nowhere", "images --model empty", "images --device tpu"),
            *("images --engine x", "images --report taken.html"),
        ],
        [],
    ),
    "verify": (
        [
            *("no.csv", "other.csv", "torn.parquet", "images", "scores.csv --model nowhere"),
            *("scores.csv --device tpu", "scores.csv --images nowhere"),
        ],
        [],
    ),
    "compare": (
        [
            *("scores.csv", "no.csv scores.csv", "other.csv scores.csv", "scores.csv torn.parquet"),
            *("empty scores.csv", "scores.csv more.csv --model nowhere"),
            *(f"scores.csv more.csv {more}" for more in ("--pair x", "--by x", "-o taken.csv", "--plot taken.png")),
            *(f"images more.csv {more}" for more in ("--model empty", "--prompts no.csv", "--device tpu", "--by x")),
        ],
        [],
    ),
    "pick": (
        [
            *("no.csv", "other.csv", "torn.parquet", "images", "scores.csv --by x", "scores.csv --group artist"),
            *("scores.csv -o taken.csv", "scores.csv --images nowhere --copy out", "--undo no.json"),
        ],
        [],
    ),
    "plot": (
        [
            *("no.csv", "empty", "other.csv", "torn.parquet", "scores.csv", "scores.csv --formats gif"),
            *("scores.csv --data no.csv", "scores.csv --data other.csv"),
        ],
        [],
    ),
    "recommend": (["--data no.csv", "--data other.csv", "--run nowhere", "--run empty", "--n 5 -o taken.yaml"], []),
    "export": (["nowhere", "empty"], []),
}


def test_bad_input_is_refused_before_anything_heavy_is_imported(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    lines = [f"{command} {rest}" for command, (alone, _) in REFUSED.items() for rest in alone]
    lines += [f"{command} {RATED} {rest}" for command, (_, rated) in REFUSED.items() for rest in rated]
    for line, (code, said, names) in run_each(lines, folder).items():
        assert (code, names & (TRAINING | RARE)) == (2, set()), f"{line}\n{said}"
        assert "\naigc: " in f"\n{said}", line
    assert sorted(folder.rglob("*")) == before


def test_a_missing_table_or_an_output_that_exists_is_refused_without_numpy(folder: Path) -> None:
    lines = [f"{command} --data no.csv" for command in ("train", "eval", "ablate", "crossval", "stress", "recommend")]
    lines += ["pick no.csv", "plot no.csv", "compare scores.csv no.csv", "verify no.csv", "score nowhere"]
    lines += ["score images -o taken.csv", "score images --model nowhere", "score images --report taken.html"]
    lines += [f"{command} {RATED} -o taken" for command in ("train", "ablate", "crossval", "stress")]
    lines += [f"train {RATED} --backbone mimi", f"train {RATED} --splits no.csv", "train --resume nowhere"]
    for line, (code, said, names) in run_each(lines, folder).items():
        assert (code, names & (HEAVY | UNUSED)) == (2, set()), f"{line}\n{said}"


SEEN = """
import sys
from pathlib import Path
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.workflows.ablate.ablate import AblationPlan, run_ablation
from aigc_cli.workflows.crossval import CrossvalPlan, cross_validate
from aigc_cli.workflows.evaluate import EvaluationPlan, evaluate_model
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.stress import StressPlan, stress_model
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model


class Loading(Exception):
    pass


class Watch(SilentProgress):
    def start(self, task, total):
        if task == "loading the model":
            raise Loading


recipe, source = resolve_recipe({}), Source(Path("ratings.csv"), Path("images"))
compute, watch = Compute("cpu"), Watch()
for work in (
    lambda: train_model(recipe, source, Output(Path("one")), HeldOutSource(), compute, watch),
    lambda: evaluate_model(source, EvaluationPlan(), compute, watch),
    lambda: stress_model(source, StressPlan(device="cpu"), Output(Path("two")), watch),
    lambda: cross_validate(recipe, source, CrossvalPlan(folds=2), Output(Path("three")), compute, watch),
    lambda: run_ablation(AblationPlan(recipe.recipe, {"a": {}}, 2), source, Output(Path("four")), compute, watch),
):
    try:
        work()
    except Loading:
        assert "torch" not in sys.modules
    else:
        raise AssertionError("it does not say that it loads the model")
"""


def test_a_long_start_is_announced_before_torch_is_imported(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SEEN], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_who_holds_a_folder_comes_before_what_is_in_it(folder: Path) -> None:
    lines = [f"{command} {RATED} -o taken" for command in ("train", "crossval", "ablate", "stress")]
    with own_folder(folder / "taken"):
        for line, (code, said, names) in run_each(lines, folder).items():
            assert (code, names & TRAINING) == (5, set()), f"{line}\n{said}"


# --- how long it takes


def test_light_commands_take_hardly_longer_than_to_import_typer(folder: Path) -> None:
    """Least times of several rounds, up to the first that is good enough: other programs disturb some rounds."""
    limits = {
        "--help": 1.5,
        "recommend --n 3000": 1.5,
        "train --data no.csv": 2.0,
        f"crossval {RATED} --by artist": 6.0,
    }
    commands = {line: ["-m", "aigc_cli", *line.split()] for line in limits} | {"typer": ["-c", "import typer"]}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    least = dict.fromkeys(commands, float("inf"))
    for _ in range(12):
        for name, arguments in commands.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False)
            least[name] = min(least[name], time.perf_counter() - begun)
        ratios = {line: least[line] / least["typer"] for line in limits}
        if all(ratios[line] <= limit for line, limit in limits.items()):
            return
    pytest.fail(f"over `import typer`: {ratios}, at most {limits}")


# --- the executable


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'aigc_cli' has no attribute 'Judge'"):
        aigc_cli.Judge  # noqa: B018


def test_the_version() -> None:
    done = subprocess.run([sys.executable, "-m", "aigc_cli", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"aigc {aigc_cli.__version__}\n", "")


def test_a_reader_that_leaves_is_no_error() -> None:
    """As in `aigc ... | head`: nobody reads the pipe any more."""
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (["--help"], ["recommend", "--n", "5", "--json"]):
        command = [sys.executable, "-m", "aigc_cli", *arguments]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    os.close(writing)
