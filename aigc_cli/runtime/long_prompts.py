"""Prompts that are longer than a text tower's window: they are split into parts, so that no word is lost."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_STOPS = frozenset(".,;:!?\n。，、；：！？")


def split_prompt(text: str, overflows: Callable[[str], bool]) -> list[str]:
    """Splits a text into the fewest parts of about equal length that do not overflow a text tower's window.

    Each cut is near the end of an equal part, at most a quarter of a part away: after the nearest punctuation mark,
    else at the nearest space, else (in a language without spaces) between two characters. Only white space at cuts is
    dropped. When the parts are embedded, each has its own start and end token.

    Example:
        >>> split_prompt("a red fox, in deep snow", lambda text: len(text) > 15)
        ['a red fox,', 'in deep snow']
    """
    if not overflows(text):
        return [text]

    def fits(count: int) -> bool:
        return not any(overflows(part) for part in _cut_evenly(text, count))

    enough = 2
    while enough < len(text) and not fits(enough):
        enough = min(2 * enough, len(text))
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if fits(middle) else (middle, enough)
    return _cut_evenly(text, enough)


def _cut_evenly(text: str, count: int) -> list[str]:
    reach = len(text) // (4 * count)
    cuts = [0, *(_find_cut(text, index * len(text) // count, reach) for index in range(1, count)), len(text)]
    parts = [text[start:end].strip() for start, end in itertools.pairwise(cuts)]
    return [part for part in parts if part]


def _find_cut(text: str, target: int, reach: int) -> int:
    """The offset of the next part's first character, near `target`."""
    places = range(max(1, target - reach), min(len(text), target + reach) + 1)
    stops = [place for place in places if text[place - 1] in _STOPS]
    candidates = stops or [place for place in places if text[place - 1].isspace()]
    return min(candidates, key=lambda place: abs(place - target), default=target)


def average_parts(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The L2-normalised embedding (D,) of a text from those of its parts (P, D); a single part keeps its own."""
    if len(embeddings) == 1:
        return np.asarray(embeddings[0])
    mean = embeddings.mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
