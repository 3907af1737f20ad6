"""inspect, verify and predict, run as a user does; errors and help of all commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import ARCHITECTURE, make_bank, rows, run
from mlpbank import Bank
from mlpbank.cli import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_bank(["x", "007", "nan"]).save(tmp_path / "fleet.mlpbank")
    return tmp_path / "fleet.mlpbank"


def test_inspect(path: Path) -> None:
    done = run("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    table = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    table = {name: value.strip() for name, value in table.items()}
    assert table["architecture"] == "3-4-2, 26 parameters"
    assert table["activations"] == "tanh, none"
    assert (table["models"], table["dtype"], table["layout"]) == ("3", "float32", "lane")
    assert table["keys"] == "'x', '007', 'nan'"
    assert table["versions"] == "v7: 3"
    assert table["fallback"] == "'x'"
    assert table["metadata unit"] == '"°C"'


def test_inspect_an_empty_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Bank(ARCHITECTURE).save(tmp_path / "empty.mlpbank")
    assert main(["inspect", str(tmp_path / "empty.mlpbank")]) == 0
    assert main(["verify", str(tmp_path / "empty.mlpbank")]) == 0
    assert "0 models" in capsys.readouterr().out


def test_verify(path: Path) -> None:
    done = run("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 models" in done.stdout
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    done = run("verify", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"mlpbank: error: {path}: ")
    assert "CRC-32" in done.stderr
    assert done.stderr.count("\n") == 1


def test_verify_finds_weights_that_are_not_finite(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank.open(path)
    bank["x"] = bank["x"] | {"layer_1.bias": [np.inf, 0]}
    bank.save(path)
    assert main(["verify", str(path)]) == 2
    assert "model 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["str", "int"])
@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_predict(tmp_path: Path, kind: str, suffix: str) -> None:
    bank = make_bank(["x", "007", "nan"] if kind == "str" else [5, -1, 70])
    bank.save(tmp_path / "bank.mlpbank")
    keys, x = [list(bank)[i] for i in (1, 1, 2, 0)], rows(4)
    source, target = tmp_path / f"rows{suffix}", tmp_path / "y.npy"
    if suffix == ".csv":
        pd.DataFrame({"a": x[:, 1], "b": x[:, 0], "key": keys, "c": x[:, 2], "note": "n"}).to_csv(
            source, index=False
        )
    else:
        key_type = "U3" if kind == "str" else "i8"
        table = np.zeros(4, [("a", "f4"), ("b", "f4"), ("key", key_type), ("c", "f4")])
        table["a"], table["b"], table["c"], table["key"] = x[:, 1], x[:, 0], x[:, 2], keys
        np.save(source, table)
    file = str(tmp_path / "bank.mlpbank")
    assert (
        main(["predict", file, "--input", str(source), "--key", "key", "--output", str(target)])
        == 0
    )
    expected = bank.predict(keys, x)
    # CSV has decimal digits.
    np.testing.assert_allclose(np.load(target), expected, rtol=1e-5, atol=1e-6)
    done = run("predict", file, "--input", source, "--key", "key", "--features", "b,a,c")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "key,prediction_0,prediction_1"
    assert [line.split(",")[0] for line in lines[1:]] == [str(key) for key in keys]
    np.testing.assert_allclose(
        [[float(v) for v in line.split(",")[1:]] for line in lines[1:]], expected, rtol=1e-5
    )


def test_predict_columns_by_number(tmp_path: Path) -> None:
    bank = make_bank([5, -1, 70])
    bank.save(tmp_path / "bank.mlpbank")
    x = rows(3)
    np.save(tmp_path / "rows.npy", np.column_stack([x[:, 0], [70, 5, 5], x[:, 1:]]))
    args = [
        "predict",
        str(tmp_path / "bank.mlpbank"),
        "--input",
        str(tmp_path / "rows.npy"),
        "--key",
        "1",
    ]
    assert main([*args, "--output", str(tmp_path / "y.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), bank.predict([70, 5, 5], x))


def test_predict_unknown_keys(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("key,a,b,c\nx,1,2,3\nno,1,2,3\n")
    args = ["predict", str(path), "--input", str(source), "--key", "key"]
    assert main(args) == 0  # the bank has a fallback
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.split(",")[1:] == second.split(",")[1:]
    assert main([*args, "--missing", "nan"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "no,,"
    assert main([*args, "--missing", "error"]) == 2
    expected = f"no such model: 'no' (1 of 2 keys); the first is in row 2 of {source}\n"
    assert capsys.readouterr().err == f"mlpbank: error: {expected}"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["inspect", "none"], "No such file"),
        (["verify", "rows.csv"], "expected a bank file, got text that begins with"),
        (["convert", "fleet.mlpbank"], "--to"),
        (["convert", "fleet.mlpbank", "x.bin"], "expected a name that ends in"),
        (["convert", "fleet.mlpbank", "x.safetensors", "--dtype", "int8"], "--dtype"),
        (["convert", "empty", "x.mlpbank"], "got none"),
        (["predict", "fleet.mlpbank", "--input", "rows.csv", "--key", "nokey"], "--key"),
        (
            [
                "predict",
                "fleet.mlpbank",
                "--input",
                "rows.csv",
                "--key",
                "key",
                "--features",
                "a,q,c",
            ],
            "'q'",
        ),
        (
            ["predict", "fleet.mlpbank", "--input", "rows.csv", "--key", "key", "--features", "a"],
            "3 columns",
        ),
        (
            [
                "predict",
                "fleet.mlpbank",
                "--input",
                "rows.csv",
                "--key",
                "key",
                "--output",
                "y.xls",
            ],
            "--output",
        ),
        (["predict", "fleet.mlpbank", "--input", "rows.txt", "--key", "key"], "--input"),
        (["predict", "fleet.mlpbank", "--input", "text.csv", "--key", "key"], "line 2, column 'b'"),
        (["convert", "fleet.mlpbank", "y.mlpbank", "--to", "onnx"], "y.mlpbank"),
        (["convert", "fleet.mlpbank", "y.onnx", "--to", "mlpbank"], "y.onnx"),
        (
            ["convert", "fleet.mlpbank", "y.pt", "--to", "safetensors"],
            "ends in .safetensors, as --to has it, got y.pt",
        ),
        (
            ["convert", "fleet.mlpbank", "y.mlpbank", "--sizes", "3,4,2"],
            "--sizes: expected a folder",
        ),
        (
            ["convert", "fleet.mlpbank", "y.mlpbank", "--activation", "tanh"],
            "--activation: expected a folder",
        ),
        (
            ["convert", "fleet.mlpbank", "y.mlpbank", "--weight-layout", "in_out"],
            "--weight-layout: expected a folder",
        ),
        (
            ["convert", "models", "y.mlpbank", "--output-activation", "tanh"],
            "--output-activation: expected --sizes",
        ),
        (["convert", "models", "y.mlpbank", "--sizes", "3,0"], "positive"),
        (["convert", "models", "y.mlpbank", "--sizes", f"3,{2**70}"], "too large"),
        (
            ["convert", "models", "y.mlpbank", "--sizes", "3,2"],
            "a.pt: expected a file of torch.save, got text",
        ),
        (["convert", ".", "--to", "mlpbank"], "target: expected a name"),
    ],
)
def test_errors_are_one_line(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(path.parent)
    if "models" in args:
        pytest.importorskip("torch")
    Path("empty").mkdir()
    Path("models").mkdir()
    Path("models/a.pt").write_bytes(b"no state dict")
    Path("rows.csv").write_text("key,a,b,c\nx,1,2,3\n")
    Path("text.csv").write_text("key,a,b,c\nx,1,two,3\n")
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mlpbank: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, KeyError, IndexError, ImportError, EOFError]
)
def test_a_bug_is_no_error_of_the_user(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    def break_down(*_: object) -> None:
        raise error("of the code")

    monkeypatch.setattr("mlpbank.cli._bank_commands.Counter", break_down)
    assert main(["inspect", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert "of the code" in lines[-2]
    assert lines[-1] == "mlpbank: this is a bug in mlpbank; please report it with the lines above"
    monkeypatch.setenv("MLPBANK_DEBUG", "1")
    with pytest.raises(error, match="of the code"):
        main(["inspect", str(path)])


def test_what_the_machine_lacks_is_no_bug(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mlpbank.cli._bank_commands.Counter", fail)
    assert main(["inspect", str(path)]) == 2
    assert capsys.readouterr().err == "mlpbank: error: MemoryError\n"


@pytest.mark.parametrize("variable", ["MLPBANK_NUM_THREADS", "MLPBANK_ISA"])
def test_wrong_variables_are_errors_of_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "none")
    assert main(["info"]) == 2
    assert capsys.readouterr().err.startswith(f"mlpbank: error: {variable}: ")


def test_output_that_cannot_say_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    make_bank(["é"]).save(tmp_path / "fleet.mlpbank")
    (tmp_path / "rows.csv").write_text("key,a,b,c\né,1,2,3\n")
    args = ["predict", tmp_path / "fleet.mlpbank", "--input", tmp_path / "rows.csv", "--key", "key"]
    for command in (args, ["inspect", tmp_path / "fleet.mlpbank"]):
        done = run(*command)
        assert done.returncode == 2
        assert (
            done.stderr
            == "mlpbank: error: standard output: expected text that ascii can hold, got '\\xe9'\n"
        )
    done = run(*args, "--output", tmp_path / "y.csv")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["inspect", "verify", "convert", "predict", "create", "log", "compact"]
)
def test_help_has_examples(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"mlpbank {command} " in done.stdout.split("examples:")[1]
