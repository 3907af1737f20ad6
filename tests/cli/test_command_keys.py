"""Keys of the predict command: missing ones, ints that became float, and columns of tuples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank
from mlpbank.cli import main


def save(path: Path, keys: list[Any]) -> str:
    """Save a bank in which model i gives i."""
    n = len(keys)
    weights = {"layer_0": np.zeros((n, 1, 1)), "layer_0.bias": np.arange(n).reshape(n, 1)}
    Bank.from_stacked(keys, Architecture.mlp(1, 1), weights).save(path)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["predict", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("gap", ["", "NA", "NaN", "null", "None", "<NA>", "#N/A", " ", "n/a"])
def test_every_spelling_of_a_missing_value_is_a_missing_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gap: str
) -> None:
    for keys, rows in (([7, 8], f"8,1\n{gap},1\n7.0,1\n"), (["a", "b"], f"b,1\n{gap},1\na,1\n")):
        bank = save(tmp_path / "b.mlpbank", keys)
        table = tmp_path / "t.csv"
        table.write_text("id,x\n" + rows)
        args = [bank, "--input", str(table), "--key", "id"]
        code, out, _ = run(capsys, *args, "--missing", "nan")
        assert code == 0
        assert [line.split(",")[1] for line in out.splitlines()] == ["prediction", "1.0", "", "0.0"]
        code, _, err = run(capsys, *args)
        assert code != 0
        assert "no such model" in err


def test_missing_keys_of_other_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    ids: list[Any] = [pd.Series([8, None, 7]), pd.Series([8, None, 7], dtype="Int64")]
    for keys, column in (
        (([7, 8], ids[0])),
        ([7, 8], ids[1]),
        (["a", "b"], pd.Series(["b", None, "a"])),
    ):
        bank = save(tmp_path / "b.mlpbank", keys)
        pd.DataFrame({"id": column, "x": 1.0}).to_parquet(tmp_path / "t.parquet")
        args = [bank, "--input", str(tmp_path / "t.parquet"), "--key", "id", "--missing", "nan"]
        code, out, err = run(capsys, *args)
        assert code == 0
        assert err.endswith("no model for 1 of 3 rows, which get NaN, 1 of them without a key\n")
        assert [line.split(",")[1] for line in out.splitlines()[1:]] == ["1.0", "", "0.0"]


def test_columns_of_the_parts_of_tuples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = save(tmp_path / "b.mlpbank", [("A", 1), ("A", 2), ("B", 1)])
    table = tmp_path / "t.csv"
    table.write_text("store,x,item\nB,1,1\nA,1,2\nA,1,\n")
    args = [bank, "--input", str(table), "--key", "store,item", "--missing", "nan"]
    code, out, err = run(capsys, *args)
    assert (code, err.count("no model for 1 of 3 rows")) == (0, 1)
    assert out == "store,item,prediction\nB,1,2.0\nA,2,1.0\nA,,\n"
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pd.read_csv(table).to_parquet(tmp_path / "t.parquet")
    args[2] = str(tmp_path / "t.parquet")
    assert run(capsys, *args) == (0, out, err)
    assert run(capsys, *args, "--output", str(tmp_path / "y.parquet"))[0] == 0
    written = pd.read_parquet(tmp_path / "y.parquet")
    assert list(written) == ["store", "item", "prediction"]
    np.testing.assert_equal(written["prediction"].to_numpy(), np.float32([2, 1, np.nan]))
    for key, message in (
        ("store", "--key: expected 2 columns a,b,..., for the bank's keys are tuple[str, int]"),
        ("store,shelf", "--key: expected one of store, x, item, got 'shelf'"),
    ):
        code, _, err = run(capsys, bank, "--input", str(table), "--key", key)
        assert code != 0
        assert message in err
