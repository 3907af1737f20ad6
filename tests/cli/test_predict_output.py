"""What predict writes: formats, types of columns, and what is left after an error."""

from __future__ import annotations

import fcntl
import gzip
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predict_command import KEYS, predict, save_bank, small_parts, some_rows, write_table

COMMAND = [sys.executable, "-m", "mlpbank", "predict"]


def read(path: Path, suffix: str) -> tuple[list[Any] | None, np.ndarray[Any, Any]]:
    """Return keys and predictions of an output; an .npy file has no keys."""
    if suffix == ".npy":
        return None, np.load(path)[:, 0]
    pd = pytest.importorskip("pandas")
    if suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        data = path.read_bytes()
        path = path.with_name("read.csv")
        path.write_bytes(gzip.decompress(data) if suffix == ".csv.gz" else data)
        with path.open(newline="", encoding="utf-8") as file:
            frame = pd.read_csv(file, dtype={"key": str}, lineterminator="\n")
    assert list(frame) == ["key", "prediction"]
    return frame["key"].tolist(), frame["prediction"].to_numpy(np.float32)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".npy"])
@pytest.mark.parametrize("source", [".csv", ".parquet", ".npz"])
@pytest.mark.parametrize("rows", [0, 1, 23])
def test_every_format_is_written_from_every_other(
    tmp_path: Path, suffix: str, source: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 5)
    monkeypatch.setattr("mlpbank.cli._results._IN_MEMORY", 16)
    keys, x = some_rows(rows, KEYS[:4])
    bank = save_bank(tmp_path / "b.mlpbank", KEYS)
    table = write_table(tmp_path / f"t{source}", keys, x)
    output = tmp_path / f"y{suffix}"
    assert predict(tmp_path / "b.mlpbank", table, "--output", str(output)) == 0
    found, y = read(output, suffix)
    assert found is None or found == keys
    np.testing.assert_array_equal(y, bank.predict(keys, x)[:, 0])
    assert y.dtype == np.float32


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".npy"])
def test_a_name_without_suffix_has_the_format_of_the_input(tmp_path: Path, suffix: str) -> None:
    save_bank(tmp_path / "b.mlpbank", KEYS)
    keys, x = ["a", "b"], np.ones((2, 2), np.float32)
    table = write_table(tmp_path / f"t{suffix}", keys, x)
    assert predict(tmp_path / "b.mlpbank", table, "--output", str(tmp_path / "y")) == 0
    found, y = read(tmp_path / "y", suffix)
    assert found in (None, keys)
    assert y.tolist() == [2, 3]


def test_names_of_other_formats_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bank(tmp_path / "b.mlpbank", KEYS)
    table = write_table(tmp_path / "t.npz", ["a"], np.ones((1, 2), np.float32))
    for name in ("y.npz", "y.xls", "y.gz", "y"):
        assert predict(tmp_path / "b.mlpbank", table, "--output", str(tmp_path / name)) == 2
        expected = "--output: expected a name that ends in .csv, .csv.gz, .parquet, .npy, got "
        assert f"{expected}{tmp_path / name}" in capsys.readouterr().err
    assert predict(tmp_path / "b.mlpbank", table, "--output", "-") == 0
    assert capsys.readouterr().out == "key,prediction\na,2.0\n"


def test_columns_of_keys_keep_their_types_in_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "ints.mlpbank", [1, 2])
    save_bank(tmp_path / "texts.mlpbank", ["a", "b"])
    source, output = tmp_path / "t.parquet", tmp_path / "y.parquet"
    for column in (
        pa.array([1, 2, None], pa.int16()),
        pa.array([1, 2, None], pa.float64()),
        pa.array(["a", "b", None], pa.large_string()),
        pa.array(["a", "b", None]).dictionary_encode(),
    ):
        table = pa.table({"key": column, "x": [1.0, 1, 1], "y": [1.0, 1, 1]})
        parquet.write_table(table, source)
        is_text = pa.types.is_large_string(column.type) or pa.types.is_dictionary(column.type)
        bank = tmp_path / ("texts.mlpbank" if is_text else "ints.mlpbank")
        assert predict(bank, source, "--missing", "nan", "--output", str(output)) == 0
        found = parquet.read_table(output)
        assert found.schema.field("prediction").type == pa.float32()
        assert found.column("prediction").to_pylist() == [2.0, 3.0, None]
        assert found.schema.field("key").type == column.type
        assert found.column("key").to_pylist() == column.to_pylist()


