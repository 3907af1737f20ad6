"""Tables of the predict command: every row fits the header, or the error names one."""

from __future__ import annotations

import csv
import gzip
import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlpbank
from mlpbank import Architecture, Bank
from mlpbank.cli import main

HEADER = "key,x,y\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two banks in which key k gives k times x + y: one with int keys 1 to 3, one with str keys."""
    weights = {"layer_0": np.array([[[k], [1.0]] for k in (1, 2, 3)])}
    Bank.from_stacked([1, 2, 3], Architecture.mlp(2, 1), weights).save(tmp_path / "ints.mlpbank")
    Bank.from_stacked(["1", "007", "7"], Architecture.mlp(2, 1), weights).save(
        tmp_path / "texts.mlpbank"
    )
    return tmp_path / "ints.mlpbank"


def predict(
    bank: Path, source: str | Path, *args: str, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [
        sys.executable,
        "-m",
        "mlpbank",
        "predict",
        str(bank),
        "--input",
        str(source),
        "--key",
        "key",
        *args,
    ]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1,2,3,4\n", 2),
        ("1,2,3\n3,1,5,6\n", 3),
        ("1,2,3,\n3,1,5,\n", 2),
        ("1,2\n", 2),
        ("1,2,3\n\n3,1,5\n", 3),
        ('1,2,3\n"3",1,"5\n6"\n', 3),
        ("1.5,2,3\n", 2),
        ("one,2,3\n", 2),
        ("1,2,three\n", 2),
        ("1,1_0,3\n", 2),
        ("1,2,3\n1,1e400,-inf\n", 3),
        ("1,2,-" + "9" * 400 + "\n", 2),
        (f"{2**63},2,3\n", 2),
        (f"{-(2**63) - 1},2,3\n", 2),
        ('1,2,"3\n"\nx,1,2\n', 4),
    ],
)
def test_rows_that_do_not_fit_are_named(
    path: Path, tmp_path: Path, text: str, line: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text(HEADER + text)
    assert main(["predict", str(path), "--input", str(tmp_path / "rows.csv"), "--key", "key"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"rows.csv, line {line}" in err
    assert err.count("\n") == 1


def test_numbers_beyond_float32_are_named(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text(HEADER + "1,2,3\n3,1,-1e39\n")
    assert main(["predict", str(path), "--input", str(tmp_path / "rows.csv"), "--key", "key"]) == 2
    expected = "expected numbers that float32 can hold, got -1e+39 in row 2 of column 'y'\n"
    assert capsys.readouterr().err.endswith(expected)


def test_numbers_of_npy_beyond_float32_are_named(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, -1e39]])
    named = np.rec.fromarrays([[1, 3], *plain.T[1:]], names=["key", "x", "y"])
    for table, key, column in ((plain, "0", "2"), (np.asarray(named), "key", "y")):
        np.save(tmp_path / "rows.npy", table)
        assert (
            main(["predict", str(path), "--input", str(tmp_path / "rows.npy"), "--key", key]) == 2
        )
        expected = (
            f"expected numbers that float32 can hold, got -1e+39 in row 2 of column {column!r}\n"
        )
        assert capsys.readouterr().err.endswith(expected)


def test_infinity_that_was_written_is_taken(path: Path) -> None:
    done = predict(path, "-", stdin=(HEADER + "1,inf,1\n1,-Infinity,1\n1,+nan,1\n").encode())
    assert done.stdout.decode().splitlines()[1:] == ["1,inf", "1,-inf", "1,"]


@pytest.mark.parametrize("key", ["a\rb", "a\nb", "a\r\n", "\r", 'a"b', "a,b", " a "])
def test_keys_that_csv_has_to_quote(tmp_path: Path, key: str) -> None:
    bank = Bank(Architecture.mlp(2, 1))
    bank[key] = {"layer_0": [1, 1]}
    bank.save(tmp_path / "odd.mlpbank")
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["key", "x", "y"], [key, 1, 2]])
    done = predict(tmp_path / "odd.mlpbank", "-", stdin=text.getvalue().encode())
    assert list(csv.reader(io.StringIO(done.stdout.decode(), newline=""))) == [
        ["key", "prediction"],
        [key, "3.0"],
    ]


