"""Result tables: fixed schemas, equal values in all formats, and no cells that a spreadsheet would run."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigc_cli.errors import AigcError
from aigc_cli.mos_scale import MosScale
from aigc_cli.storage.results import (
    TableWriter,
    clean_value,
    iterate_rows,
    read_parquet_rows,
    read_scale,
    read_splits,
    read_table_metadata,
    write_table,
)
from aigc_cli.storage.schemas import LATER_COLUMNS, SCHEMA_VERSION, SCHEMAS, Kind

EXPECTED = {
    "scores": "name path prompt prompt_source quality:f consistency:f quality_base:f quality_delta:f "
    "consistency_base:f consistency_delta:f clip_cosine:f prompt_split:b width:i height:i status reason "
    "prompt_raw model sampler steps:i cfg:f seed quality_low:f quality_high:f consistency_low:f consistency_high:f "
    "out_of_domain:f quality_percentile:f consistency_percentile:f",
    "metrics": "run split group target metric value:f ci_low:f ci_high:f n:i reason",
    "epochs": "run epoch:i split loss:f loss_q:f loss_c:f srocc_q:f srocc_c:f plcc_q:f plcc_c:f lr:f seconds:f "
    "saturated_q:f saturated_c:f unused_q:f unused_c:f",
    "ablation": "variant fold:i seed:i target metric value:f seconds:f trainable_parameters:i reason",
    "stress": "model perturbation target n:i change:f ci_low:f ci_high:f lower:f srocc:f",
    "comparison": "table baseline target group pairs:i prompts:i mean:f baseline_mean:f difference:f ci_low:f "
    "ci_high:f win_rate:f win_low:f win_high:f verdict reason",
    "predictions": "name group quality:f consistency:f human_quality:f human_consistency:f clip_cosine:f "
    "out_of_domain:f mismatched:f",
    "splits": "name prompt split fold:i repeat:i",
}
TYPES = {"": pa.string(), "f": pa.float64(), "i": pa.int64(), "b": pa.bool_()}
FORMATS = (".parquet", ".csv", ".jsonl")
HINT = "Check that the file is complete and was not edited."


def schema_of(text: str) -> list[tuple[str, pa.DataType]]:
    return [(name, TYPES[kind]) for name, _, kind in (word.partition(":") for word in text.split())]


def metric_row(**given: Any) -> dict[str, Any]:
    row = {"run": "r", "split": "val", "group": "all", "target": "quality", "metric": "srocc"}
    return row | {"value": 0.1, "ci_low": -0.25, "ci_high": 1 / 3, "n": 7, "reason": None} | given


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics table in any format, as Parquet holds them."""
    if path.suffix == ".parquet":
        return read_parquet_rows(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    turn = {pa.string(): str, pa.float64(): float, pa.int64(): int}
    schema = SCHEMAS["metrics"]
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{name: turn[schema.field(name).type](text) if text else None for name, text in row.items()} for row in rows]


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_schemas_are_fixed(kind: Kind, tmp_path: Path) -> None:
    """A change breaks files of users: increase SCHEMA_VERSION, except for new columns at the end."""
    assert SCHEMA_VERSION == 3
    write_table(tmp_path / "t.parquet", kind, [], {})
    found = pq.read_schema(tmp_path / "t.parquet")
    assert [(field.name, field.type) for field in found] == schema_of(EXPECTED[kind])
    write_table(tmp_path / "t.csv", kind, [], {})
    assert (tmp_path / "t.csv").read_text() == ",".join(name for name, _ in schema_of(EXPECTED[kind])) + "\n"


def test_there_are_no_other_kinds() -> None:
    assert SCHEMAS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("suffix", FORMATS)
