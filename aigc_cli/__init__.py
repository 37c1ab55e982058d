"""aigc: which of these generated images are good, and do they show what was asked?"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Scorer", "__version__"]

if TYPE_CHECKING:
    from aigc_cli.workflows.score.scorer import Scorer


def __getattr__(name: str) -> Any:
    """Imports `Scorer` on first use, because it imports torch."""
    if name == "Scorer":
        from aigc_cli.workflows.score.scorer import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
