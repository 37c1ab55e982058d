"""How folders of images are scored; imports no PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_cli.progress import Progress
from aigc_cli.storage.csv_tables import read_prompts

if TYPE_CHECKING:
    from aigc_cli.workflows.score.scorer import Scorer


@dataclass(frozen=True)
class Selection:
    """Which images of a folder are scored, see `list_images`."""

    recursive: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


@dataclass(frozen=True)
class ScoringPlan:
    """How folders of images are scored.

    Attributes:
        prompts: a CSV with name, prompt; it comes before `prompt`.
        prompt: one prompt for every image without a row in the table.
        columns, sep: {their column: ours} of the table, and its delimiter.
        model: a run or model folder; None for the shipped scorer.
        engine: what runs the image tower, see `ENGINES`.
    """

    prompts: Path | None = None
    prompt: str | None = None
    columns: Mapping[str, str] | None = None
    sep: str = ","
    selection: Selection = Selection()
    model: Path | None = None
    device: str = "auto"
    engine: str = "auto"

    def read_prompts(self) -> dict[str, str]:
        """{image name: prompt} of the table; empty without one."""
        return read_prompts(self.prompts, columns=self.columns, sep=self.sep) if self.prompts else {}

    def load_scorer(self, progress: Progress) -> "Scorer":
        """Loads the model; imports PyTorch."""
        from aigc_cli.model.trained import load_model
        from aigc_cli.workflows.score.scorer import Scorer

        return Scorer(load_model(self.model, self.device), self.engine, progress)