def test_values_survive(suffix: str, tmp_path: Path) -> None:
    rows = [
        metric_row(),
        metric_row(value=None, ci_low=None, ci_high=None, n=0, reason="n = 0, at least 2 are needed"),
        metric_row(group='prompt=a "red", fox\nand é \U0001f98a', value=-1e-17, n=2**53 + 1),
    ]
    path = tmp_path / f"t{suffix}"
    write_table(path, "metrics", rows, {})
    assert read(path) == rows


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(suffix: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, "metrics", [metric_row(value=value)], {})
    assert read(path) == [metric_row(value=None)]
    assert clean_value(value) is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_column_that_a_row_lacks_is_null_and_others_are_dropped(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, "metrics", [{"run": "r", "n": 1, "surplus": 5}], {})
    assert read(path) == [dict.fromkeys(SCHEMAS["metrics"].names) | {"run": "r", "n": 1}]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_table_says_what_made_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, "metrics", [metric_row()], {"model": "m", "model_hash": "abc"})
    if suffix == ".parquet":
        found = {key.decode(): value.decode() for key, value in pq.read_schema(path).metadata.items()}
        found.pop("ARROW:schema", None)
        assert list(tmp_path.iterdir()) == [path]
    else:
        found = json.loads((tmp_path / f"t{suffix}.meta.json").read_text())
    assert found == {"schema": "metrics", "schema_version": "3", "model": "m", "model_hash": "abc"}


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_a_csv_cell_is_no_formula(first: str, tmp_path: Path) -> None:
    name = f'{first}HYPERLINK("http://x")'
    write_table(tmp_path / "t.csv", "splits", [{"name": name, "prompt": f"a{first}", "split": "val"}], {})
    with (tmp_path / "t.csv").open(newline="") as stream:
        _, row = csv.reader(stream)
    assert row == [f"'{name}", f"a{first}", "val", "", ""]
    write_table(tmp_path / "t.jsonl", "splits", [{"name": name}], {})
    assert json.loads((tmp_path / "t.jsonl").read_text())["name"] == name


def test_no_control_character_reaches_a_terminal(tmp_path: Path) -> None:
    prompt = "a\tb\nc \x1b[31m\x00\x7f\x9b2J é"
    for suffix in FORMATS:
        write_table(tmp_path / f"t{suffix}", "splits", [{"prompt": prompt}], {})
    assert read_parquet_rows(tmp_path / "t.parquet")[0]["prompt"] == prompt
    text = (tmp_path / "t.jsonl").read_text()
    assert json.loads(text)["prompt"] == prompt
    with (tmp_path / "t.csv").open(newline="") as stream:
        assert next(csv.DictReader(stream))["prompt"] == "a\tb\nc \\x1b[31m\\x00\\x7f\\x9b2J é"
    for control in "\x1b\x00\x7f\x9b":
        assert control not in text


