"""Tables that are read, predicted and written part by part: the answer is that of the whole."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlpbank.cli import main
from mlpbank.cli._tables import _recognised
from predict_command import KEYS, predict, save_bank, small_parts, some_rows, write_table

FORMATS = [".csv", ".csv.gz", ".parquet", ".npy", ".npz"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_parts_answer_like_the_whole(
    tmp_path: Path,
    suffix: str,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_parts(monkeypatch, rows)
    bank = save_bank(tmp_path / "b.mlpbank", KEYS)
    keys, x = some_rows(23, KEYS)
    table = write_table(tmp_path / f"t{suffix}", keys, x)
    assert predict(tmp_path / "b.mlpbank", table) == 0
    out, err = capsys.readouterr()
    header, *found = csv.reader(io.StringIO(out, newline=""))
    assert (header, err) == (["key", "prediction"], "")
    assert [row[0] for row in found] == keys
    y = np.float32([row[1] or "nan" for row in found])
    np.testing.assert_array_equal(y, bank.predict(keys, x)[:, 0])


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_without_a_model_are_counted_over_all_parts(
    tmp_path: Path,
    suffix: str,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_parts(monkeypatch, rows)
    save_bank(tmp_path / "b.mlpbank", KEYS)
    keys, x = [*KEYS, "z", "y", "a", "z", "x", "w", "v", "u"], np.ones((14, 2), np.float32)
    table = write_table(tmp_path / f"t{suffix}", keys, x)
    assert predict(tmp_path / "b.mlpbank", table, "--missing", "nan") == 0
    expected = "no model for 7 of 14 rows, which get NaN: 'z', 'y', 'x', 'w', 'v', ...\n"
    assert capsys.readouterr().err == f"mlpbank: {expected}"
    assert predict(tmp_path / "b.mlpbank", table) == 2
    err = capsys.readouterr().err
    assert err.count("no such model: ") == 1
    assert f"; the first is in row 7 of {table}" in err
    assert ("keys so far" in err) == (rows < 14)


def test_the_first_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_parts(monkeypatch, 1, 1)
    save_bank(tmp_path / "b.mlpbank", [1, 2])
    table = tmp_path / "t.csv"
    table.write_text("key,x,y\n1,2,3\n7,2,3\n1,two,3\n")
    assert predict(tmp_path / "b.mlpbank", table) == 2
    expected = f"no such model: 7 (1 of 2 keys so far); the first is in row 2 of {table}\n"
    assert capsys.readouterr().err.endswith(expected)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
def test_missing_keys_are_named_by_their_row(
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "b.mlpbank", [1, 2, 3])
    keys = [1, 2, 3, 1, None] if suffix in (".csv", ".parquet") else [1, 2, 3, 1, np.nan]
    table = write_table(tmp_path / f"t{suffix}", keys, np.ones((5, 2), np.float32))
    assert predict(tmp_path / "b.mlpbank", table) == 2
    err = capsys.readouterr().err
    assert "no such model: None (1 of 5 keys); missing key at row 5: " in err
    assert predict(tmp_path / "b.mlpbank", table, "--missing", "nan") == 0
    assert "1 of 5 rows, which get NaN, 1 of them without a key\n" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("cells", [1, 4, 12, 1000])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3", "line 9: expected 4 cells like the header, got 3"),
        ("\n1,2,3,n", "line 9: expected 4 cells like the header, got a blank line"),
        ("1,x,3,n", "line 9, column 'x': expected a number, got 'x'"),
        ("one,2,3,n", "line 9, column 'key': expected an integer of 64 bits"),
        ('1,2,3,"n"m', "line 9: expected CSV, got"),
        ('1,2,3,"n', "line 9: expected CSV, got unexpected end of data"),
        ("1,1e40,3,n", "expected numbers that float32 can hold, got 1e+40 in row 5 of column 'x'"),
    ],
)
def test_lines_are_those_of_the_whole_file(
    tmp_path: Path,
    rows: int,
    cells: int,
    line: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Line breaks in quotes come before, at the borders of parts too."""
    small_parts(monkeypatch, rows, cells)
    save_bank(tmp_path / "b.mlpbank", [1, 2])
    table = tmp_path / "t.csv"
    before = 'key,x,y,note\n1,2,3,"a\nb"\n2,3,4,"\r"\n1,2,,"c\r\nd"\n2,3,4,n\n'
    table.write_bytes(f"{before}{line}\n".encode())
    assert predict(tmp_path / "b.mlpbank", table) == 2
    err = capsys.readouterr().err
    assert f"{table}" in err
    assert message in err


