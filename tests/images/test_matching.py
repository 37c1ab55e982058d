"""Names in tables mean files that are named in other forms; where two fit, none is taken."""

import time
import unicodedata

import pytest

from aigc_cli.images.matching import find_nearest, match_names

NFC, NFD = (unicodedata.normalize(form, "é ñ.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("name", "files", "found"),
    [
        (NFC, [NFD, "b.png"], NFD),
        (NFD, [NFC, "b.png"], NFC),
        ("a.PNG", ["a.png"], "a.png"),
        ("STRASSE.png", ["straße.png"], "straße.png"),
        ("pics/a.jpg", ["a.jpg"], "a.jpg"),
        ("x/pics/a.jpg", ["pics/a.jpg", "b/a.jpg"], "pics/a.jpg"),
        ("a.png", ["x/a.png", "y/b.png"], "x/a.png"),
        ("y/a.png", ["x/y/a.png", "x/a.png"], "x/y/a.png"),
        ("a", ["a.png", "b.png"], "a.png"),
        ("pics/a", ["a.webp"], "a.webp"),
        ("a.b", ["a.b.png", "a.png"], "a.b.png"),
        ("./a.png", ["a.png"], "a.png"),
        ("pics//a.png", ["a.png"], "a.png"),
        (r"a\xff.png", ["a\udcff.png"], "a\udcff.png"),  # as a result table prints it
        ("a.png", ["x/a.png", "y/a.png"], None),
        ("a", ["a.png", "a.jpg"], None),
        ("a", ["a.png", "x/a.png"], "a.png"),
        ("a.jpg", ["a.png"], None),
        ("a.png", ["ba.png", "a.png.jpg"], "a.png.jpg"),
        ("pics/a.png", ["other/a.png"], None),
        ("", ["a.png"], None),
        ("a.png", [], None),
    ],
)
def test_one_name(name: str, files: list[str], found: str | None) -> None:
    assert match_names([name], files) == ({} if found is None else {name: found})


def test_a_file_that_two_names_mean_belongs_to_none() -> None:
    assert match_names(["x/a.png", "y/a.png", "b"], ["a.png", "b.png"]) == {"b": "b.png"}


def test_the_nearest_name() -> None:
    files = ["fox-001.png", "sub/fox-002.png", "house.png"]
    assert find_nearest("pics/fox-02.png", files) == "sub/fox-002.png"
    assert find_nearest("zzzzzzzz", files) is None


def test_many_names_with_one_last_part() -> None:
    def measure(n: int) -> float:
        files = [f"x{i}/a.png" for i in range(n)]
        names = [f"pics/x{i}/a.png" for i in range(n)]
        begun = time.perf_counter()
        assert match_names(names, files) == dict(zip(names, files, strict=True))
        return time.perf_counter() - begun

    measure(1000)
    assert measure(20_000) < 8 * measure(5_000)
