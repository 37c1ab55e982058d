"""`aigc cache`: shows and clears the cache folder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from aigc_cli.cli.console import confirm, print_json, print_table
from aigc_cli.cli.help import COMMAND_GROUPS, CommandList, HelpfulCommand
from aigc_cli.cli.options import INPUT, JSON, check_least, make_flag, make_number
from aigc_cli.text import format_count, show_path, to_printable

if TYPE_CHECKING:
    from aigc_cli.storage.cache import CacheItem

cache_app = typer.Typer(
    name="cache",
    cls=CommandList,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=COMMAND_GROUPS["Machine"]["cache"],
)


@cache_app.command("size", cls=HelpfulCommand)
def show_size(as_json: bool = JSON) -> None:
    """Show the size of the cache by kind."""
    from aigc_cli.storage.cache import CACHE_KINDS, find_cache_folder, list_cache
    from aigc_cli.text import format_size

    items = list_cache(find_cache_folder())
    sizes = {kind: sum(item.size for item in items if item.kind == kind) for kind in CACHE_KINDS}
    if as_json:
        print_json({"folder": str(find_cache_folder()), "bytes": sizes})
        return
    for kind, count in sizes.items():
        print(f"{kind:<14}{format_size(count):>8}")
    print(f"{'all':<14}{format_size(sum(sizes.values())):>8}  in {show_path(find_cache_folder())}")


@cache_app.command("list", cls=HelpfulCommand)
def show_items(as_json: bool = JSON) -> None:
    """List all items of the cache, the largest first."""
    from aigc_cli.storage.cache import find_cache_folder, list_cache

    _show(f"In {find_cache_folder()}", list_cache(find_cache_folder()), as_json)


@cache_app.command("clear", cls=HelpfulCommand)
def clear(
    older_than: float = make_number(INPUT, "Only items unused for this many days", default=0.0),
    yes: bool = make_flag(INPUT, "Do not ask", "-y", "--yes"),
    as_json: bool = JSON,
) -> None:
    """Remove items from the cache; they are made again when needed. Asks first on a terminal."""
    from aigc_cli.storage.cache import clear_cache, find_cache_folder, list_cache
    from aigc_cli.text import format_size

    check_least("--older-than", older_than, 0)
    items = [item for item in list_cache(find_cache_folder()) if item.days >= older_than]
    size = format_size(sum(item.size for item in items))
    if items and not yes:
        confirm(f"Remove {format_count(len(items), 'item')}, {size}, from {find_cache_folder()}?")
    _show(f"Removed from {find_cache_folder()}", clear_cache(find_cache_folder(), older_than), as_json)


def _show(title: str, items: "Sequence[CacheItem]", as_json: bool) -> None:
    from aigc_cli.text import format_size

    if as_json:
        found = [{"kind": i.kind, "name": i.name, "bytes": i.size, "days": round(i.days, 3)} for i in items]
        print_json({"items": found, "bytes": sum(item.size for item in items)})
        return
    if not items:
        print(f"{to_printable(title)}: nothing")
        return
    cells = [[item.kind, item.name, format_size(item.size), f"{item.days:.1f}"] for item in items]
    print_table(title, ("kind", "what", "size", "days unused"), cells)
    print(f"{format_count(len(items), 'item')}, {format_size(sum(item.size for item in items))}")