def test_a_negative_number_in_csv_is_a_number(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", "metrics", [metric_row(value=-0.5)], {})
    assert (tmp_path / "t.csv").read_text().splitlines()[
        1
    ] == "r,val,all,quality,srocc,-0.5,-0.25,0.3333333333333333,7,"


def test_booleans_are_written_as_in_json(tmp_path: Path) -> None:
    rows = [{"prompt_split": value} for value in (True, False, None)]
    write_table(tmp_path / "t.csv", "scores", rows, {})
    with (tmp_path / "t.csv").open(newline="") as stream:
        assert [row["prompt_split"] for row in csv.DictReader(stream)] == ["true", "false", ""]


@pytest.mark.parametrize("suffix", FORMATS)
def test_batches_and_further_columns(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, "splits", {}, extra=("note",)) as table:
        table.write([{"name": "a", "note": "first"}])
        table.write([])
        table.write([{"name": "b"}])
    if suffix == ".csv":
        assert path.read_text() == "name,prompt,split,fold,repeat,note\na,,,,,first\nb,,,,,\n"
        return
    empty = {"prompt": None, "split": None, "fold": None, "repeat": None}
    assert read(path) == [{"name": "a", **empty, "note": "first"}, {"name": "b", **empty, "note": None}]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_that_fails_half_way_leaves_the_old_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, "metrics", [metric_row()], {"model": "old"})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def stop_half_way() -> None:
        with TableWriter(path, "metrics", {"model": "new"}) as table:
            table.write([metric_row(n=8)])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(AigcError) as caught:
        read_parquet_rows(damaged)
    assert caught.value.message.startswith(f"Expected a Parquet table at {damaged}, found ")
    assert caught.value.hint == HINT
    missing = tmp_path / "missing.parquet"
    for read in (read_parquet_rows, read_table_metadata, lambda path: list(iterate_rows(path))):
        with pytest.raises(AigcError) as caught:
            read(missing)
        assert caught.value.message == f"Expected a table at {missing}, found nothing there."


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_without_its_metadata(suffix: str, tmp_path: Path) -> None:
    """Other programs drop it. Their tables may come from a CSV, with its quotes against formulas."""
    path = tmp_path / f"t{suffix}"
    row = {"name": "'-b.png", "prompt": "'=1", "status": "ok", "seed": 5, "steps": 25.0, "quality": 1}
    rows = [dict.fromkeys(SCHEMAS["scores"].names) | row]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        texts = [["" if value is None else value for value in one.values()] for one in rows]
        with path.open("w", newline="") as stream:
            csv.writer(stream, delimiter=";").writerows([list(rows[0]), *texts])
    else:
        path.write_text("".join(f"{json.dumps(one)}\n" for one in rows) + "\n")
    found = next(iterate_rows(path))
    assert [found[name] for name in row] == ["-b.png", "=1", "ok", "5", 25, 1.0]
    with pytest.raises(AigcError, match=r"Expected the metadata of the table .* found none\.") as caught:
        read_table_metadata(path)
    assert "Errno" not in str(caught.value)


@pytest.mark.parametrize("yes", ["true", "TRUE", "True"])
def test_a_table_that_a_spreadsheet_saved(yes: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    row = {"name": "a.png", "status": "ok", "quality": "3,25", "prompt_split": yes, "width": "512", "steps": "25.0"}
    cells = dict.fromkeys(SCHEMAS["scores"].names, "") | row
    path.write_text(f"\ufeff{';'.join(cells)}\r\n{';'.join(cells.values())}\r\n", encoding="utf-8")
    found = next(iterate_rows(path))
    assert [found[name] for name in row] == ["a.png", "ok", 3.25, True, 512, 25]


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_come_back_with_their_further_columns(suffix: str, tmp_path: Path) -> None:
    """In every format; the escapes of CSV cells are reversed."""
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, "scores", {}, extra=("note",)) as table:
        row = {"name": "=1+1", "status": "ok", "quality": 2.5, "prompt_split": False, "width": 7, "note": "-x"}
        table.write([row])
    assert list(iterate_rows(path)) == [dict.fromkeys(SCHEMAS["scores"].names) | row]


# --- untrusted tables of scores


def scores(path: Path, **given: Any) -> Path:
    row = dict.fromkeys(SCHEMAS["scores"].names) | {"name": "a", "status": "ok", "quality": 1.5, "width": 3}
    write_table(path, "scores", [row | given], {"mos_min": "0", "mos_max": "5"})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(AigcError) as caught:
        list(iterate_rows(path))
    assert caught.value.hint == HINT
    return caught.value.message


def test_a_cell_too_many_is_named_with_its_line(tmp_path: Path) -> None:
    """Otherwise a comma in a prompt would move all scores after it into other columns."""
    path, names = scores(tmp_path / "t.csv"), SCHEMAS["scores"].names
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace("a,", "a,b,", 1) + "\n")
    assert (
        refusal(path)
        == f"Expected a CSV table at {path}, found {len(names) + 1} cells instead of {len(names)} in line 3."
    )


