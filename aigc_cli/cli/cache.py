"""`aigc cache`: what the cache folder holds, and how to make room."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import print_json, print_table
from aigc_cli.errors import AigcError
from aigc_cli.text import counted

app = typer.Typer(name="cache", help="What is kept of earlier runs: its size, its list, and how to remove it.")


@app.command("size")
def size(as_json: options.Json = False) -> None:
    """How much the cache takes, by kind."""
    from aigc_cli.storage.cache import KINDS, kept
    from aigc_cli.storage.feature_bank import cache_folder, shown_size

    items = kept(cache_folder())
    sizes = {kind: sum(item.size for item in items if item.kind == kind) for kind in KINDS}
    if as_json:
        print_json({"folder": str(cache_folder()), "bytes": sizes})
        return
    for kind, count in sizes.items():
        print(f"{kind:<14}{shown_size(count):>8}")
    print(f"{'all':<14}{shown_size(sum(sizes.values())):>8}  in {cache_folder()}")


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """Everything in the cache, the largest first."""
    from aigc_cli.storage.cache import kept
    from aigc_cli.storage.feature_bank import cache_folder

    _show(f"In {cache_folder()}", kept(cache_folder()), as_json)


@app.command("clear")
def clear(
    older_than: Annotated[float, typer.Option(help="Only what was not used for so many days.")] = 0.0,
    as_json: options.Json = False,
) -> None:
    """Remove what is in the cache; whatever is needed again is computed again."""
    from aigc_cli.storage.cache import clear as remove
    from aigc_cli.storage.feature_bank import cache_folder

    if not older_than >= 0:
        raise AigcError(f"Expected --older-than of 0 days or more, found {older_than:g}.", "Leave it out for all.")
    _show(f"Removed from {cache_folder()}", remove(cache_folder(), older_than), as_json)


def _show(title: str, items: Sequence[Any], as_json: bool) -> None:
    from aigc_cli.storage.feature_bank import shown_size

    if as_json:
        found = [{"kind": i.kind, "name": i.name, "bytes": i.size, "days": round(i.days, 3)} for i in items]
        print_json({"items": found, "bytes": sum(item.size for item in items)})
        return
    if not items:
        print(f"{title}: nothing")
        return
    cells = [[item.kind, item.name, shown_size(item.size), f"{item.days:.1f}"] for item in items]
    print_table(title, ("kind", "what", "size", "days unused"), cells)
    print(f"{counted(len(items), 'item')}, {shown_size(sum(item.size for item in items))}")
