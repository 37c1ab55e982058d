"""Where a report goes; checked before anything is computed, so it imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from aigc_cli.storage.atomic_files import check_output

MAX_EMBEDDED = 2_000  # images; with more, thumbnails go into a folder, because the page would take tens of megabytes


@dataclass(frozen=True)
class PageOutput:
    """Where a page goes.

    Attributes:
        path: FILE.html.
        thumbs: folder for thumbnails. None embeds them in the page; above `MAX_EMBEDDED` images they go into a folder
            beside it.
    """

    path: Path
    thumbs: Path | None = None

    def check(self, *, overwrite: bool) -> None:
        """Checks both paths before anything is computed; raises the errors of `check_output`."""
        check_output(self.path, overwrite=overwrite, suffixes=(".html",), option="--report")
        if self.thumbs is not None:
            check_output(self.thumbs, overwrite=overwrite, suffixes=(), option="--thumbs")
