"""A session of rating: the images of a folder, what was answered, and what is asked next. Safe for several threads."""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from aigc_cli.errors import AigcError
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault
from aigc_cli.images.sample import TARGETS
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.storage.checkpoints import SHIPPED_SCORERS
from aigc_cli.storage.pair_tables import SIDES
from aigc_cli.text import to_printable
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.rate.answers import (
    AGAIN,
    ANSWER,
    HIGHEST,
    LOWEST,
    SKIP,
    UNDO,
    Answer,
    AnswerLog,
    drop_undone,
    write_pairs,
    write_ratings,
)
from aigc_cli.workflows.rate.order import Order, Prediction
from aigc_cli.workflows.rate.worth import WorthWatcher
from aigc_cli.workflows.score.inputs import list_entries
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.scorer import ImageEntry, Scorer

REPEATED = 10  # every tenth question was asked before, when there are at least so many answers
RATINGS = tuple(str(value) for value in range(LOWEST, HIGHEST + 1))


@dataclass(frozen=True)
class Question:
    """What is asked: an image, or two of one prompt.

    Attributes:
        images: one or two names.
        asks: the targets; an image without a prompt is not asked about consistency.
        again: whether it was asked before.
    """

    images: tuple[str, ...]
    prompt: str
    asks: tuple[str, ...]
    again: bool = False


