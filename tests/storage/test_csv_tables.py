"""CSV tables: values are read exactly as written, or an error names the wrong line and the reason."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from tables import CONTENT, Write, check, error_of

from aigc_cli.errors import AigcError
from aigc_cli.storage.csv_tables import MAX_FIELD, Table, read_table, rename_columns

UTF8_HINT = "Save the table as CSV in UTF-8 (in a spreadsheet: 'CSV UTF-8')."


def column(table: Table, name: str) -> list[str]:
    return [row[name] for row in table.to_dicts()]


# --- read_table: what is kept


def test_values_are_kept_as_written(write: Write) -> None:
    table = read_table(write("name,prompt\n0012,None\n4e49,NA\n c ,null\nd,nan\ne,\nf,1.0\nTrue,<NA>\n"))
    assert column(table, "name") == ["0012", "4e49", " c ", "d", "e", "f", "True"]
    assert column(table, "prompt") == ["None", "NA", "null", "nan", "", "1.0", "<NA>"]
    assert {type(value) for row in table.rows for value in row} == {str}
    assert table.lines == [2, 3, 4, 5, 6, 7, 8]


def test_quotes_new_lines_and_separators_inside_fields(write: Write) -> None:
    table = read_table(write('name,prompt\na,"a, b"\nb,"two\nlines ""quoted"""\n\nc,5\' 6" tall\n'))
    assert column(table, "prompt") == ["a, b", 'two\nlines "quoted"', "5' 6\" tall"]
    assert table.lines == [2, 3, 6]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark(write: Write, end: str, mark: bytes) -> None:
    table = read_table(write(mark + f"name,prompt{end}a,é 犬{end}b,\u2028x".encode()))
    assert table.columns == ["name", "prompt"]
    assert column(table, "prompt") == ["é 犬", "\u2028x"]
    assert table.lines == [2, 3]


@pytest.mark.parametrize(("sep", "char"), [(";", ";"), ("\t", "\t"), ("\\t", "\t"), ("|", "|")])
def test_separators(write: Write, sep: str, char: str) -> None:
    table = read_table(write(f"name{char}prompt\na{char}b, c\n"), sep=sep)
    assert table.to_dicts() == [{"name": "a", "prompt": "b, c"}]


def test_a_single_column_is_a_table(write: Write) -> None:
    assert column(read_table(write('name\na\n""\nc\n')), "name") == ["a", "", "c"]


# --- read_table: what is refused


@pytest.mark.parametrize("sep", ["", ",,", "\n", '"', " ", "\udcff"])
def test_bad_separator(write: Write, sep: str) -> None:
    error = error_of(lambda: read_table(write("a,b\n1,2\n"), sep=sep))
    shown = {"\n": "\\n", "\udcff": "\\xff"}.get(sep, sep)
    check(error, f"expected one character as separator, found '{shown}'", "Use --sep ',' ';' or '\\t'.")


def test_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    hint = "Give the path of a CSV file."
    gone = tmp_path / "no\x1b.csv"
    check(error_of(lambda: read_table(gone)), f"{tmp_path}/no\\x1b.csv: expected a CSV file, found nothing there", hint)
    found = "expected a CSV file, found a folder, pipe, device or link loop"
    check(error_of(lambda: read_table(tmp_path)), f"{tmp_path}: {found}", hint)
    check(error_of(lambda: read_table(tmp_path / "pipe.csv")), f"{tmp_path}/pipe.csv: {found}", hint)


def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.csv"))
    path.write_text("name\n")
    error = error_of(lambda: read_table(path))
    assert error.message == f"{tmp_path}/a\\xff.csv: expected rows below the header, found none"


def test_an_unreadable_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write("a,b\n1,2\n")
    monkeypatch.setattr(Path, "read_bytes", fail)
    error = error_of(lambda: read_table(path))
    assert error.message == f"{path}: expected a CSV file, found a file that can't be read (Permission denied)"


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf16(write: Write, codec: str) -> None:
    mark = b"\xfe\xff" if codec == "utf-16-be" else b""
    path = write(mark + "name,prompt\na,b\n".encode(codec))
    check(error_of(lambda: read_table(path)), f"{path}, line 1: expected UTF-8 text, found UTF-16", UTF8_HINT)


@pytest.mark.parametrize(("content", "line"), [(b"name\na\n\0\n", 3), ("name\na\n".encode("utf-16-le"), 1)])
def test_nul_bytes(write: Write, content: bytes, line: int) -> None:
    path = write(content)
    check(error_of(lambda: read_table(path)), f"{path}, line {line}: expected UTF-8 text, found a NUL byte", UTF8_HINT)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_latin1(write: Write, mark: bytes) -> None:
    path = write(mark + "name,prompt\r\na,b\r\nc,café\r\n".encode("latin-1"))
    check(error_of(lambda: read_table(path)), f"{path}, line 3: expected UTF-8 text, found the byte 0xe9", UTF8_HINT)


def test_unclosed_quote(write: Write) -> None:
    path = write('name,prompt\na,b\nc,"d\ne,f\n')
    check(
        error_of(lambda: read_table(path)),
        f'{path}, line 3: expected a closing ", found the end of the file',
        "Close the quote that is opened in this row.",
    )


def test_text_behind_a_closing_quote(write: Write) -> None:
    path = write('name,prompt\na,"red" car\n')
    check(
        error_of(lambda: read_table(path)),
        f"{path}, line 2: expected a separator after a closing quote, found something else (',' expected after '\"')",
        'Write a double quote inside a quoted field twice: "a ""red"" car".',
    )


