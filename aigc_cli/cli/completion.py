"""Shell completion of recipes, models and run folders. It reads names only, so it answers at once."""

from pathlib import Path

RUNS = Path("runs")
RUN_MARKS = ("run.json", "plan.json", "checkpoint/model.json")  # a run folder, finished or not, has one of these
SHIPPED_MODELS = {"accurate": "the shipped scorer", "fast": "the shipped scorer that takes less time"}


def list_recipe_paths(incomplete: str) -> list[str]:
    """The shipped recipes, and .yaml files and folders that start with the typed text."""
    from aigc_cli.recipe import list_recipes

    names = [name for name in list_recipes() if name.startswith(incomplete)]
    return names + [path for path in _list_paths(incomplete) if path.endswith(("/", ".yaml", ".yml"))]


def list_runs(incomplete: str) -> list[str]:
    """Run folders in runs/ that start with the typed text; without any, other folders."""
    found = [
        str(folder)
        for folder in sorted(RUNS.glob("*"))
        if str(folder).startswith(incomplete) and any((folder / mark).is_file() for mark in RUN_MARKS)
    ]
    return found or [path for path in _list_paths(incomplete) if path.endswith("/")]


def list_models(incomplete: str) -> list[str | tuple[str, str]]:
    """Runs that hold a model, and the shipped scorers."""
    trained = [
        run for run in list_runs(incomplete) if run.endswith("/") or Path(run, "checkpoint", "model.json").is_file()
    ]
    shipped = [(name, text) for name, text in SHIPPED_MODELS.items() if name.startswith(incomplete)]
    return [*trained, *shipped]


def _list_paths(incomplete: str) -> list[str]:
    """Paths that start with the typed text; folders end in a slash, hidden files are left out."""
    before, slash, _ = incomplete.rpartition("/")
    folder = Path(before + slash or ".")
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    names = [f"{before}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in found if path.name[0] != "."]
    return [name for name in names if name.startswith(incomplete)]
