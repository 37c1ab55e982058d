"""The rules of the house: the order of its folders, which of them import torch, one name for one thing, short files."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import aigc_cli

PACKAGE = Path(aigc_cli.__file__).parent
FOLDERS = (  # bottom up: a folder imports from itself and from those before it; "" is the root
    *("", "prompts", "images", "storage", "metrics", "uncertainty"),
    *("runtime", "model", "training", "report", "workflows", "web", "cli"),
)
TORCH = {"model", "training"}
HEAVY = {"torch", "open_clip", "timm", "torchvision", "transformers"}
LATE = {"pandas", "scipy", "matplotlib", "jinja2"}  # imported by the functions that need them
WITHOUT_TORCH = {f"workflows.{name}" for name in ("pick", "plot", "compare", "verify", "reports")}
FIRST = {  # imported before anything is refused
    *("storage.atomic_files", "storage.csv_tables", "storage.checkpoints", "storage.locks", "report.page_output"),
    *("runtime.devices", "runtime.hints", "workflows.experiment.source", "workflows.recommend.by_size"),
}
DOORS = {
    "": {"workflows.score.scorer"},
    "__main__": {"cli.main"},
}  # from the root upwards: `Scorer`, and the executable
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def name_module(path: Path) -> str:
    """`storage.results` for aigc_cli/storage/results.py, an empty string for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_module(path): tree for path, tree in TREES.items()}
parametrize = pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "aigc_cli")


def find_folder(name: str) -> str:
    first, _, rest = name.partition(".")
    return first if rest or (PACKAGE / first).is_dir() else ""


def list_imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_modules(imported: Iterator[str]) -> set[str]:
    """The modules of this package among imports, names in them cut off."""
    found = set()
    for name in imported:
        if name.startswith("aigc_cli."):
            inner = name.removeprefix("aigc_cli.")
            found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return found


def walk_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: no function bodies, nothing under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from walk_import_time(child)


def list_libraries(name: str) -> set[str]:
    """Every library that importing this module imports, through other modules of the package too."""
    seen, waiting, libraries = set[str](), [name], set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        imported = set(list_imports(walk_import_time(MODULES[module])))
        libraries |= {library.partition(".")[0] for library in imported}
        waiting += [found for found in find_modules(iter(imported)) if found]
        parts = module.split(".")
        waiting += [".".join(parts[:end]) for end in range(1, len(parts))]
    return libraries


def list_calls(name: str) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)}


def test_every_folder_has_its_place() -> None:
    assert {find_folder(name) for name in MODULES} - {"", "runtime"} == {*FOLDERS} - {"", "runtime"}
    assert {"recipe", "errors", "storage.results", "model.loading", "workflows.train.train", "cli.main"} <= {*MODULES}


@parametrize
def test_imports_point_down(name: str) -> None:
    place = FOLDERS.index(find_folder(name))
    imported = find_modules(list_imports(ast.walk(MODULES[name])))
    upward = {other for other in imported if FOLDERS.index(find_folder(other)) > place}
    assert upward <= DOORS.get(name, set())


@parametrize
def test_torch_stays_in_its_folders(name: str) -> None:
    """A workflow imports it inside functions, when it has read and checked its input."""
    direct = {library.partition(".")[0] for library in list_imports(ast.walk(MODULES[name]))}
    if find_folder(name) not in TORCH:
        assert list_libraries(name) & HEAVY == set(), "reached through other modules"
        if find_folder(name) != "workflows" or name in WITHOUT_TORCH:
            assert direct & HEAVY == set()
    elif "torch" in (ast.get_docstring(MODULES[name]) or "").lower().partition("no ")[2]:
        assert list_libraries(name) & HEAVY == set(), "its docstring says that it imports no torch"


@parametrize
def test_slow_libraries_are_imported_late(name: str) -> None:
    assert list_libraries(name) & LATE == set()
    if find_folder(name) == "cli" or name in FIRST:
        assert list_libraries(name) & {"numpy", "pyarrow", "safetensors", "PIL", "rich", "yaml", "filelock"} == set()


def test_the_search_for_libraries_finds_torch() -> None:
    assert "torch" in list_libraries("training.loop")  # imported there
    assert "torch" in list_libraries("model.eager")
    assert "torch" not in list_libraries("workflows.score.scorer")
    assert "torch" not in list_libraries("cli.main")
    assert "pyarrow" in list_libraries("storage.results")
    assert {*MODULES} >= FIRST | WITHOUT_TORCH


@pytest.mark.parametrize(("library", "folder"), [("typer", "cli"), ("rich", "cli"), ("click", "cli")])
def test_the_terminal_stays_in_the_command_line(library: str, folder: str) -> None:
    users = {
        name
        for name, tree in MODULES.items()
        if any(imported.partition(".")[0] == library for imported in list_imports(ast.walk(tree)))
    }
    assert {name for name in users if find_folder(name) != folder} == set()
    assert users or library == "click"


@parametrize
def test_only_the_command_line_prints_or_exits(name: str) -> None:
    if find_folder(name) != "cli":
        speaking = {"print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
        assert speaking & list_calls(name) == set()


@parametrize
def test_nothing_unpickles_or_runs_what_it_reads(name: str) -> None:
    libraries = {library.partition(".")[0] for library in list_imports(ast.walk(MODULES[name]))}
    assert libraries & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} == set()
    running = {"torch.load", "eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle"}
    assert running & list_calls(name) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: name_module(path) or "aigc_cli")
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def list_definitions(tree: ast.Module) -> Iterator[str]:
    """Public names that a module defines at its top level."""
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from [node.name] if not node.name.startswith("_") else []
        elif isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            names = [target] if isinstance(target, ast.Name) else getattr(target, "elts", [])
            yield from (item.id for item in names if isinstance(item, ast.Name) and not item.id.startswith("_"))


def test_a_name_has_one_meaning() -> None:
    places = defaultdict(list)
    for name, tree in MODULES.items():
        for defined in set(list_definitions(tree)):
            places[defined].append(name)
    assert {defined: found for defined, found in places.items() if len(found) > 1} == {}
