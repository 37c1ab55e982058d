"""No input can run code or reach files outside the given folder."""

import functools
import json
import operator
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import aigc_cli
from aigc_cli import Scorer
from aigc_cli.errors import AigcError
from aigc_cli.model.trained import load_model
from aigc_cli.storage.checkpoints import SHIPPED_SCORERS
from aigc_cli.storage.results import iterate_rows

PACKAGE = Path(aigc_cli.__file__).parent
ROOT = PACKAGE.parent

# Calls that turn data into code. `np.load` is allowed only with allow_pickle=False.
DANGEROUS = (
    r"\bimport (pickle|cPickle|_pickle|dill|cloudpickle|joblib|shelve|marshal)\b",
    r"\bfrom (pickle|cPickle|_pickle|dill|cloudpickle|joblib|shelve|marshal)\b",
    r"\btorch\.(load|jit\.load|hub\.load)\(",
    r"\bread_pickle\(",
    r"allow_pickle ?= ?True",
    r"np\.(load|save)\((?!.*allow_pickle=False)",
    r"weights_only ?= ?False",
    r"\byaml\.(unsafe_load|full_load|Loader|UnsafeLoader|FullLoader)\b",
    r"(?<!def )(?<![\w.])(eval|exec|compile)\(",
    r"\bos\.(system|popen)\(",
    r"shell ?= ?True",
    r"trust_remote_code",
)


@pytest.mark.parametrize("pattern", DANGEROUS)
def test_nothing_in_the_package_turns_data_into_code(pattern: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


def test_patterns_match_their_samples() -> None:
    samples = ["import pickle", "from joblib import load", "torch.load(path)", "pd.read_pickle(x)", "allow_pickle=True"]
    samples += ["np.load(path)", "weights_only=False", "yaml.full_load(x)", "exec(text)", "os.system(x)", "shell=True"]
    samples += ["trust_remote_code"]
    for sample, pattern in zip(samples, DANGEROUS, strict=True):
        assert re.search(pattern, sample), sample


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch legacy"])
def test_a_pickle_under_another_name_is_refused_unopened(
    writer: str, tiny_model: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    mark, weights = tmp_path / "it was opened", tmp_path / "run" / "weights.safetensors"
    weights.parent.mkdir()
    (weights.parent / "model.json").write_bytes((tiny_model / "checkpoint" / "model.json").read_bytes())
    if writer == "pickle":
        weights.write_bytes(pickle.dumps(Trap(mark)))
    else:
        torch.save({"trap": Trap(mark)}, weights, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(AigcError, match="Expected a complete safetensors file"):
        load_model(weights.parent, "cpu")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))  # the trap works
    assert mark.exists()


def test_a_table_cannot_name_what_lies_outside(
    many: Callable[..., Path], tmp_path: Path, aigc_here: Callable[..., tuple[int, str, str]]
) -> None:
    folder = many(1)
    (tmp_path / "secret.jpg").write_bytes((folder / "000.jpg").read_bytes())
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), "..\\secret.jpg", "a/../../secret.jpg"):
        (tmp_path / "p.csv").write_text(f"name,prompt\n{name},x\n")
        code, out, err = aigc_here("score", folder, "--prompts", tmp_path / "p.csv", "-o", tmp_path / "t.csv")
        assert (code, out) == (2, ""), name
        assert "outside the image folder" in err
        assert not (tmp_path / "t.csv").exists()


def test_links_lead_to_images_only_and_not_out_of_folders_below(
    many: Callable[..., Path], tiny_model: Path, tmp_path: Path, aigc_here: Callable[..., tuple[int, str, str]]
) -> None:
    """A link in the given folder counts as the image it points to, as in a folder of `pick --link --symbolic`."""
    folder, outside = many(2), tmp_path / "outside"
    outside.mkdir()
    (outside / "x.jpg").write_bytes((folder / "000.jpg").read_bytes())
    (outside / "secret").write_text("root:x:0:0")
    for name, target in (("image.jpg", "x.jpg"), ("text.jpg", "secret"), ("000.txt", "secret"), ("away", "")):
        (folder / name).symlink_to(outside / target)
    (tmp_path / "p.csv").write_text("name,prompt\naway/x.jpg,a cat\n")
    found = {}
    for flag in ("--quiet", "--recursive"):
        given = ("--prompts", tmp_path / "p.csv", "--model", tiny_model, "--device", "cpu", "--overwrite", flag)
        code, out, err = aigc_here("score", folder, *given, "-o", tmp_path / "t.csv")
        assert code == 0, err
        assert "root:" not in out + err + (tmp_path / "t.csv").read_text()
        found[flag] = {row["name"]: (row["status"], row["reason"]) for row in iterate_rows(tmp_path / "t.csv")}
    beside = {"000.jpg": ("ok", "bad_sidecar,no_prompt"), "001.jpg": ("ok", "no_prompt")}
    followed = {"image.jpg": ("ok", "no_prompt"), "text.jpg": ("failed", "not_an_image"), "away/x.jpg": ("ok", None)}
    assert found["--quiet"] == beside | followed
    assert found["--recursive"] == beside | dict.fromkeys(followed, ("failed", "link_outside"))


def test_a_model_cannot_name_weights_elsewhere(tiny_model: Path, tmp_path: Path) -> None:
    """The only file that a description names is the backbone, whose hash must match."""
    text = (tiny_model / "checkpoint" / "model.json").read_text()
    for old, new in (('"name": "local-dir:', '"name": "local-dir:../'), ('"weights_hash": "', '"weights_hash": "../')):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        (place / "model.json").write_text(text.replace(old, new))
        (place / "weights.safetensors").write_bytes((tiny_model / "checkpoint" / "weights.safetensors").read_bytes())
        with pytest.raises(AigcError):
            load_model(place, "cpu")


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value of a JSON object, the first item of each list."""
    yield place
    keys = list(value) if isinstance(value, dict) else range(min(1, len(value))) if isinstance(value, list) else ()
    for key in keys:
        yield from list_places(value[key], (*place, key))


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, "\x1b[31m../x", 10**9, float("nan")])
def test_every_field_of_a_description_is_checked(value: Any, tmp_path: Path) -> None:
    """Each field in turn has another type or an absurd value: the model is refused, or the field does not matter."""
    folder = shutil.copytree(SHIPPED_SCORERS["fast"], tmp_path / "model")
    said = json.loads((folder / "model.json").read_text())
    picture, refused = Image.new("RGB", (32, 32)), 0
    for place in list(list_places(said))[1:]:
        changed = json.loads(json.dumps(said))
        here = functools.reduce(operator.getitem, place[:-1], changed)
        here[place[-1]] = value
        (folder / "model.json").write_text(json.dumps(changed))
        try:
            table = Scorer.load(folder, "cpu").score(images=[picture], prompts=["a"])
            assert table["status"].tolist() == ["ok"], place
        except AigcError as error:
            refused += 1
            assert error.exit_code == 2, place
            assert "\x1b" not in str(error), place
    assert refused > 40


@pytest.mark.slow
def test_modules_in_the_working_folder_are_not_run(
    tiny_model: Path, many: Callable[..., Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    """The image folder has a numpy.py and others; neither the program nor its decoders import them."""
    folder = many(2)
    for name in ("numpy", "PIL", "json", "signal", "torch", "aigc_cli"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("aigc")), "score", ".", "--model", str(tiny_model), "-o", "t.csv", "-q"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 images by run, 0 failed" in done.stdout
    assert not (tmp_path / "it ran").exists()