@pytest.mark.parametrize("blank", [1, 2, 3, 8, 9])
def test_blank_lines_at_the_end_may_fill_parts(
    tmp_path: Path,
    blank: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "b.mlpbank", [1, 2])
    table = tmp_path / "t.csv"
    text = "key,x,y\n1,2,3\n2,3,4\n" + "\n" * blank
    table.write_text(text)
    assert predict(tmp_path / "b.mlpbank", table) == 0
    assert capsys.readouterr().out == "key,prediction\n1,5.0\n2,10.0\n"
    table.write_text(text + "1,2,3\n")
    assert predict(tmp_path / "b.mlpbank", table) == 2
    assert "line 4: expected 3 cells like the header, got a blank line" in capsys.readouterr().err


def test_cells_of_all_spellings_are_read_in_one_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether cells are looked at one by one or not, their meaning is the same."""
    save_bank(tmp_path / "b.mlpbank", [1, 2])
    table = tmp_path / "t.csv"
    cells = {"": "", "NaN": "", "N/A": "", " NULL ": "", "True": "1.0", " false": "0.0"}
    cells |= {" 3": "3.0", "1e2": "100.0", "+inf": "inf", "-Infinity": "-inf", ".5": "0.5"}
    for cell, expected in cells.items():
        for other in ("1.0", "", "inf", "TRUE"):
            table.write_text(f"key,x,y\n1,{cell},0\n+2.0,{other},0\n")
            assert predict(tmp_path / "b.mlpbank", table) == 0
            assert capsys.readouterr().out.splitlines()[1] == f"1,{expected}"


def test_columns_of_parquet_are_numbers_where_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part may have gaps where another has none, or nothing else."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "b.mlpbank", [1, 2])
    zero = pa.array([0.0] * 6)
    for column in (
        pa.array([1, 2, None, 4, None, None], pa.int64()),
        pa.array([1, 2, None, 4, None, None], pa.uint8()),
        pa.array([1, 2, None, 4, None, None], pa.float32()),
        pa.array([1, 2, None, 4, None, None], pa.decimal128(9, 2)),
        pa.array([1, 2, None, 4, None, None]).dictionary_encode(),
    ):
        keys = pa.array([1, 2, 1, 1, 1, None], pa.int32())
        table = pa.table({"key": keys, "x": column, "y": zero})
        parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3)
        assert predict(tmp_path / "b.mlpbank", tmp_path / "t.parquet", "--missing", "nan") == 0
        out = capsys.readouterr().out.split()[1:]
        assert out == ["1,1.0", "2,4.0", "1,", "1,4.0", "1,", ","]
    table = pa.table({"key": [1, 2], "x": [True, None], "y": pa.nulls(2)})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert predict(tmp_path / "b.mlpbank", tmp_path / "t.parquet") == 0
    for column, kind in ((["a", "b"], "string"), ([[1], [2]], "list<")):
        table = pa.table({"key": [1, 2], "x": column, "y": [1, 2]})
        parquet.write_table(table, tmp_path / "t.parquet")
        assert predict(tmp_path / "b.mlpbank", tmp_path / "t.parquet") == 2
        assert f"expected numbers, got column 'x' of {kind}" in capsys.readouterr().err


def test_an_index_of_pandas_may_be_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A RangeIndex is not stored as a column."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "b.mlpbank", [1, 3, 5, 7, 9])
    table = tmp_path / "t.parquet"
    for index in (
        pd.RangeIndex(9, 0, -2, name="key"),
        pd.Index([9, 7, 5, 3, 1], name="key"),
        pd.MultiIndex.from_arrays([[9, 7, 5, 3, 1], list("abcde")], names=["key", "note"]),
    ):
        frame = pd.DataFrame({"x": np.ones(5), "y": np.zeros(5)}, index)
        frame.to_parquet(table, row_group_size=3)
        assert predict(tmp_path / "b.mlpbank", table) == 0
        out = capsys.readouterr().out.split()[1:]
        assert out == ["9,5.0", "7,4.0", "5,3.0", "3,2.0", "1,1.0"]


@pytest.mark.parametrize("is_range", [False, True])
def test_an_index_of_another_table_is_none(
    tmp_path: Path, is_range: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What pandas said of a table stays with it when columns or rows are taken out."""
    pd = pytest.importorskip("pandas")
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    save_bank(tmp_path / "b.mlpbank", [1, 2, 3])
    index = pd.RangeIndex(1, 4, name="key") if is_range else pd.Index([1, 2, 3], name="key")
    table = pa.Table.from_pandas(pd.DataFrame({"x": [1.0] * 3, "y": [0.0] * 3}, index))
    table = table.slice(1) if is_range else table.drop(["key"])
    parquet.write_table(table, tmp_path / "t.parquet")
    assert predict(tmp_path / "b.mlpbank", tmp_path / "t.parquet") == 2
    assert "--key: expected one of x, y, got 'key'" in capsys.readouterr().err