def test_a_field_that_is_too_long(write: Write) -> None:
    assert len(read_table(write(f"name\n{'x' * MAX_FIELD}\n")).rows[0][0]) == MAX_FIELD
    path = write(f"name\n{'x' * (MAX_FIELD + 1)}\n")
    check(
        error_of(lambda: read_table(path)),
        f"{path}, line 2: expected fields of at most 1048576 characters, found a longer one",
        "Look for a double quote that is never closed.",
    )


def test_an_unquoted_comma(write: Write) -> None:
    path = write('name,prompt,mos_quality\na,"a, b",1\nb,a cat, a dog,2\n')
    check(
        error_of(lambda: read_table(path)),
        f"{path}, line 3: expected 3 fields ('name', 'prompt', 'mos_quality'), found 4",
        "Put double quotes around a text that holds a ','.",
    )


def test_too_few_fields(write: Write) -> None:
    path = write("name\tprompt\tmos\na\tb\t1\nb\tc\n")
    check(
        error_of(lambda: read_table(path, sep="\t")),
        f"{path}, line 3: expected 3 fields ('name', 'prompt', 'mos'), found 2",
        "Write a '\\t' for every field, blank ones too.",
    )


@pytest.mark.parametrize(
    "content", ["a.png,a red fox\nb.png,a house\n", "a fox,x/1.JPG\nb,c\n", "photo 1.webp\n2.webp\n"]
)
def test_no_header(write: Write, content: str) -> None:
    error = error_of(lambda: read_table(write(content)))
    assert "line 1: expected a header such as name,prompt, found '" in error.message
    assert error.hint == "Put a line with the names of the columns above the first row."


def test_duplicate_columns(write: Write) -> None:
    path = write("\nname,prompt,prompt,x,prompt\na,b,c,d,e\n")
    check(
        error_of(lambda: read_table(path)),
        f"{path}, line 2: expected every column name once, found 'prompt' 3 times",
        "Rename or remove one of these columns.",
    )


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_an_empty_file(write: Write, content: bytes) -> None:
    path = write(content)
    check(
        error_of(lambda: read_table(path)),
        f"{path}: expected a header line, found an empty file",
        "Give a table with a header and rows.",
    )


def test_a_header_alone(write: Write) -> None:
    path = write("name,prompt\n\n")
    check(
        error_of(lambda: read_table(path)),
        f"{path}: expected rows below the header, found none",
        "Give a table with at least one row.",
    )


@pytest.mark.parametrize(("char", "written"), [(";", ";"), ("\t", "\\t"), ("|", "|")])
def test_another_separator(write: Write, char: str, written: str) -> None:
    path = write(f"name{char}prompt{char}mos\na{char}b{char}3,5\n")
    check(
        error_of(lambda: read_table(path)),
        f"{path}, line 1: expected columns separated by ',', found one column 'name{written}prompt{written}mos'",
        f"The table seems to be separated by '{written}': try --sep '{written}'.",
    )


def test_control_characters_and_long_lists_in_messages(write: Write) -> None:
    columns = ["\x1b[31m", "x" * 200, *(f"c{n}" for n in range(30))]
    path = write(",".join(columns) + "\nonly\n")
    listed = ", ".join(["'\\x1b[31m'", f"'{'x' * 80}...'", *(f"'c{n}'" for n in range(18))])
    assert error_of(lambda: read_table(path)).message == (
        f"{path}, line 2: expected 32 fields ({listed} and 12 more), found 1"
    )


# --- rename_columns


def test_rename() -> None:
    table = Table(["a", "b", "c"], [["1", "2", "3"]], [7])
    renamed = rename_columns(table, {"a": "b", "b": "a"})
    assert (renamed.columns, renamed.lines) == (["b", "a", "c"], [7])
    assert table.columns == ["a", "b", "c"]


def test_rename_of_an_unknown_column() -> None:
    table = Table(["Image", "Prompt"], [["1", "2"]], [2])
    check(
        error_of(lambda: rename_columns(table, {"promt": "prompt"})),
        "the table: expected a column 'promt', found 'Image', 'Prompt'",
        "Did you mean 'Prompt'?",
    )
    error = error_of(lambda: rename_columns(table, {"zzz": "prompt"}, "t.csv"))
    check(error, "t.csv: expected a column 'zzz', found 'Image', 'Prompt'", "Name a column that the header holds.")


@pytest.mark.parametrize("renames", [{"a": "prompt"}, {"a": "prompt", "prompt": "prompt"}])
def test_rename_to_a_name_that_is_taken(renames: dict[str, str]) -> None:
    table = Table(["a", "prompt"], [["1", "2"]], [2])
    check(
        error_of(lambda: rename_columns(table, renames)),
        "the table: expected one column for 'prompt', found 'a', 'prompt'",
        "Rename one of them to something else with --columns THEIRS=OURS.",
    )


# --- any bytes


@settings(deadline=None, max_examples=100)
@given(content=CONTENT)
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "any.csv"
    path.write_bytes(content)
    try:
        table = read_table(path)
    except AigcError as error:
        assert error.message.startswith(f"{path}")
        assert error.hint
        return
    assert {type(value) for row in table.rows for value in row} == {str}
    assert len(set(table.columns)) == len(table.columns)
