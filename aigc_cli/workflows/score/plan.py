"""How folders of images are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc_cli.progress import Progress
from aigc_cli.storage.checkpoints import find_checkpoint
from aigc_cli.storage.named_tables import read_prompts
from aigc_cli.workflows.score.networks import check_engine
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
        engine: what computes the scores, see `ENGINES`.
    """

    prompts: Path | None = None
    prompt: str | None = None
    columns: Mapping[str, str] | None = None
    sep: str = ","
    selection: Selection = Selection()
    model: Path | None = None
    device: str = "auto"
    engine: str = "auto"

    def read_prompts(self, folders: Sequence[Path]) -> dict[str, str]:
        """{name: prompt} of the table, for the images of these folders; empty without a table."""
        return read_prompts(self.prompts, folders, columns=self.columns, sep=self.sep) if self.prompts else {}

    def check(self) -> None:
        """Refuses what can be refused before anything is loaded: device, engine, and a folder without a model.

        Raises:
            AigcError: there is no such device, engine or model.
        """
        check_engine(self.device, self.engine)
        find_checkpoint(self.model)

    def load_scorer(self, progress: Progress) -> Scorer:
        """Loads the model; raises what `Scorer.load` raises."""
        progress.start("loading the model", None)
        return Scorer.load(self.model, self.device, self.engine, progress)
