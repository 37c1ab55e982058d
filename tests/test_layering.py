"""The house rules that a reader of the code relies on: imports point down, files and functions stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aigc_cli

PACKAGE = Path(aigc_cli.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
LAYERS = {"cli": 4, "workflows": 3, "core": 2, "io": 1}  # everything else (recipe, errors, progress) is 0
BOTTOM = {"recipe", "strict_yaml", "errors", "progress"}
SIDEWAYS = {"workflows.scorer"}  # `from aigc_cli import Scorer` is the one door from the package's root


def name_of(path: Path) -> str:
    """`io.tables` for aigc_cli/io/tables.py, an empty string for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, functions included, with the names taken from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> list[str]:
    """The imports of a file out of our own package, without its name in front."""
    return [name.removeprefix("aigc_cli.") for name in imports(path) if name.startswith("aigc_cli.")]


def layer(name: str) -> int:
    return LAYERS.get(name.partition(".")[0], 0)


def calls(path: Path) -> Iterator[str]:
    """Every function that a file calls, as it is written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


parametrize = pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path) or "aigc_cli")


def test_the_modules_are_found() -> None:
    names = {name_of(path) for path in MODULES}
    assert {"recipe", "errors", "io.tables", "core.backbones", "workflows.train", "cli.main"} <= names
    assert {name.partition(".")[0] for name in names} == {*LAYERS, *BOTTOM, "", "__main__"}


@parametrize
def test_imports_point_down(path: Path) -> None:
    name = name_of(path)
    upward = [other for other in ours(path) if layer(other) > layer(name)]
    if name == "":
        upward = [other for other in upward if other.removesuffix(".Scorer") not in SIDEWAYS]
    if name == "__main__":
        upward = [other for other in upward if other != "cli.main.main"]
    assert upward == []


def test_the_bottom_knows_nobody() -> None:
    yaml = {"errors.AigcError", "strict_yaml.read_yaml"}
    allowed = {"recipe": yaml, "strict_yaml": {"errors.AigcError"}, "errors": set(), "progress": set()}
    assert {name: set(ours(PACKAGE / f"{name}.py")) for name in BOTTOM} == allowed


@pytest.mark.parametrize(
    ("library", "where"),
    [
        ("open_clip", ("core.backbones",)),
        ("typer", ("cli",)),
        ("rich", ("cli",)),
        ("click", ("cli",)),
    ],
)
def test_a_library_has_one_place(library: str, where: tuple[str, ...]) -> None:
    users = [name_of(path) for path in MODULES if any(name.split(".")[0] == library for name in imports(path))]
    assert [name for name in users if not name.startswith(where)] == []
    assert users or library == "click"


@parametrize
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if name_of(path).startswith("cli"):
        return
    speaking = {"print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    assert speaking & set(calls(path)) == set()


@parametrize
def test_nothing_unpickles_or_runs_what_it_reads(path: Path) -> None:
    dangerous = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert {name.split(".")[0] for name in imports(path)} & dangerous == set()
    running = {"torch.load", "eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle"}
    assert running & set(calls(path)) == set()


@parametrize
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: length for name, length in lengths.items() if length > 60} == {}
