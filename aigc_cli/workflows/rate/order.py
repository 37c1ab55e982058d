"""Which image, or which two, to ask about next."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

SPREAD = 40  # questions that spread over prompts and predicted scores, before those about which the model is least sure
LAST = 20  # predicted scores of so many earlier questions are kept away from


@dataclass
class Prediction:
    """What the present model says of an image, as far as it is known."""

    quality: float | None = None
    doubt: float | None = None  # the mean width of its intervals as a share of the scale, plus its `out_of_domain`


@dataclass
class Order:
    """Chooses what to ask.

    Attributes:
        names: the images.
        get_topic: the prompt of an image, or its own name without one.
        predictions: {image: what the model says}; it grows while images are scored.
        chosen: whether questions are chosen; if not, they are random.
    """

    names: Sequence[str]
    get_topic: Callable[[str], str]
    predictions: dict[str, Prediction]
    chosen: bool = True
    seed: int = 0
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def choose_image(self, asked: Sequence[str], bad: Collection[str] = ()) -> str | None:
        """An image that is neither in `asked` nor `bad`; where chosen, of a prompt that was asked about least."""
        seen = {*asked, *bad}
        left = [name for name in self.names if name not in seen]
        if not left:
            return None
        if not self.chosen:
            return self._draw(left)
        times = Counter(map(self.get_topic, asked))
        least = min(times[self.get_topic(name)] for name in left)
        left = [name for name in left if times[self.get_topic(name)] == least]
        known = [name for name in left if self._get(name).quality is not None]
        if not known:
            return self._draw(left)
        if len(asked) < SPREAD:
            earlier = [q for name in asked[-LAST:] if (q := self._get(name).quality) is not None]
            return max(known, key=lambda name: self._measure_distance(name, earlier))
        return max(known, key=lambda name: self._get(name).doubt or 0.0)

    def choose_pair(self, asked: Sequence[tuple[str, str]], bad: Collection[str] = ()) -> tuple[str, str] | None:
        """Two images of one prompt, not `bad` ones, that are not in `asked` together, in random order; or None.

        Where pairs are chosen, the prompt is one that was asked about least. The two are drawn: asking about those with
        the least difference of predicted scores taught less, since such answers are mostly chance.
        """
        seen = {frozenset(pair) for pair in asked}
        of: dict[str, list[str]] = {}
        for name in self.names:
            if name in bad:
                continue
            of.setdefault(self.get_topic(name), []).append(name)
        times = Counter(self.get_topic(a) for a, _ in asked)
        topics = [topic for topic, images in of.items() if len(images) > 1]
        self._random.shuffle(topics)
        for topic in sorted(topics, key=lambda topic: times[topic]) if self.chosen else topics:
            pairs = [pair for pair in combinations(of[topic], 2) if frozenset(pair) not in seen]
            if not pairs:
                continue
            a, b = pairs[int(self._random.integers(len(pairs)))]
            return (a, b) if self._random.random() < 0.5 else (b, a)
        return None

    def _get(self, name: str) -> Prediction:
        return self.predictions.get(name) or Prediction()

    def _draw(self, names: Sequence[str]) -> str:
        return names[int(self._random.integers(len(names)))]

    def _measure_distance(self, name: str, earlier: Sequence[float]) -> float:
        quality = self._get(name).quality or 0.0
        return min((abs(quality - other) for other in earlier), default=float(self._random.random()))