def test_column_names_that_come_twice(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("key,x,y,x\n1,2,3,4\n")
    args = [
        "predict",
        str(path),
        "--input",
        str(tmp_path / "rows.csv"),
        "--key",
        "key",
        "--features",
        "x,y",
    ]
    assert main(args) == 2
    assert "expected one column 'x', got 2" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["-", "/dev/stdin", "rows.csv.gz", "rows.csv"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_where_a_table_may_come_from(path: Path, tmp_path: Path, source: str, mark: bytes) -> None:
    data = mark + (HEADER + "3,1,5\n1,2,3\n").encode()
    if source.startswith("rows"):
        (tmp_path / source).write_bytes(gzip.compress(data) if source.endswith("gz") else data)
        done = predict(path, tmp_path / source)
    else:
        done = predict(path, source, stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == ["key,prediction", "3,8.0", "1,5.0"]


def _table(suffix: str) -> bytes:
    text = (HEADER + "3,1,5\n1,2,3\n").encode()
    columns = {"key": np.array([3, 1]), "x": np.array([1.0, 2.0]), "y": np.array([5.0, 3.0])}
    file = io.BytesIO()
    if suffix == ".csv.gz":
        return gzip.compress(text, mtime=0)
    if suffix == ".npz":
        np.savez(file, **columns)
    elif suffix == ".npy":
        table = np.zeros(2, [("key", "i8"), ("x", "f4"), ("y", "f4")])
        for name, column in columns.items():
            table[name] = column
        np.save(file, table)
    else:
        pytest.importorskip("pyarrow")
        pytest.importorskip("pandas").DataFrame(columns).to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".csv.gz", ".npz", ".npy", ".parquet"])
def test_standard_input_is_told_by_its_beginning(path: Path, tmp_path: Path, suffix: str) -> None:
    data = _table(suffix)
    (tmp_path / f"rows{suffix}").write_bytes(data)
    for done in (predict(path, "-", stdin=data), predict(path, tmp_path / f"rows{suffix}")):
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().splitlines() == ["key,prediction", "3,8.0", "1,5.0"]


@pytest.mark.parametrize("first", ["PAR1", "PK", "P", "PK\x03\x04"])
def test_a_header_that_begins_like_another_format(path: Path, first: str) -> None:
    done = predict(path, "-", "--features", f"{first},y", stdin=f"{first},key,y\n1,3,5\n".encode())
    if first == "PK\x03\x04":
        assert b"standard input: expected an .npz file" in done.stderr
    else:
        assert (done.stderr, done.stdout) == (b"", b"key,prediction\n3,8.0\n")


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x76\x00{'a", b"PK\x03\x04z"]
)
def test_standard_input_that_is_broken(path: Path, data: bytes) -> None:
    done = predict(path, "-", stdin=data)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"mlpbank: error: standard input")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("suffix", "data", "expected"),
    [
        (".csv.gz", HEADER.encode(), "expected a gzip file, got Not a gzipped file"),
        (".csv.gz", gzip.compress(HEADER.encode(), mtime=0)[:-9], "expected a complete gzip file"),
        (
            ".csv.gz",
            gzip.compress(HEADER.encode(), mtime=0)[:10] + b"\xff" * 9,
            "expected a complete gzip file",
        ),
        (".npz", b"PK\x03\x04", "expected an .npz file"),
        (".npz", b"", "expected an .npz file"),
        (".npy", b"\x93NUMPY\x01\x00\x76\x00{", "expected an .npy file"),
    ],
)
def test_broken_files_are_named(
    path: Path,
    tmp_path: Path,
    suffix: str,
    data: bytes,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / f"rows{suffix}"
    source.write_bytes(data)
    assert main(["predict", str(path), "--input", str(source), "--key", "key"]) == 2
    assert capsys.readouterr().err.startswith(f"mlpbank: error: {source}: {expected}")


def test_arrays_of_npz_that_do_not_fit(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "rows.npz"
    args = ["predict", str(path), "--input", str(source), "--key", "key"]
    np.savez(source, key=[1, 2], x=[1.0, 2.0], y=[1.0])
    assert main(args) == 2
    assert "rows.npz: expected 2 rows, as 'key' has, got 1 in 'y'" in capsys.readouterr().err
    np.savez(source, key=[1, 2], x=[1.0, 2.0], y=[[1.0], [2.0]])
    assert main(args) == 2
    assert "--features: expected numbers" in capsys.readouterr().err
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("key", "no array")
    assert main(args) == 2
    assert "expected arrays, got 'key', which is none" in capsys.readouterr().err
    with source.open("wb") as file:
        np.save(file, np.zeros((1, 3)))
    assert main(args) == 2
    assert "expected named arrays, got an .npy file" in capsys.readouterr().err


def test_a_header_only_gives_a_header_only(path: Path) -> None:
    done = predict(path, "-", stdin=HEADER.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"key,prediction\n", b"")


def test_keys_of_text_stay_as_they_are(tmp_path: Path, path: Path) -> None:
    done = predict(tmp_path / "texts.mlpbank", "-", stdin=(HEADER + "007,1,0\n7,1,0\n").encode())
    assert done.stdout.decode().splitlines()[1:] == ["007,2.0", "7,3.0"]


def test_ints_up_to_their_limits_are_keys(tmp_path: Path) -> None:
    keys = [-(2**63), 2**63 - 1, 5]
    weights = {"layer_0": np.array([[[k], [1.0]] for k in (1, 2, 3)])}
    Bank.from_stacked(keys, Architecture.mlp(2, 1), weights).save(tmp_path / "limits.mlpbank")
    rows = "".join(f"{key},1,0\n" for key in (*keys[:2], "+" + "0" * 50 + "5"))
    done = predict(tmp_path / "limits.mlpbank", "-", stdin=(HEADER + rows).encode())
    assert done.stderr == b""
    assert done.stdout.decode().splitlines()[1:] == [
        f"{key},{i}.0" for i, key in enumerate(keys, 1)
    ]


@pytest.mark.parametrize("number", [1.5, 2.0**63, np.nan])
def test_keys_of_npy_are_not_cut(
    path: Path, tmp_path: Path, number: float, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", np.array([[1.0, 2, 3], [number, 2, 3]]))
    assert main(["predict", str(path), "--input", str(tmp_path / "rows.npy"), "--key", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mlpbank: error: ")


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, 11), (np.float32, 24), (np.float64, 53)])
def test_floats_that_may_be_another_key_rounded_are_no_keys(
    path: Path,
    tmp_path: Path,
    dtype: type[np.floating[Any]],
    bits: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From 2**bits on every other integer is missing: the next one would be this one too."""
    args = [
        "predict",
        str(path),
        "--input",
        str(tmp_path / "rows.npy"),
        "--key",
        "0",
        "--missing",
        "nan",
    ]
    for key, found in ((2**bits - 1, 0), (1 - 2**bits, 0), (2**bits + 1, 2), (-(2**bits) - 1, 2)):
        np.save(tmp_path / "rows.npy", np.array([[key, 2, 3]], dtype))
        assert main(args) == found
        out, err = capsys.readouterr()
        assert out == (f"0,prediction\n{key},\n" if found == 0 else "")
        assert (f"no model for 1 of 1 rows, which get NaN: {key}" in err) == (found == 0)


def test_a_reader_that_has_seen_enough_is_no_error(path: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(HEADER + "3,1,5\n" * 200_000)
    command = [sys.executable, "-m", "mlpbank", "predict", path, "--input", tmp_path / "rows.csv"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--key", "key"], text=True, **pipes) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["key,prediction\n", "3,8.0\n"]
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_reader_that_has_gone_before_anything_came_is_no_error(path: Path) -> None:
    """What is printed fits the buffer, so nothing is written before the command is done."""
    end, start = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "mlpbank", "inspect", str(path)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, env=env, stdout=start, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(start)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_an_answer_that_cannot_be_written_leaves_the_old_file(
    path: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text(HEADER + "3,1,5\n")
    target = tmp_path / f"y{suffix}"
    target.write_text("old")
    args = [
        "predict",
        str(path),
        "--input",
        str(tmp_path / "rows.csv"),
        "--key",
        "key",
        "--output",
        str(target),
    ]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert main(args) == 2
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    assert main(args) == 0
    if suffix == ".csv":
        assert target.read_text() == "key,prediction\n3,8.0\n"
    else:
        assert np.load(target).tolist() == [[8.0]]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"mlpbank {mlpbank.__version__}\n"


def test_errors_can_be_traced(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPBANK_DEBUG", "1")
    with pytest.raises(OSError, match="No such file"):
        main(["inspect", str(tmp_path / "none")])
