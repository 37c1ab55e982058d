"""What a shell completes behind options: recipes, models and run folders. It looks at names only."""

from pathlib import Path

RUNS = Path("runs")
MARKS = ("run.json", "plan.json", "checkpoint/model.json")  # what a run folder, finished or not, has one of
SHIPPED = Path(__file__).parents[1] / "weights" / "scorer"


def recipes(incomplete: str) -> list[str]:
    """The shipped recipes, and .yaml files of one's own."""
    from aigc_cli.recipe import recipe_names

    names = [name for name in recipe_names() if name.startswith(incomplete)]
    return names + [path for path in _paths(incomplete) if path.endswith(("/", ".yaml", ".yml"))]


def runs(incomplete: str) -> list[str]:
    """Run folders below runs/, else the folders that begin so."""
    found = [
        str(folder)
        for folder in sorted(RUNS.glob("*"))
        if str(folder).startswith(incomplete) and any((folder / mark).is_file() for mark in MARKS)
    ]
    return found or [path for path in _paths(incomplete) if path.endswith("/")]


def models(incomplete: str) -> list[str | tuple[str, str]]:
    """Runs that left a model, and the shipped scorer."""
    trained = [run for run in runs(incomplete) if run.endswith("/") or Path(run, "checkpoint", "model.json").is_file()]
    shipped = [(str(SHIPPED), "the shipped scorer")] if str(SHIPPED).startswith(incomplete) else []
    return [*trained, *shipped]


def _paths(incomplete: str) -> list[str]:
    """Folders (with a slash) and files of the working folder or the one typed so far."""
    before, slash, _ = incomplete.rpartition("/")
    folder = Path(before + slash or ".")
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    names = [f"{before}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in found if path.name[0] != "."]
    return [name for name in names if name.startswith(incomplete)]
