"""Tables of prompts and ratings that people give: in every format, with the names as people write them."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from tables import CONTENT, Write, check, error_of

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.mos_scale import DEFAULT_SCALE, MosScale
from aigc_cli.storage.named_tables import read_prompts
from aigc_cli.storage.rating_tables import read_ratings

NAMES_HINT = "Write names relative to the image folder, with / between folders and without '..'."


# --- read_ratings


def test_ratings(write: Write, tmp_path: Path) -> None:
    header = "name,prompt,mos_quality,mos_align,style\n"
    path = write(header + "b.png,a dog,5,0,\nsub/c.png, ,,1.5e0,anime\na.png,None,.5,,x\n")
    images = tmp_path / "images"
    assert read_ratings(path, images) == [
        Sample("b.png", images / "b.png", "a dog", 5.0, 0.0, {"style": ""}),
        Sample("sub/c.png", images / "sub/c.png", None, None, 1.5, {"style": "anime"}),
        Sample("a.png", images / "a.png", "None", 0.5, None, {"style": "x"}),
    ]


def test_one_target_own_columns_and_scale(write: Write, tmp_path: Path) -> None:
    path = write("Image;Text;MOS\na.png;x;-10\nb.png;y; 100 \n")
    columns = {"Image": "name", "Text": "prompt", "MOS": "mos_align"}
    samples = read_ratings(path, tmp_path / "images", scale=MosScale(-10, 100), columns=columns, sep=";")
    assert [(sample.mos_quality, sample.mos_align) for sample in samples] == [(None, -10.0), (None, 100.0)]


def ratings_error(write: Write, tmp_path: Path, content: str, scale: MosScale = DEFAULT_SCALE) -> AigcError:
    return error_of(lambda: read_ratings(write(content), tmp_path / "images", scale=scale))


def test_missing_columns(write: Write, tmp_path: Path) -> None:
    error = ratings_error(write, tmp_path, "Names,Prompt,quality_mos\na.png,b,1\n")
    check(
        error,
        f"{tmp_path}/t.csv: expected a table (CSV, Parquet or JSON) with the columns 'name', 'prompt', "
        "'mos_quality' or 'mos_align', found 'Names', 'Prompt', 'quality_mos'",
        "Say which columns they are with --columns THEIRS=OURS, for example --columns 'Names'=name "
        "--columns 'Prompt'=prompt --columns 'quality_mos'=mos_quality.",
    )
    error = ratings_error(write, tmp_path, "name,zzz,mos_align\na.png,b,1\n")
    check(
        error,
        f"{tmp_path}/t.csv: expected a table (CSV, Parquet or JSON) with the column 'prompt', found 'name', "
        "'zzz', 'mos_align'",
        "Add what is missing, or say which columns they are with --columns THEIRS=OURS.",
    )


@pytest.mark.parametrize(
    "value", ["inf", "-inf", "nan", "NaN", "1_0", "0x1", "three", "1e", "+", ".", "\uff11", "4 5", "2/5", "\u22121"]
)
def test_scores_that_are_no_plain_number(write: Write, tmp_path: Path, value: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,mos_quality\na.png,x,1\nb.png,y,{value}\n")
    check(
        error,
        f"{tmp_path}/t.csv, line 3, column mos_quality: expected a number from 0 to 5, found '{value}'",
        "Write a plain number such as 3.5, or leave the cell blank where nobody rated.",
    )


def test_decimal_comma(write: Write, tmp_path: Path) -> None:
    error = ratings_error(write, tmp_path, 'name,prompt,mos_align\na.png,x,"3,5"\n')
    check(
        error,
        f"{tmp_path}/t.csv, line 2, column mos_align: expected a number from 0 to 5, found '3,5'",
        "Write a decimal point, as in 3.5.",
    )


@pytest.mark.parametrize(
    ("value", "others", "hint"),
    [
        ("5.01", "3", "The scores reach from 3 to 5.01. If they use another scale, give its ends: --mos-max 7"),
        ("72", "3", "The scores reach from 3 to 72. If they use another scale, give its ends: --mos-max 100"),
        ("-0.1", "3", "The scores reach from -0.1 to 3. If they use another scale, give its ends: --mos-min -1"),
        ("150", "-2.5", "The scores reach from -2.5 to 150. If they use another scale, give its ends: --mos-min -3 "
         "--mos-max 150"),
        ("1e999", "3", "Correct the score: it is too large for a number."),
    ],
)  # fmt: skip
def test_scores_outside_the_scale(write: Write, tmp_path: Path, value: str, others: str, hint: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,mos_align\na.png,x,{value}\nb.png,x,{others}\n")
    check(
        error,
        f"{tmp_path}/t.csv, line 2, column mos_align: expected a number from 0 to 5, found '{value}'",
        hint,
    )


def test_the_scale_in_the_message_is_the_one_given(write: Write, tmp_path: Path) -> None:
    error = ratings_error(write, tmp_path, "name,prompt,mos_align\na.png,x,0\n", MosScale(1, 7.5))
    assert error.message.endswith("line 2, column mos_align: expected a number from 1 to 7.5, found '0'")


@pytest.mark.parametrize(
    ("header", "row", "blank"),
    [("mos_quality,mos_align", ", ", "mos_quality and mos_align"), ("mos_align,x", ",", "mos_align")],
)
def test_a_row_without_any_score(write: Write, tmp_path: Path, header: str, row: str, blank: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,{header}\na.png,x,{row}\n")
    check(
        error, f"{tmp_path}/t.csv, line 2: expected a score, found {blank} blank", "Give the row a score or remove it."
    )


@pytest.mark.parametrize("again", ["a.png", "./a.png"])
def test_duplicate_names(write: Write, tmp_path: Path, again: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,mos_align\na.png,x,1\nb.png,x,1\n{again},y,2\n")
    check(
        error,
        f"{tmp_path}/t.csv, line 4: expected every name once, found '{again}' on lines 2 and 4",
        "Remove or rename one of them; if each row is of one rater, --columns THEIRS=rater names raters.",
    )


@pytest.mark.parametrize("name", ["", " ", ".", "./"])
def test_blank_names(write: Write, tmp_path: Path, name: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,mos_align\na.png,x,1\n{name},y,2\n")
    check(error, f"{tmp_path}/t.csv, line 3: expected an image name, found '{name}'", "Give every row a name.")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "//x", "a/../../x", "a/..", "..\\x", "a\\b.png", "C:\\x.png", "C:/x.png"]
)
def test_names_outside_the_folder(write: Write, tmp_path: Path, name: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,mos_align\n{name},y,2\n")
    check(
        error,
        f"{tmp_path}/t.csv, line 2: expected a name inside the image folder, found '{name}', outside the image folder",
        NAMES_HINT,
    )


@pytest.mark.parametrize(("name", "shown"), [("a\x1b[2J.png", "a\\x1b[2J.png"), ('"a\nb"', "a\\nb"), ("\x9b", "\\x9b")])
def test_control_characters_in_names(write: Write, tmp_path: Path, name: str, shown: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,mos_align\n{name},y,2\n")
    check(
        error,
        f"{tmp_path}/t.csv, line 2: expected a name without control characters, found '{shown}'",
        "Rename the image.",
    )


def test_no_image_folder(write: Write, tmp_path: Path) -> None:
    path = write("name,prompt,mos_align\na.png,y,2\n")
    check(
        error_of(lambda: read_ratings(path, tmp_path / "gone")),
        f"{tmp_path}/gone: expected a folder of images, found nothing there",
        "Name the folder that contains the images.",
    )
    message = f"{path}: expected a folder of images, found something that is not a folder"
    assert error_of(lambda: read_ratings(path, path)).message == message


@pytest.mark.parametrize("name", ["none.png", "x" * 5000 + ".png"])
def test_the_wrong_image_folder(write: Write, tmp_path: Path, name: str) -> None:
    error = ratings_error(write, tmp_path, f"name,prompt,mos_align\n{name},y,2\nm.png,y,2\n")
    check(
        error,
        f"{tmp_path}/t.csv: expected images in {tmp_path}/images, found none of the 2 named; "
        f"the first would be {tmp_path}/images/{name}",
        "Name the folder that the names in the table start from.",
    )


def test_numeric_looking_names_stay_text(write: Write, tmp_path: Path) -> None:
    path = write("name,prompt,mos_align\n0012,y,2\n4e49,y,2\n犬 1.png,y,2\na.png,y,2\n")
    assert [sample.name for sample in read_ratings(path, tmp_path / "images")] == ["0012", "4e49", "犬 1.png", "a.png"]


# --- read_prompts


def test_prompts(write: Write) -> None:
    path = write('file,prompt,mos_quality\na.png,"a, b",inf\nb.png,,2\nc.png,nan,\nd.png, ,\n')
    assert read_prompts(path, columns={"file": "name"}) == {"a.png": "a, b", "c.png": "nan"}
    assert read_prompts(write("name;prompt\na;x, y\n"), sep=";") == {"a": "x, y"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "name,zzz\na,b\n",
            ": expected a table (CSV, Parquet or JSON) with the column 'prompt', found 'name', 'zzz'",
        ),
        ("name,prompt\na,b\na,\n", ", line 3: expected every name once, found 'a' on lines 2 and 3"),
        (
            "name,prompt\n../a,b\n",
            ", line 2: expected a name inside the image folder, found '../a', outside the image folder",
        ),
        ("name,prompt\n,b\n", ", line 2: expected an image name, found ''"),
        ("name,prompt\na,b,c\n", ", line 2: expected 2 fields ('name', 'prompt'), found 3"),
    ],
)
def test_prompts_are_as_strict(write: Write, content: str, message: str) -> None:
    path = write(content)
    assert error_of(lambda: read_prompts(path)).message == f"{path}{message}"


def write_form(path: Path, rows: list[dict[str, object]]) -> Path:
    """Writes rows in the format that the suffix names."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl", "p.json", "p.ndjson", "p"])