def test_columns_of_parquet_that_come_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    save_bank(tmp_path / "b.mlpbank", [1])
    table = pa.table([[1], [2.0], [3.0], [4.0]], names=["key", "x", "x", "y"])
    parquet.write_table(table, tmp_path / "t.parquet")
    assert predict(tmp_path / "b.mlpbank", tmp_path / "t.parquet") == 2
    assert "t.parquet: expected one column 'x', got 2" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_as_standard_input(tmp_path: Path, suffix: str) -> None:
    """It can be read in any order, as a pipe cannot."""
    save_bank(tmp_path / "b.mlpbank", KEYS)
    table = write_table(tmp_path / f"t{suffix}", ["a", "b"], np.ones((2, 2), np.float32))
    command = [sys.executable, "-m", "mlpbank", "predict", str(tmp_path / "b.mlpbank")]
    for source in ("-", "/dev/stdin"):
        with table.open("rb") as stdin:
            done = subprocess.run(
                [*command, "--input", source, "--key", "key", "--features", "x,y"],
                stdin=stdin, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        assert (done.stdout, done.stderr) == ("key,prediction\na,2.0\nb,3.0\n", "")


@pytest.mark.parametrize(
    ("data", "suffix", "is_pipe"),
    [
        (b"Price,key\n", ".csv", True),
        (b"PK,key\n", ".csv", True),
        (b"", ".csv", False),
        (b"P", ".csv", False),
        (b"PAR1,key\n", ".csv", False),
        (b"PAR1 columns PAR1", ".parquet", False),
        (b"PK\x03\x04z", ".npz", False),
        (b"\x1f\x8bz", ".csv.gz", False),
    ],
)
def test_csv_in_a_pipe_is_not_read_to_its_end(data: bytes, suffix: str, is_pipe: bool) -> None:
    end, start = os.pipe()
    os.write(start, data)
    os.close(start)
    with open(end, "rb") as pipe:
        source, found = _recognised(pipe)
        assert (source is pipe, found, source.read()) == (is_pipe, suffix, data)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_without_names(
    tmp_path: Path,
    order: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "b.mlpbank", [1, 2, 3])
    table = np.array([[0, 1, 5], [1, 2, 6], [2, 3, 7], [3, 1, 8], [4, 2.5, 9]])
    np.save(tmp_path / "t.npy", np.asarray(table[:4], order=order))
    command = ["predict", str(tmp_path / "b.mlpbank"), "--input", str(tmp_path / "t.npy"), "--key"]
    assert main([*command, "1"]) == 0
    out = capsys.readouterr().out.split()
    assert out == ["1,prediction", "1,5.0", "2,8.0", "3,13.0", "1,11.0"]
    np.save(tmp_path / "t.npy", np.asarray(table, order=order))
    assert main([*command, "1"]) == 2
    assert "expected a column of integers of 64 bits, got 2.5 in row 5" in capsys.readouterr().err