def test_columns_of_keys_have_those_of_the_bank_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    save_bank(tmp_path / "b.mlpbank", [("a", 1), ("b", 2)])
    (tmp_path / "t.csv").write_text("key,item,x,y\nb,2,1,1\na,,1,1\n")
    output = tmp_path / "y.parquet"
    options = ["--key", "key,item", "--missing", "nan", "--output", str(output)]
    assert predict(tmp_path / "b.mlpbank", tmp_path / "t.csv", *options) == 0
    table = parquet.read_table(output)
    assert table.schema.types == [pa.string(), pa.int64(), pa.float32()]
    assert table.to_pylist() == [
        {"key": "b", "item": 2, "prediction": 3.0},
        {"key": "a", "item": None, "prediction": None},
    ]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".npy"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_in_the_middle_leaves_no_file(
    tmp_path: Path,
    suffix: str,
    old: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "b.mlpbank", KEYS)
    text = "key,x,y\n" + "a,1,1\n" * 9
    output = tmp_path / f"y{suffix}"
    if old is not None:
        output.write_bytes(old)
    for last, message in (("a,one,1\n", "line 11, column 'x'"), ("z,1,1\n", "first is in row 10")):
        (tmp_path / "t.csv").write_text(text + last)
        options = ["--missing", "error", "--output", str(output)]
        assert predict(tmp_path / "b.mlpbank", tmp_path / "t.csv", *options) == 2
        assert message in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ["b.mlpbank", "t.csv", *([output.name] if old else [])]
        )
        assert old is None or output.read_bytes() == old
    assert predict(tmp_path / "b.mlpbank", tmp_path / "t.csv", "--missing", "error") == 2
    out, err = capsys.readouterr()
    assert out == "key,prediction\n" + "a,2.0\n" * (len(out.split()) - 1)  # what came before
    assert err.count("\n") == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_a_table_may_be_replaced_by_its_answers(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 2)
    save_bank(tmp_path / "b.mlpbank", KEYS)
    table = write_table(tmp_path / f"t{suffix}", ["a", "b"] * 5, np.ones((10, 2), np.float32))
    assert predict(tmp_path / "b.mlpbank", table, "--output", str(table)) == 0
    assert read(table, suffix)[1].tolist() == [2, 3] * 5


@pytest.mark.parametrize("is_stdin", [False, True])
def test_rows_are_not_written_behind_those_that_are_read(tmp_path: Path, is_stdin: bool) -> None:
    save_bank(tmp_path / "b.mlpbank", KEYS)
    table, before = tmp_path / "t.csv", "key,x,y\na,1,1\n"
    table.write_text(before)
    source = "-" if is_stdin else str(table)
    with table.open("a") as out, table.open() as stdin:
        done = subprocess.run(
            [*COMMAND, str(tmp_path / "b.mlpbank"), "--input", source, "--key", "key"],
            stdin=stdin, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "expected another file than standard output" in done.stderr
    assert table.read_text() == before


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full(tmp_path: Path, unbuffered: str) -> None:
    """Python has nothing to add when it closes the output."""
    save_bank(tmp_path / "b.mlpbank", KEYS)
    for rows in (1, 100_000):
        (tmp_path / "t.csv").write_text("key,x,y\n" + "a,1,1\n" * rows)
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, str(tmp_path / "b.mlpbank"), "--input", str(tmp_path / "t.csv"),
                 "--key", "key"],
                stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr == "mlpbank: error: [Errno 28] No space left on device\n"


def test_without_standard_output(tmp_path: Path) -> None:
    save_bank(tmp_path / "b.mlpbank", KEYS)
    (tmp_path / "t.csv").write_text("key,x,y\na,1,1\n")
    command = f"{' '.join(COMMAND)} {tmp_path}/b.mlpbank --input {tmp_path}/t.csv --key key"
    run = {"shell": True, "capture_output": True, "text": True, "timeout": 60, "check": False}
    done: Any = subprocess.run(f"{command} >&-", **run)  # type: ignore[call-overload]
    assert done.returncode == 2
    assert "--output: expected a file, for standard output is closed" in done.stderr
    done = subprocess.run(f"{command} --output {tmp_path}/y.csv >&-", **run)  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "y.csv").read_text() == "key,prediction\na,2.0\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_no_temporary_file(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The command waits for rows that do not come."""
    save_bank(tmp_path / "b.mlpbank", KEYS)
    command = [*COMMAND, str(tmp_path / "b.mlpbank"), "--input", "-", "--key", "key"]
    with subprocess.Popen(
        [*command, "--output", str(tmp_path / "y.csv")],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"key,x,y\na,1,1\n")
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".mlpbank.*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob(".mlpbank.*.tmp"))
        process.send_signal(number)
        err = process.stderr.read().decode()
        assert process.wait(60) == code
    assert err == f"mlpbank: stopped by {number.name}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["b.mlpbank"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_bar_where_standard_error_is_a_terminal(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("tqdm")
    save_bank(tmp_path / "b.mlpbank", KEYS)
    table = write_table(tmp_path / f"t{suffix}", ["a", "b"], np.ones((2, 2), np.float32))
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # tqdm asks for it
    command = [*COMMAND, str(tmp_path / "b.mlpbank"), "--input", str(table), "--key", "key"]
    done = subprocess.run(
        [*command, "--features", "x,y"], stdout=subprocess.PIPE, stderr=theirs,
        timeout=60, check=False,
    )  # fmt: skip
    os.close(theirs)
    assert (done.returncode, done.stdout) == (0, b"key,prediction\na,2.0\nb,3.0\n")
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "predicting: 100%" in shown
    assert ("2.00/2.00" in shown) == (suffix == ".parquet")  # rows, and not bytes
