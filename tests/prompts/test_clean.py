"""`clean_prompt` removes the commands for the generator and keeps the words."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_cli.prompts.clean import clean_prompt, collapse_spaces, to_text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a red fox", "a red fox"),
        ("a (red:1.2) fox", "a red fox"),
        ("((sharp)), [soft], (((very))) small", "sharp, soft, very small"),
        ("(a red fox:1.25), (in (deep:0.9) snow:.5)", "a red fox, in deep snow"),
        ("<lora:add_detail:0.8> a fox, <lyco:x:1>, <hypernet:y:0.5>", "a fox"),
        ("a fox <3 and 2 < 3 > 1", "a fox <3 and 2 < 3 > 1"),
        ("saber \\(fate\\), 16:9, time 10:30", "saber (fate), 16:9, time 10:30"),
        ("a [cat:dog:0.5] in a [hat::0.7] [sun:10]", "a dog in a hat sun"),
        ("[cow|horse] in a field", "cow horse in a field"),
        ("[a: b]", "a: b"),
        ("a fox BREAK blue sky", "a fox, blue sky"),
        ("a fox AND snow :1.2 AND cat :-1 AND ANDROID", "a fox, snow, ANDROID"),
        ("smile :) and (open", "smile :) and open"),
        ("closed) and ] }", "closed) and ] }"),
        ("a\n\tfox,\n, ,  snow ,", "a fox, snow"),
        ("一只(红色:1.3)的狐狸，[雪地]", "一只红色的狐狸，雪地"),
        ("красная (лиса:1.1)", "красная лиса"),
        ("ثعلب (أحمر:1.2)", "ثعلب أحمر"),
        ("🦊 ((fox)) 👩‍🚀", "🦊 fox 👩‍🚀"),
        ("<lora:only:1>", ""),
        ("", ""),
    ],
)
def test_automatic1111(raw: str, expected: str) -> None:
    assert clean_prompt(raw, "a1111") == expected


@pytest.mark.parametrize(
    ("source", "raw", "expected"),
    [
        ("comfyui", "a fox, embedding:EasyPositive, (embedding:more.pt:1.1), (red:1.2)", "a fox, red"),
        ("comfyui", "salt AND pepper", "salt AND pepper"),
        ("novelai", "{{{fox}}}, [[tiny]], 1.5::red, snow ::, -1::hat::, {a|b}", "fox, tiny, red, snow, a, b"),
        ("novelai", "fox (animal)", "fox (animal)"),
        ("invokeai", "a (red fox)1.3, blue++ sky--, well-lit, (a b)+++", "a red fox, blue sky, well-lit, a b"),
        ("invokeai", 'a cat.swap(dog) in ("snow", "rain").blend(0.7, 0.3)', 'a dog in "snow", "rain"'),
        ("fooocus", "a (red:1.2) fox", "a red fox"),
    ],
)
def test_others(source: str, raw: str, expected: str) -> None:
    assert clean_prompt(raw, source) == expected


PIECES = [*"()[]{}<>:|\\+-.,123 \nab", "lora", "AND", "BREAK", "::", ".swap(", "embedding:"]
MARKS = st.lists(st.sampled_from(PIECES)).map("".join)
REPEATED = ["(", "[", "((a:1)", "[a|", "<a:", "-1::", ".swap(", "AND ", "embedding:", ": ", "a+", " ,"]


@settings(deadline=None)
@given(raw=MARKS | st.text(), source=st.sampled_from(["a1111", "comfyui", "novelai", "invokeai", "fooocus"]))
def test_any_text_becomes_one_clean_line(raw: str, source: str) -> None:
    found = clean_prompt(to_text(raw), source)
    assert found == " ".join(found.split())
    assert set(found) <= {*to_text(raw), " ", ","}
    assert collapse_spaces(found) == found
    found.encode()  # no lone surrogate


@given(words=st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1))
def test_plain_words_stay(words: list[str]) -> None:
    words = [word for word in words if word not in ("AND", "BREAK")] or ["fox"]
    assert clean_prompt(" ".join(words), "a1111") == " ".join(words)


@pytest.mark.parametrize("piece", REPEATED)
def test_long_texts_take_little_time(piece: str) -> None:
    """No text makes a pattern backtrack for long: 20,000 characters usually take below a second of processor time."""
    begun = time.process_time()
    for source in ("a1111", "comfyui", "novelai", "invokeai"):
        clean_prompt(piece * (20_000 // len(piece)), source)
    assert time.process_time() - begun < 5


def test_text_for_tables() -> None:
    assert to_text("a\ud800b\x00c\x1b[31m\r\nd\re\tf") == "a?bc[31m\nd\ne\tf"
    assert to_text(None) == to_text(5) == to_text(["a"]) == ""