@dataclass
class RatingSession:
    """One folder, one file of answers.

    Attributes:
        entries: {name: image}.
        prompts: {name: prompt}, empty while none is known.
        log: the answers on disk.
        ratings: the table that is derived from them.
        pairs: whether two images are compared.
        order: chooses the questions.
        repeats: whether a tenth of the questions is asked again.
    """

    folder: Path
    entries: Mapping[str, ImageEntry]
    prompts: dict[str, str]
    log: AnswerLog
    ratings: Path
    pairs: bool
    order: Order
    repeats: bool = True
    worth: str = ""  # when more answers stop paying, in words
    _watcher: WorthWatcher | None = None
    _learner: threading.Thread | None = None
    _closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _now: dict[str, Question | None] = field(default_factory=dict)
    _bad: set[str] = field(default_factory=set)

    @classmethod
    def open(
        cls, folder: Path, ratings: Path, plan: ScoringPlan, pairs: bool, chosen: bool, seed: int, progress: Progress
    ) -> Self:
        """Lists the images of the folder and reads earlier answers.

        Raises:
            AigcError: there are no images, the answers are of another kind or of another folder, or the table of
                ratings is not derived from answers.
            EnvironmentProblem: the answers can't be written.
        """
        found = list_entries(folder, plan.read_prompts([folder]), plan)
        entries = {entry.name: entry for entry in found if to_printable(entry.name) == entry.name and not entry.fault}
        if left_out := len(found) - len(entries):
            progress.say(f"Left out {left_out} images whose names are not plain text, or which lead out of the folder.")
        answers = ratings.with_suffix(".answers.csv")
        if ratings.exists() and not answers.exists():
            raise AigcError(
                f"Expected answers in {answers} beside {ratings}, found none: the table is not from `aigc rate`.",
                "It would be replaced: choose another place with -o.",
            )
        log = AnswerLog(answers)
        if any(bool(row.other) != pairs for row in log.rows if row.kind != UNDO):
            expected, hint = ("choices, found ratings", "Leave out") if pairs else ("ratings, found choices", "Add")
            raise AigcError(f"Expected {expected} in {log.path}.", f"{hint} --pairs, or change -o.")
        if log.rows and not any(row.image in entries for row in log.rows):
            raise AigcError(f"Expected answers about {folder} in {log.path}, found other images.", "Change -o.")
        prompts = {name: entry.prompt or "" for name, entry in entries.items()}
        order = Order(list(entries), lambda name: prompts.get(name) or name, {}, chosen, seed)
        session = cls(folder, entries, prompts, log, ratings, pairs, order)
        session.write()
        return session

    def learn(self, model: Scorer) -> None:
        """Scores all images, one batch after another; questions are chosen by what is known so far."""
        for row in model.iterate_rows(list(self.entries.values())):
            if self._closing.is_set():
                return
            if row["status"] != "ok":
                with self._lock:
                    self._bad.add(row["name"])
                continue
            span = model.saved.recipe.scale.span
            widths = [
                (row[f"{target}_high"] - row[f"{target}_low"]) / span
                for target in TARGETS
                if row.get(f"{target}_low") is not None
            ]
            doubt = sum(widths) / len(widths) if widths else 0.0
            with self._lock:
                self.order.predictions[row["name"]] = Prediction(row["quality"], doubt + (row["out_of_domain"] or 0.0))
                self.prompts[row["name"]] = row["prompt"] or ""

    def start_learning(self, plan: ScoringPlan) -> None:
        """Scores the images in a thread; a model that can't be loaded leaves the questions random."""
        if self.order.chosen:
            self._learner = threading.Thread(target=self._score, args=(plan,), name="score", daemon=True)
            self._learner.start()
        source = Source(None, self.folder, pairs=self.ratings) if self.pairs else Source(self.ratings, self.folder)
        model = str(plan.model or next(iter(SHIPPED_SCORERS)))
        self._watcher = WorthWatcher(source, model, MosScale(LOWEST, HIGHEST), self._tell_worth)
        self._watch()

    def close(self) -> None:
        """Ends what runs in the background, at most one batch later, and closes the file of answers."""
        self._closing.set()
        if self._learner is not None:
            self._learner.join()
        if self._watcher is not None:
            self._watcher.close()
        self.log.close()

    def _score(self, plan: ScoringPlan) -> None:
        with contextlib.suppress(AigcError):
            self.learn(plan.load_scorer(SilentProgress()))

    def _tell_worth(self, text: str) -> None:
        self.worth = text

    def _watch(self) -> None:
        if self._watcher is not None:
            self._watcher.look(sum(row.kind == ANSWER for row in drop_undone(self.log.rows)))

    def get_question(self, rater: str) -> Question | None:
        """What to ask this rater now; the same until it is answered. None when everything was asked."""
        with self._lock:
            if rater not in self._now:
                self._now[rater] = self._choose(rater)
            return self._now[rater]

    def answer(self, rater: str, given: Mapping[str, Any]) -> bool:
        """Saves an answer: {id, images, quality, consistency, seconds, skip}; False for one that is saved already.

        It may be about an earlier question: after an interruption the page sends again what was not saved.

        Raises:
            AigcError: it is no answer to a question that can be asked.
        """
        with self._lock:
            if any(row.id == given["id"] for row in self.log.rows):
                return False
            question = self._recall(rater, tuple(given["images"]))
            kind = SKIP if given.get("skip") else AGAIN if question.again else ANSWER
            values = {target: "" if kind == SKIP else str(given.get(target) or "") for target in TARGETS}
            allowed = tuple(SIDES) if self.pairs else RATINGS
            wrong = [t for t in TARGETS if values[t] not in (allowed if t in question.asks and kind != SKIP else ("",))]
            if wrong:
                raise AigcError(f"Expected {wrong[0]} out of {', '.join(allowed)}.", "Answer every question.")
            image, other = (*question.images, "")[:2]
            seconds = f"{min(max(float(given.get('seconds') or 0), 0), 3600):.1f}"
            self.log.add(
                Answer(given["id"], _tell_time(), rater, kind, image, other, question.prompt, **values, seconds=seconds)
            )
            if self._now.get(rater) == question:
                del self._now[rater]
            self.write()
            self._watch()
            return True

    def undo(self, rater: str, identity: str) -> bool:
        """Takes back this rater's last answer, which is asked again; False where there is none."""
        with self._lock:
            if any(row.id == identity for row in self.log.rows):
                return True
            own = [row for row in drop_undone(self.log.rows) if row.rater == rater and row.image in self.entries]
            if not own:
                return False
            last = own[-1]
            self.log.add(Answer(identity, _tell_time(), rater, UNDO, last.image, last.other, undoes=last.id))
            self._now[rater] = self._make_question(last.images, last.kind == AGAIN)
            self.write()
            return True

    def count(self, rater: str) -> tuple[int, int]:
        """(questions that this rater answered, images in all)."""
        with self._lock:
            return sum(row.rater == rater and row.kind != SKIP for row in drop_undone(self.log.rows)), len(self.entries)

    def find_image(self, name: str) -> Path | None:
        """The path of an image of the folder; None for any other name."""
        return self.folder / name if name in self.entries else None

    def write(self) -> None:
        """Writes the table that is derived from the answers."""
        (write_pairs if self.pairs else write_ratings)(self.ratings, self.log.rows)

    def _recall(self, rater: str, images: tuple[str, ...]) -> Question:
        """The question about these images: the present one, or another one that can be asked."""
        present = self.get_question(rater)
        if present is not None and present.images == images:
            return present
        known = all(name in self.entries and self._check_image(name) for name in images)
        topics = {self.order.get_topic(name) for name in images}
        if not known or len(set(images)) != 1 + self.pairs or len(topics) != 1:
            raise AigcError("Expected an answer to a question, found one about other images.", "Load the page again.")
        own = [row for row in drop_undone(self.log.rows) if row.rater == rater and row.kind != SKIP]
        return self._make_question(images, any(set(row.images) == set(images) for row in own))

    def _choose(self, rater: str) -> Question | None:
        own = [row for row in drop_undone(self.log.rows) if row.rater == rater and row.image in self.entries]
        given = [row for row in own if row.kind == ANSWER]
        again = sum(row.kind == AGAIN for row in own)
        if self.repeats and len(given) >= REPEATED and (again + 1) * REPEATED <= len(own):
            twice = {(row.image, row.other) for row in own if row.kind == AGAIN}
            once = [row for row in given[: -REPEATED // 2] if (row.image, row.other) not in twice]
            if once:
                row = once[len(own) * 7 % len(once)]
                return self._make_question(row.images, True)
        while True:
            images: tuple[str, ...] | None
            if self.pairs:
                images = self.order.choose_pair([(row.image, row.other) for row in own], self._bad)
            else:
                image = self.order.choose_image([row.image for row in own], self._bad)
                images = None if image is None else (image,)
            if images is None or all([self._check_image(name) for name in images]):
                return None if images is None else self._make_question(images, False)

    def _check_image(self, name: str) -> bool:
        """Whether the image can be shown; finds its prompt if that is in the image."""
        if name in self.order.predictions:
            return True
        try:
            record = decode_file(self.folder / name).record
        except ImageFault:
            self._bad.add(name)
            return False
        self.prompts[name] = self.prompts[name] or record.prompt or ""
        return True

    def _make_question(self, images: tuple[str, ...], again: bool) -> Question:
        prompt = self.prompts[images[0]]
        return Question(images, prompt, TARGETS if prompt else TARGETS[:1], again)


def _tell_time() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
