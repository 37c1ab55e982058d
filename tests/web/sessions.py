"""What the tests of `aigc rate` share: the prompts of their images, and how they open a session."""

from collections.abc import Callable

from aigc_cli.workflows.rate.session import RatingSession

PROMPTS = ("a fox", "a dog", "a red <b>house</b>", "rain")
Open = Callable[..., RatingSession]