def test_other_formats(name: str, tmp_path: Path) -> None:
    suffix = "x.parquet" if name.endswith("parquet") else "x.jsonl"
    rows: list[dict[str, object]] = [
        {"name": "0012", "prompt": "a fox, red", "mos_quality": 3, "mos_align": 2.5, "note": None},
        {"name": "é.png", "prompt": None, "mos_quality": None, "mos_align": 1, "note": "x"},
    ]
    path = write_form(tmp_path / suffix, rows).rename(tmp_path / name)
    assert read_prompts(path) == {"0012": "a fox, red"}
    samples = read_ratings(path, tmp_path, without_images=True)
    assert [(s.name, s.prompt, s.mos_quality, s.mos_align) for s in samples] == [
        ("0012", "a fox, red", 3.0, 2.5),
        ("é.png", None, None, 1.0),
    ]
    assert [s.groups for s in samples] == [{"note": ""}, {"note": "x"}]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"name": "a", "prompt": "b"}, 5]', "line 1: expected CSV, Parquet or JSON objects, found JSON of another"),
        ('{"name": "a",\n "prompt": "b"}', "line 1: expected CSV, Parquet or JSON objects, found JSON of another form"),
        ('{"name": "a", "prompt": "b"}\n5\n', "line 2: expected CSV, Parquet or JSON objects, found JSON of another"),
        ('{"a":' * 9999, "line 1: expected CSV, Parquet or JSON objects, found JSON of another form"),
        ("{}", "expected a table (CSV, Parquet or JSON) with the columns 'name', 'prompt', found "),
    ],
)
def test_json_of_other_forms(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    error = error_of(lambda: read_prompts(tmp_path / "p.json"))
    assert found in error.message
    assert error.hint


def test_usual_names_of_columns_are_guessed(tmp_path: Path) -> None:
    path = write_form(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": 'a "big" house, red'}])
    error = error_of(lambda: read_prompts(path))
    assert error.hint.endswith("for example --columns 'file_name'=name --columns 'text'=prompt.")
    assert read_prompts(path, columns={"file_name": "name", "text": "prompt"}) == {"a.png": 'a "big" house, red'}


def test_the_guard_against_formulas_is_undone(write: Write) -> None:
    path = write("name,prompt\n'-b.png,'=a formula\n'a.png,'tis a fox\n'@c.png,\"'@noir, a cat\"\n")
    assert read_prompts(path) == {"-b.png": "=a formula", "'a.png": "'tis a fox", "@c.png": "@noir, a cat"}


def test_absolute_names_inside_the_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("images")
    images = tmp_path / "images"
    path = write(f"name,prompt,mos_align\n{images}/a.png,x,1\nb.png,y,2\n")
    for folder in (images, tmp_path / "link"):
        assert [sample.path for sample in read_ratings(path, folder)] == [folder / "a.png", folder / "b.png"]
    assert read_prompts(path, [tmp_path / "other", images]) == {f"{images}/a.png": "x", "b.png": "y"}
    for name in (f"{images}/../a.png", f"{tmp_path}/imagesx/a.png", "/etc/passwd", str(tmp_path)):
        error = error_of(lambda: read_ratings(write(f"name,prompt,mos_align\n{name},x,1\n"), images))  # noqa: B023
        assert error.message.endswith("outside the image folder")
    error = error_of(lambda: read_ratings(write(f"name,prompt,mos_align\na.png,x,1\n{images}/a.png,x,1\n"), images))
    assert "expected every name once" in error.message


def test_names_in_other_forms(write: Write, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "sub").mkdir()
    for name in (unicodedata.normalize("NFD", "é.png"), "C.JPG", "sub/ü.webp", "two.png", "two.jpg"):
        (images / name).write_bytes(b"")
    names = ["pics/a.png", "b", "é.png", "c.jpg", f"sub/{unicodedata.normalize('NFD', 'ü.webp')}", "two", "gone.png"]
    table = write("name,prompt,mos_align\n" + "".join(f"{name},x,1\n" for name in names))
    found = [sample.path.relative_to(images).as_posix() for sample in read_ratings(table, images)]
    assert found == ["a.png", "b.png", unicodedata.normalize("NFD", "é.png"), "C.JPG", "sub/ü.webp", "two", "gone.png"]


# --- any bytes


@settings(deadline=None, max_examples=100)
@example(content=b"PAR1")
@given(content=CONTENT)
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "any.csv"
    path.write_bytes(content)
    for read in (read_prompts, lambda table: read_ratings(table, folder)):
        try:
            read(path)
        except AigcError as error:
            assert error.message.startswith(f"{path}")
            assert error.hint