def test_columns_that_are_not_there_or_twice(tmp_path: Path) -> None:
    path = scores(tmp_path / "t.csv")
    text = path.read_text()
    path.write_text(text.replace("status", "state", 1))
    assert refusal(path).endswith("found no column status.")
    path.write_text(text.replace("prompt_source", "prompt", 1).replace("path", "prompt_source", 1))
    assert refusal(path).endswith("found no column path.")
    path.write_text(text.replace(",reason", ",reason,reason", 1))
    assert refusal(path).endswith("found the column reason twice.")
    path.write_text(text.replace(",", "|"))
    assert "its one column is 'name|path|prompt|prompt_source|quality|c...': is it separated by commas?" in refusal(
        path
    )
    path.write_text("")
    assert "found no column name, path" in refusal(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = scores(tmp_path / "t.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    assert [row["name"] for row in iterate_rows(path)] == ["a"]


@pytest.mark.parametrize(
    ("suffix", "old", "new", "found"),
    [
        (".csv", ",1.5,", ",high,", "a cell of the wrong type in line 2: could not convert string to float: 'high'"),
        (".csv", ",1.5,", ",inf,", "inf in the column quality of row 1 instead of a finite number"),
        (".csv", ",3,", ",3.5,", "'3.5' in the column width of row 1 instead of a whole number"),
        (".csv", "\na,", "\n,", "'None' in the column name of row 1 instead of a text"),
        (".csv", ",ok,", ',"ok,', "unexpected end of data"),
        (".jsonl", "1.5", '"high"', "'high' in the column quality of row 1 instead of a finite number"),
        (".jsonl", "1.5", "NaN", "nan in the column quality of row 1 instead of a finite number"),
        (".jsonl", "1.5", "true", "'True' in the column quality of row 1 instead of a finite number"),
        (".jsonl", '"ok"', "null", "'None' in the column status of row 1 instead of a text"),
        (".jsonl", '"ok"', '"\\u001b"', None),
        (".jsonl", "1.5", "1" + "0" * 400, "int too large to convert to float"),
        (".jsonl", "{", "[", "Expecting"),
        (".jsonl", '{"name"', '{"nome"', "no column name"),
        (".jsonl", '"a"', "[" * 9999, "maximum recursion depth exceeded"),
    ],
)
def test_a_value_that_its_column_cannot_hold(
    suffix: str, old: str, new: str, found: str | None, tmp_path: Path
) -> None:
    path = scores(tmp_path / f"t{suffix}")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    if found is None:  # valid text; code that shows it escapes it
        assert [row["status"] for row in iterate_rows(path)] == ["\x1b"]
    else:
        assert f"found {found}" in refusal(path)


def test_a_parquet_column_of_another_type(tmp_path: Path) -> None:
    path = scores(tmp_path / "t.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("quality")
    pq.write_table(table.set_column(place, "quality", pa.array(["high"])), path)
    assert refusal(path).endswith("found 'high' in the column quality of row 1 instead of a finite number.")
    pq.write_table(table.append_column("name", pa.array(["b"])), path)
    assert refusal(path).endswith("found the column name twice.")


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    for name in ("t.csv", "t.jsonl", "t.parquet", "n.csv.meta.json"):
        os.mkfifo(tmp_path / name)
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        assert refusal(tmp_path / name).endswith("it is a folder, pipe, socket or device.")
    with pytest.raises(AigcError, match="it is a folder, pipe, socket or device"):
        read_table_metadata(scores_without_note(tmp_path / "n.csv"))


def scores_without_note(path: Path) -> Path:
    path.write_text("name\n")
    return path


@pytest.mark.parametrize("scale", [("x", "5"), ("5", "0"), ("0", "inf"), ("nan", "5")])
def test_the_scale_of_a_table(scale: tuple[str, str], tmp_path: Path) -> None:
    for suffix in FORMATS:
        path = tmp_path / f"t{suffix}"
        write_table(path, "scores", [], {"mos_min": scale[0], "mos_max": scale[1]})
        with pytest.raises(AigcError, match=r"found \w+ to \w+"):
            read_scale(read_table_metadata(path))
    assert read_scale({"mos_min": "1", "mos_max": "7.5"}) == MosScale(1, 7.5)
    assert read_scale({}) == MosScale(0, 5)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_not_utf8_is_written_as_escapes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, "scores", [row_named("caf\udce9")], {"model": "run\udcff"})
    assert [row["name"] for row in iterate_rows(path)] == ["caf\\udce9"]
    assert read_table_metadata(path)["model"] == "run\\udcff"


def row_named(name: str) -> dict[str, Any]:
    return dict.fromkeys(SCHEMAS["scores"].names) | {"name": name, "status": "ok"}


def test_a_column_that_looks_like_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with TableWriter(path, "scores", {}, extra=("=cmd",)) as table:
        table.write([row_named("a") | {"=cmd": "x"}])
    assert path.read_text().splitlines()[0].endswith(",'=cmd")
    assert [row["=cmd"] for row in iterate_rows(path)] == ["x"]


# --- splits


@pytest.mark.parametrize("suffix", FORMATS)
def test_splits_of_any_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"s{suffix}"
    write_table(path, "splits", [{"name": "=a", "split": "val", "fold": 1}, {"name": "b"}], {})
    nothing = {"split": None, "fold": None, "repeat": None}
    assert read_splits(path) == [nothing | {"name": "=a", "split": "val", "fold": 1}, nothing | {"name": "b"}]


def test_invalid_splits(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"fold": 1}\n')
    with pytest.raises(AigcError, match="Expected a name in every row"):
        read_splits(path)
    for fold in ('"x"', "[]", "Infinity"):
        path.write_text(f'{{"name": "a", "fold": {fold}}}\n')
        with pytest.raises(AigcError, match="Expected whole numbers in the column fold"):
            read_splits(path)
    path.write_text("no JSON\n")
    with pytest.raises(AigcError, match="Expected a JSON lines table"):
        read_splits(path)


# --- tables of earlier versions


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_of_an_earlier_version_is_read(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that are newer than the table are null, also `prompt_split`, which was `prompt_truncated`."""
    path, names = tmp_path / f"t{suffix}", SCHEMAS["scores"].names
    added = LATER_COLUMNS - {"prompt_split"}
    assert set(names[-len(added) :]) == added
    fields = [field for field in SCHEMAS["scores"] if field.name not in added]
    old = pa.schema([f.with_name("prompt_truncated") if f.name == "prompt_split" else f for f in fields])
    row = {"name": "a", "status": "ok", "quality": 2.5}
    with monkeypatch.context() as patch:
        patch.setitem(SCHEMAS, "scores", old)
        write_table(path, "scores", [row | {"prompt_truncated": True}], {})
    (found,) = iterate_rows(path)
    assert {name: found[name] for name in names} == dict.fromkeys(names) | row
    with monkeypatch.context() as patch:
        patch.setitem(SCHEMAS, "scores", old.remove(0))
        write_table(tmp_path / f"bad{suffix}", "scores", [{"status": "ok"}], {})
    with pytest.raises(AigcError, match="no column name"):
        list(iterate_rows(tmp_path / f"bad{suffix}"))


@pytest.mark.slow
def test_a_process_that_read_tables_exits_normally(tmp_path: Path) -> None:
    """The threads of pyarrow aborted every second process that ended soon after reading; so six processes run here."""
    for name in "abc":
        write_table(tmp_path / f"{name}.parquet", "metrics", [metric_row(value=0.5)] * 50, {})
    code = "import sys, pathlib; from aigc_cli.storage.results import read_parquet_rows\n"
    code += "for path in sys.argv[1:]: read_parquet_rows(pathlib.Path(path))"
    line = [sys.executable, "-c", code, *map(str, sorted(tmp_path.iterdir()))]
    endings = [subprocess.run(line, capture_output=True, text=True, check=False) for _ in range(6)]
    assert [(ending.returncode, ending.stderr) for ending in endings] == [(0, "")] * 6
