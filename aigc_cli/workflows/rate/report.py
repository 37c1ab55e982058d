"""The page about raters."""

from typing import TYPE_CHECKING

from aigc_cli.images.sample import TARGETS
from aigc_cli.progress import Progress
from aigc_cli.report.numbers import MISSING
from aigc_cli.report.page import Page, PageTable, write_page
from aigc_cli.report.page_output import PageOutput
from aigc_cli.workflows.rate.raters import AnswersSummary

if TYPE_CHECKING:
    from aigc_cli.workflows.rate.session import RatingSession


def report_answers(found: AnswersSummary, session: "RatingSession", output: PageOutput, progress: Progress) -> None:
    """Writes a page about raters and their agreement; EnvironmentProblem if it can't be written."""
    shown = [
        [
            one.rater,
            str(one.answers),
            MISSING if one.per_minute is None else f"{one.per_minute:.0f}",
            *(f"{one.bias[t]:+.2f}" if t in one.bias else MISSING for t in TARGETS),
            str(one.repeated),
            *(f"{one.kept[t]:.0%}" if t in one.kept else MISSING for t in TARGETS),
        ]
        for one in found.raters
    ]
    raters = PageTable(
        "Raters",
        (
            "Rater",
            "Answers",
            "Answers a minute",
            "Bias, quality",
            "Bias, consistency",
            "Asked twice",
            "Same answer, quality",
            "Same answer, consistency",
        ),
        shown,
        "Bias is the mean difference to the other raters of the same images. A tenth of the questions is asked twice.",
    )
    several = len(found.raters) > 1
    agreement = PageTable(
        "Agreement",
        ("Question", "Krippendorff's alpha", "Noise ceiling"),
        [
            [t.capitalize(), f"{found.alpha[t]:.2f}", f"{found.ceiling[t]:.2f}" if t in found.ceiling else MISSING]
            for t in TARGETS
            if t in found.alpha
        ],
        f"Alpha {'between raters' if several else 'between the answers of one rater to the same question'}: 1 is full "
        "agreement, 0 is chance. The noise ceiling is the correlation with these scores that a model can reach.",
    )
    what = "pairs" if session.pairs else "images"
    notes = [session.worth] if session.worth else []
    facts = {"Folder": str(session.folder), f"Judged {what}": str(found.questions), "Raters": str(len(found.raters))}
    tables = [raters, agreement] if agreement.rows else [raters]
    write_page(output, Page("Raters and their agreement", facts, notes, tables), progress)
