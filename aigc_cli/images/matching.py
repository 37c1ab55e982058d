"""Matches the names in a table with files: people write names in other forms than file systems hold them."""

import difflib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from aigc_cli.text import to_printable

_AMBIGUOUS = ""
_SEARCHED = 2000  # files among which the nearest name is looked for


def match_names(names: Iterable[str], files: Collection[str]) -> dict[str, str]:
    """{name: file} of the names that mean exactly one file, which no other name means.

    A name means a file whose path is the same except for the form of Unicode (NFC, NFD) and upper and lower case, for
    leading folders that only one of both has, and for a suffix that the name lacks.

    Example:
        >>> match_names(["pics/a.jpg", "b", "c.png"], ["a.jpg", "b.png", "x/c.png", "y/c.png"])
        {'pics/a.jpg': 'a.jpg', 'b': 'b.png'}
    """
    whole, tails = dict[str, str](), dict[str, str]()
    for file in files:
        for path in {file, to_printable(file)}:  # result tables hold printable names
            parts = _normalise(path).split("/")
            stem = parts[-1].rpartition(".")[0]
            for last in (parts[-1], stem):
                _add(whole, "/".join([*parts[:-1], last]), file)
                for start in range(1, len(parts)):
                    _add(tails, "/".join([*parts[start:-1], last]), file)
    found = {}
    for name in names:
        parts = _normalise(name).split("/")
        shorter = ("/".join(parts[start:]) for start in range(1, len(parts)))
        key = "/".join(parts)
        places = ((whole, key), (tails, key), *((whole, tail) for tail in shorter))
        file = next((index[key] for index, key in places if key in index), _AMBIGUOUS)
        if file != _AMBIGUOUS:
            found[name] = file
    claims = Counter(found.values())
    return {name: file for name, file in found.items() if claims[file] == 1}


def find_nearest(name: str, files: Iterable[str]) -> str | None:
    """The file whose name is most like `name`, among the first 2,000; None if none is."""
    by_last = {PurePosixPath(file).name: file for file in itertools.islice(files, _SEARCHED)}
    near = difflib.get_close_matches(PurePosixPath(name).name, by_last, n=1)
    return by_last[near[0]] if near else None


def _normalise(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(PurePosixPath(path))).casefold())


def _add(index: dict[str, str], key: str, file: str) -> None:
    index[key] = file if index.get(key, file) == file else _AMBIGUOUS
