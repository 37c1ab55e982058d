"""What is asked, what is saved, and what is made of it."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sessions import PROMPTS, Open

from aigc_cli.errors import AigcError
from aigc_cli.storage.pair_tables import read_pairs
from aigc_cli.storage.rating_tables import read_ratings
from aigc_cli.workflows.rate.answers import AGAIN, ANSWER, UNDO, Answer, AnswerLog, drop_undone, read_answers
from aigc_cli.workflows.rate.order import Order, Prediction
from aigc_cli.workflows.rate.raters import compute_alpha, summarise_answers
from aigc_cli.workflows.rate.session import RatingSession

NUMBERS = itertools.count()


def answer(session: RatingSession, rater: str = "me", quality: str = "3", consistency: str = "4", **more: Any) -> Any:
    """Answers the present question, which is returned."""
    question = session.get_question(rater)
    assert question is not None
    values = {"quality": quality, "consistency": consistency if "consistency" in question.asks else None}
    given = {"id": f"{next(NUMBERS):032x}", "images": list(question.images), "seconds": 2.0, **values, **more}
    assert session.answer(rater, given)
    return question


def test_every_image_is_asked_once_and_a_tenth_twice(open_session: Open) -> None:
    session = open_session()
    asked = []
    while (question := session.get_question("me")) is not None:
        asked.append(question)
        answer(session)
    first = [one.images[0] for one in asked if not one.again]
    assert sorted(first) == sorted([f"{n:02}.png" for n in range(20)] + ["bare.tiff"]), "the broken one is left out"
    assert sum(one.again for one in asked) == 2
    assert [one.asks for one in asked if one.images[0] == "bare.tiff"] == [("quality",)]
    samples = read_ratings(session.ratings, session.folder)
    assert len(samples) == 21
    assert {sample.mos_quality for sample in samples} == {3.0}


def test_the_same_question_until_it_is_answered(open_session: Open) -> None:
    session = open_session()
    assert session.get_question("me") is session.get_question("me")


def test_prompts_take_turns(open_session: Open) -> None:
    session = open_session()
    times = Counter(answer(session).prompt for _ in range(9))
    assert {prompt: times[prompt] for prompt in PROMPTS} == dict.fromkeys(PROMPTS, 2) or times[""] == 1


def test_an_answer_that_is_sent_twice_counts_once(open_session: Open) -> None:
    session = open_session()
    question = session.get_question("me")
    assert question is not None
    given = {"id": "f" * 32, "images": list(question.images), "quality": "2", "consistency": "2", "seconds": 1}
    assert session.answer("me", given)
    assert not session.answer("me", given)
    assert len(session.log.rows) == 1


@pytest.mark.parametrize("values", [{"quality": "6"}, {"quality": ""}, {"quality": "a"}, {"consistency": None}])
def test_what_is_no_answer_is_refused(open_session: Open, values: dict[str, Any]) -> None:
    session = open_session()
    question = session.get_question("me")
    assert question is not None
    given = {"id": "e" * 32, "images": list(question.images), "quality": "2", "consistency": "2", "seconds": 1}
    with pytest.raises(AigcError, match="out of 1, 2, 3, 4, 5"):
        session.answer("me", given | values)
    for images in (["secret.txt"], ["broken.png"], ["00.png", "04.png"], []):
        with pytest.raises(AigcError, match="about other images"):
            session.answer("me", given | {"images": images})
    assert session.log.rows == []


def test_an_answer_to_an_earlier_question_counts_too(open_session: Open) -> None:
    """After an interruption the page sends it again, while something else is asked by now."""
    session = open_session()
    question = session.get_question("me")
    assert question is not None
    other = next(name for name in ("00.png", "01.png") if name not in question.images)
    given = {"id": "d" * 32, "images": [other], "quality": "2", "consistency": "2", "seconds": 1}
    assert session.answer("me", given)
    assert session.get_question("me") == question
    assert session.answer("me", given | {"id": "c" * 32})
    assert [row.kind for row in session.log.rows] == [ANSWER, AGAIN]


def test_undo_asks_again_and_the_table_forgets(open_session: Open) -> None:
    session = open_session()
    first, second = answer(session, quality="1"), answer(session, quality="5")
    assert session.undo("me", "a" * 32)
    assert session.get_question("me") == second
    assert [sample.name for sample in read_ratings(session.ratings, session.folder)] == [first.images[0]]
    assert session.undo("me", "a" * 32), "sent twice"
    assert session.undo("me", "b" * 32)
    assert session.get_question("me") == first
    assert not session.undo("me", "c" * 32)
    assert not session.undo("other", "d" * 32), "nobody takes back what another one said"
    assert [row.kind for row in session.log.rows] == [ANSWER, ANSWER, UNDO, UNDO]


def test_skipping(open_session: Open) -> None:
    session = open_session()
    skipped = answer(session, skip=True)
    assert all(answer(session).images != skipped.images for _ in range(20))
    assert skipped.images[0] not in {sample.name for sample in read_ratings(session.ratings, session.folder)}


def test_it_goes_on_where_it_was_ended(open_session: Open) -> None:
    session = open_session()
    given = [answer(session).images[0] for _ in range(5)]
    with session.log.path.open("ab") as stream:
        stream.write(b"0123,2026-01-01,me,answer,07.p")  # killed within a line
    again = open_session()
    assert [row.image for row in again.log.rows] == given
    assert answer(again).images[0] not in given
    assert len(read_answers(again.log.path)) == 6


def test_raters_do_not_see_each_other(open_session: Open) -> None:
    session = open_session()
    ann = [answer(session, "ann", quality="2") for _ in range(8)]
    ben = [answer(session, "ben", quality="4") for _ in range(23)]
    assert {one.images for one in ann} <= {one.images for one in ben}
    assert session.count("ann") == (8, 22)
    sample = next(s for s in read_ratings(session.ratings, session.folder) if s.name == ann[0].images[0])
    assert (sample.mos_quality, sample.groups["raters"]) == (3.0, "2")
    found = summarise_answers(session.log.rows)
    assert [one.rater for one in found.raters] == ["ann", "ben"]
    assert (found.raters[0].bias["quality"], found.raters[1].bias["quality"]) == (-2.0, 2.0)
    assert found.raters[0].per_minute == 30
    assert found.questions == 21
    assert found.alpha["quality"] < 0
    assert "consistency" not in found.alpha, "all gave the same"


def test_pairs(open_session: Open) -> None:
    session = open_session(pairs=True)
    questions = [answer(session, quality="a", consistency="tie") for _ in range(30)]
    new = [frozenset(one.images) for one in questions if not one.again]
    assert len(new) == len(set(new))
    assert sum(one.again for one in questions) == 2
    assert all(len(one.images) == 2 and one.prompt in PROMPTS for one in questions)
    choices, _ = read_pairs(session.ratings, session.folder)
    assert len(choices) == 60
    assert {(c.question, c.preferred) for c in choices} == {("quality", 1.0), ("consistency", 0.5)}
    assert summarise_answers(session.log.rows).raters[0].kept == {"quality": 1.0, "consistency": 1.0}


def test_answers_of_another_kind_are_not_mixed(open_session: Open, tmp_path: Path) -> None:
    session = open_session()
    answer(session)
    session.close()
    (tmp_path / "pairs.answers.csv").write_bytes(session.log.path.read_bytes())
    with pytest.raises(AigcError, match="Expected choices, found ratings"):
        open_session(pairs=True)
    (tmp_path / "ratings.answers.csv").write_text("name,prompt\na,b\n")
    with pytest.raises(AigcError, match="found another table"):
        open_session()


@pytest.mark.parametrize("pairs", [False, True])
def test_a_table_of_the_user_is_not_replaced(open_session: Open, tmp_path: Path, pairs: bool) -> None:
    own = tmp_path / ("pairs.csv" if pairs else "ratings.csv")
    own.write_text("name,prompt,mos_quality\n00.png,a fox,3\n")
    with pytest.raises(AigcError, match="the table is not from `aigc rate`"):
        open_session(pairs=pairs)
    assert own.read_text() == "name,prompt,mos_quality\n00.png,a fox,3\n"
    assert not own.with_suffix(".answers.csv").exists()


def test_answers_about_other_images(open_session: Open, folder: Path) -> None:
    session = open_session()
    answer(session)
    for path in folder.glob("*.png"):
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(AigcError, match="found other images"):
        open_session()


def test_a_text_of_several_lines_stays_in_its_row(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "x.answers.csv")
    log.add(Answer("1", "", "me", ANSWER, "a.png", prompt='a "red",\nhouse\r\n=1+1'))
    log.close()
    assert [row.prompt for row in read_answers(tmp_path / "x.answers.csv")] == ['a "red", house =1+1']


# --- what is asked next


def make_order(predictions: dict[str, Prediction], chosen: bool = True) -> Order:
    topics = dict.fromkeys("abcd", "x") | dict.fromkeys("efgh", "y")
    return Order(list("abcdefgh"), lambda name: topics.get(name, "another"), predictions, chosen)


def test_the_first_questions_spread_over_predicted_scores() -> None:
    order = make_order({name: Prediction(quality) for name, quality in zip("abcdefgh", range(8), strict=True)})
    asked: list[str] = []
    for _ in range(4):
        asked.append(str(order.choose_image(asked)))
    assert {"xy"[name in "efgh"] for name in asked[:2]} == {"x", "y"}
    scores = sorted("abcdefgh".index(name) for name in asked)
    assert scores[-1] - scores[0] >= 5


def test_later_questions_are_about_what_the_model_is_least_sure_of() -> None:
    doubts = {
        name: Prediction(1.0, doubt=doubt) for name, doubt in zip("abcdefgh", (3, 1, 4, 1, 5, 9, 2, 6), strict=True)
    }
    asked = ["other"] * 40
    order = make_order(doubts)
    assert order.choose_image(asked) == "f"
    assert order.choose_image([*asked, "f"]) == "c", "of the other prompt"
    assert order.choose_image([*asked, "f"], bad=["c"]) == "a"


def test_pairs_take_turns_by_prompt_and_come_once() -> None:
    order, asked = make_order({}), list[tuple[str, str]]()
    while (pair := order.choose_pair(asked)) is not None:
        asked.append(pair)
    assert len({frozenset(pair) for pair in asked}) == len(asked) == 12
    assert all((a in "abcd") == (b in "abcd") for a, b in asked)
    turns = [asked[place][0] in "abcd" for place in range(12)]
    assert all(one != other for one, other in zip(turns[::2], turns[1::2], strict=True))
    assert {a < b for a, b in asked} == {True, False}, "sides are drawn"
    assert make_order({}).choose_pair([], bad="abcdefg") is None


def test_at_random_nothing_is_known() -> None:
    order = make_order({"a": Prediction(1.0, doubt=9)}, chosen=False)
    found = {order.choose_image([]) for _ in range(99)}
    assert found == set("abcdefgh")
    assert len({frozenset(order.choose_pair([]) or ()) for _ in range(199)}) == 12


# --- agreement


def test_alpha_of_a_published_example() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), part E: the interval metric gives 0.849."""
    nothing = None
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nothing, nothing, nothing],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nothing, 3],
        [nothing, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nothing],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nothing],
    ]
    units = [[float(v) for v in column if v is not None] for column in zip(*table, strict=True)]
    assert compute_alpha(units) == pytest.approx(0.849, abs=5e-4)


@pytest.mark.parametrize("units", [[], [[1.0], [2.0]], [[3.0, 3.0], [3.0, 3.0]]])
def test_alpha_that_is_not_defined(units: list[list[float]]) -> None:
    assert compute_alpha(units) is None


def test_undone_answers_are_dropped_once() -> None:
    rows = [
        Answer("1", "", "me", ANSWER, "a"),
        Answer("2", "", "me", AGAIN, "a"),
        Answer("3", "", "me", UNDO, "a", undoes="2"),
    ]
    assert [row.id for row in drop_undone(rows)] == ["1"]
