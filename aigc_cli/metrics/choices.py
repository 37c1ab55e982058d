"""How often scores agree with choices between two images, and how often raters agree with each other."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.by_name import Estimate, estimate_mean
from aigc_cli.storage.pair_tables import Preference

FORESEEN, CLOSE, CLEAR, RATERS_AGREE, TIES = "choices", "choices_close", "choices_clear", "choices_raters", "ties"


def make_choice_rows(
    choices: Sequence[Preference], scores: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of the metrics table for every question that was asked, with 95% intervals over prompts.

    `choices`: the share of decided choices, no ties, in which the preferred image has the higher score; equal scores
    count half. `choices_close` and `choices_clear`: the same for the half with the smaller and with the larger
    difference of scores. `choices_raters`: the same for one rater against another about the same two images, over all
    such couples who both decided. `ties`: the share of ties.

    Args:
        scores: {target: {image: its score}}; choices of other images are left out.
    """
    rows = []
    for target in TARGETS:
        of = scores.get(target, {})
        asked = [choice for choice in choices if choice.question == target and choice.a in of and choice.b in of]
        if not asked:
            continue
        decided = [choice for choice in asked if choice.preferred != 0.5]
        lead = np.array([of[c.a] - of[c.b] for c in decided], dtype=np.float64)
        right = 0.5 + 0.5 * np.sign(lead) * np.sign([c.preferred - 0.5 for c in decided])
        prompts, clear = [c.prompt for c in decided], np.abs(lead) > np.median(np.abs(lead)) if decided else lead > 0
        found = {FORESEEN: estimate_mean(right, prompts)}
        for name, mask in ((CLOSE, ~clear), (CLEAR, clear)):
            found[name] = estimate_mean(right[mask], [p for p, m in zip(prompts, mask, strict=True) if m])
        found[RATERS_AGREE] = _compare_raters(decided)
        found[TIES] = estimate_mean([float(c.preferred == 0.5) for c in asked], [c.prompt for c in asked])
        rows += [{**labels, "target": target, "metric": name, **one.to_columns()} for name, one in found.items()]
    return rows


def _compare_raters(decided: Sequence[Preference]) -> Estimate:
    """The share of couples of raters who chose the same image of the same two."""
    of: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    prompt_of: dict[tuple[str, ...], str] = {}
    for choice in decided:
        key = tuple(sorted((choice.a, choice.b)))
        of.setdefault(key, []).append((choice.rater, choice.a if choice.preferred == 1 else choice.b))
        prompt_of[key] = choice.prompt
    same, prompts = list[float](), list[str]()
    for key, votes in of.items():
        for (one, x), (other, y) in itertools.combinations(votes, 2):
            if one != other:
                same.append(float(x == y))
                prompts.append(prompt_of[key])
    if not same:
        return Estimate(None, None, None, 0, "no two raters chose between the same images")
    return estimate_mean(same, prompts)
