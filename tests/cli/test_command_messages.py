"""What the commands say about files and tables that do not fit, and about rows without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Activation, Architecture, Bank, LayerSpec
from mlpbank.cli import main

torch = pytest.importorskip("torch")


def bank_file(folder: Path, *keys: Any, **options: Any) -> str:
    weights = {"layer_0": np.arange(1.0, len(keys) + 1)[:, None, None]}
    path = folder / "bank.mlpbank"
    Bank.from_stacked(list(keys), Architecture.mlp(1, 1), weights, **options).save(path)
    return str(path)


def predict(folder: Path, bank: str, table: str, *options: str) -> int:
    path = folder / "rows.csv"
    path.write_text(table)
    return main(["predict", bank, "--input", str(path), "--key", "id", *options])


def states(folder: Path, *parts: Any) -> Path:
    there = folder / "states"
    there.mkdir()
    torch.save(torch.nn.Sequential(*parts).state_dict(), there / "a.pt")
    return there


L = torch.nn.Linear


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("tanh", LayerSpec(2, 3, "tanh")),
        ("leaky_relu(alpha=0.2)", LayerSpec(2, 3, "leaky_relu", alpha=0.2)),
        (" clip ( low = -1, high=1.5 ) ", LayerSpec(2, 3, "clip", low=-1, high=1.5)),
        ("hardsigmoid(alpha=0.2,beta=0.5)", LayerSpec(2, 3, "hardsigmoid", alpha=0.2)),
        ("elu()", LayerSpec(2, 3, "elu")),
    ],
)
def test_activations_with_parameters(
    tmp_path: Path, text: str, layer: LayerSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = states(tmp_path, L(2, 3), torch.nn.ReLU(), L(3, 1)), tmp_path / "b.mlpbank"
    command = ["convert", str(source), str(target), "--sizes", "2,3,1", "--activation", text]
    assert main([*command, "--output-activation", "clip(low=0)"]) == 0
    last = LayerSpec(3, 1, Activation.CLIP, low=0)
    assert Bank.open(target).architecture == Architecture([layer, last])
    assert capsys.readouterr().err == ""
    assert main(command) == 0
    assert "assumed no activation in the last layer, which files" in capsys.readouterr().err
    assert main(["inspect", str(target)]) == 0
    shown = capsys.readouterr().out
    assert ("alpha=0.2" in text) == ("alpha=0.2" in shown)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Relu", "expected one of none, relu, tanh"),
        ("clip", "--activation: low: expected a finite bound"),
        ("tanh(alpha=2)", "activation 'tanh' has no parameters"),
        ("elu(2)", "expected parameters as in 'leaky_relu(alpha=0.2)', got '2'"),
        ("elu(alpha=x)", "expected parameters as in 'leaky_relu(alpha=0.2)', got 'alpha=x'"),
        ("elu(alpha=1", "expected one of none"),
    ],
)
def test_what_is_no_activation(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = states(tmp_path, L(2, 3), torch.nn.ReLU(), L(3, 1))
    options = ["--sizes", "2,3,1", "--activation", text]
    assert main(["convert", str(source), str(tmp_path / "b.mlpbank"), *options]) == 2
    assert words in capsys.readouterr().err


def test_an_activation_is_not_assumed_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = states(tmp_path, L(2, 3), torch.nn.ReLU(), L(3, 1)), tmp_path / "b.mlpbank"
    assert main(["convert", str(source), str(target), "--sizes", "2,3,1"]) == 0
    assert Bank.open(target).architecture == Architecture.mlp(2, 3, 1, activation="relu")
    expected = "assumed relu in all layers but the last and no activation in the last layer, which"
    assert expected in capsys.readouterr().err
    assert main(["convert", str(source), str(target)]) == 2
    assert "a.pt holds weights (it has 0: 2 -> 3, 2: 3 -> 1)" in capsys.readouterr().err
    torch.save(torch.nn.Sequential(L(2, 1)).state_dict(), source / "a.pt")
    options = ["--sizes", "2,1", "--output-activation", "tanh"]
    assert main(["convert", str(source), str(target), *options]) == 0
    assert capsys.readouterr().err == ""  # there is no hidden layer


def test_messages_speak_of_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = states(tmp_path, L(2, 3), torch.nn.PReLU(), L(3, 1)), tmp_path / "b.mlpbank"
    command = ["convert", str(source), str(target), "--activation"]
    for activation, sizes, words in (
        ("relu", "2,3,1", "for PReLU --activation prelu"),
        ("relu", "2,3,3,1", "--sizes: expected 2 layers, since the parameters have 0: 2 -> 3, 2: "),
        ("prelu", "2,4,1", "so check --sizes"),
    ):
        assert main([*command, activation, "--sizes", sizes]) == 2
        assert words in capsys.readouterr().err
    assert main([*command, "prelu", "--sizes", "2,3,1"]) == 0


@pytest.mark.parametrize("name", ["m.pkl", "m.JOBLIB"])
def test_pickles_are_for_python(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "models"
    source.mkdir()
    (source / name).write_bytes(b"\x80\x04N.")
    for given in (source, source / name):
        assert main(["convert", str(given), str(tmp_path / "b.mlpbank")]) == 2
        error = capsys.readouterr().err
        assert "run code when they are loaded" in error
        assert "Bank.from_models" in error


def test_rows_without_a_model_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank, table = bank_file(tmp_path, "101", "102"), "id,x\n101.0,1\n102,1\n,1\n101.0,1\n"
    assert predict(tmp_path, bank, table, "--missing", "nan") == 0
    out, err = capsys.readouterr()
    assert out == "id,prediction\n101.0,\n102,2.0\n,\n101.0,\n"
    assert err == (
        "mlpbank: no model for 3 of 4 rows, which get NaN, 1 of them without a key: '101.0'; "
        "instead of '101.0' there is '101'\n"
    )
    bank = bank_file(tmp_path, "101", fallback="101")
    assert predict(tmp_path, bank, "id,x\n101,1\n7,1\n") == 0
    expected = "mlpbank: no model for 1 of 2 rows, for which the fallback answers: '7'\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("fallback", [None, "c"])
def test_a_fallback_that_is_not_there(
    tmp_path: Path, fallback: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = bank_file(tmp_path, "a", fallback=fallback)
    assert predict(tmp_path, bank, "id,x\na,1\n", "--missing", "fallback") == 2
    assert "--missing: expected a bank with a fallback, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("id;x\na;1\n", "separated by ';', expected commas"),
        ("id\tx\na\t1\n", r"separated by '\t', expected commas"),
        ("ID,x\na,1\n", "there is 'ID', spelled otherwise"),
        ('id,x\na,"1,5"\n', "pandas.read_csv(path, decimal=',')"),
    ],
)
def test_tables_in_other_forms(
    tmp_path: Path, table: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path, bank_file(tmp_path, "a"), table) == 2
    assert words in capsys.readouterr().err


def test_parquet_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = tmp_path / "t.parquet"
    command = ["predict", "", "--input", str(table), "--key", "id"]
    for keys, column, way in (
        (["7"], [7], "astype(str)"),
        (["7"], [7.0], "astype('Int64') and then astype('string')"),
        ([7], ["7"], "astype('Int64')"),
    ):
        pd.DataFrame({"id": column, "x": [1.0]}).to_parquet(table)
        command[1] = bank_file(tmp_path, *keys)
        assert main(command) == 2
        assert way in capsys.readouterr().err
    pd.DataFrame({"id": [7], "x": [1.0]}).set_index("id").to_parquet(table)  # pandas' index
    assert main(command) == 0
    assert capsys.readouterr().out == "id,prediction\n7,1.0\n"


def test_columns_of_tuples_in_another_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = bank_file(tmp_path, ("N", 7))
    table = tmp_path / "rows.csv"
    table.write_text("region,id,x\nN,7,1\n")
    command = ["predict", bank, "--input", str(table), "--key"]
    assert main([*command, "id,region"]) == 2
    expected = "--key lists columns in the order of the parts of keys, tuple[str, int]"
    assert expected in capsys.readouterr().err
    assert main([*command, "region,id"]) == 0
