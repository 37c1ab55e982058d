"""Prompts that are longer than a text tower's window: read in parts, so that no word is dropped."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_STOPS = frozenset(".,;:!?\n。，、；：！？")


def parts_of(text: str, overflows: Callable[[str], bool]) -> list[str]:
    """A text as the fewest parts of about equal length that all fit into a text tower's window.

    Cuts fall behind the punctuation mark, else at the space, that is nearest to where equal parts would end, within a
    quarter of a part; where there is none (a language without spaces), between two characters. Nothing is left out but
    white space at cuts. Each part gets a start and an end token of its own when it is embedded.

    Args:
        overflows: whether a text has more tokens than the window.
    """
    if not overflows(text):
        return [text]

    def fits(count: int) -> bool:
        return not any(overflows(part) for part in _split(text, count))

    enough = 2
    while enough < len(text) and not fits(enough):
        enough = min(2 * enough, len(text))
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if fits(middle) else (middle, enough)
    return _split(text, enough)


def _split(text: str, count: int) -> list[str]:
    reach = len(text) // (4 * count)
    cuts = [0, *(_near(text, index * len(text) // count, reach) for index in range(1, count)), len(text)]
    parts = [text[start:end].strip() for start, end in itertools.pairwise(cuts)]
    return [part for part in parts if part]


def _near(text: str, target: int, reach: int) -> int:
    """Where to cut near `target`: the offset of the first character of the next part."""
    places = range(max(1, target - reach), min(len(text), target + reach) + 1)
    stops = [place for place in places if text[place - 1] in _STOPS]
    good = stops or [place for place in places if text[place - 1].isspace()]
    return min(good, key=lambda place: abs(place - target), default=target)


def joined(embeddings: Tensor, counts: Sequence[int]) -> Tensor:
    """One embedding (len(counts), D) for each text from those of its parts (sum(counts), D), all L2-normalised.

    That of several parts is their mean, normalised again; that of one part stays as it is, to the last bit.
    """
    if len(embeddings) == len(counts):
        return embeddings
    groups = torch.split(embeddings, list(counts))
    return torch.stack([group[0] if len(group) == 1 else F.normalize(group.mean(0), dim=0) for group in groups])
