"""The commands and the names of a bank: columns by name, whatever their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import ARCHITECTURE, make_bank, rows
from mlpbank import Bank
from mlpbank.cli import main

NAMES = ["wind", "sun", "rain"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bank whose metadata say something else than its names."""
    bank = make_bank(["x", "y"])
    named = Bank.from_stacked(*bank.to_stacked(), feature_names=NAMES, classes=["no", "yes"])
    named.metadata = bank.metadata
    named.save(tmp_path / "named.mlpbank")
    return tmp_path / "named.mlpbank"


def predict(path: Path, table: Path, *args: str) -> int:
    command = ["predict", str(path), "--input", str(table), "--key", "key", *args]
    return main([*command, "--output", str(path.with_name("y.npy"))])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("options", [[], ["--features", "rain,wind,sun"]])
@pytest.mark.parametrize("order", [NAMES, ["rain", "sun", "wind"]])
def test_columns_are_taken_by_name(
    path: Path, suffix: str, options: list[str], order: list[str]
) -> None:
    x = rows(5)
    frame = pd.DataFrame(x, columns=NAMES)[order].assign(key="y", also=1.0)
    table = path.with_name(f"rows.{suffix}")
    if suffix == "csv":
        frame.to_csv(table, index=False)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(table)
    assert predict(path, table, *options) == 0
    expected = Bank.open(path).predict(["y"] * 5, x)
    np.testing.assert_allclose(np.load(path.with_name("y.npy")), expected, rtol=1e-5)


def test_other_columns_are_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = path.with_name("rows.csv")
    table.write_text("key,wind,sun,snow\nx,1,2,3\n")
    assert predict(path, table) == 2
    expected = "--input: expected columns of the bank's features, wind, sun, rain, got none 'rain'"
    assert expected in capsys.readouterr().err
    assert predict(path, table, "--features", "wind,sun,snow") == 2
    expected = "--features: expected those of the bank, wind, sun, rain, got wind, sun, snow"
    assert expected in capsys.readouterr().err


def test_columns_that_the_metadata_name_are_not_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = make_bank(["x"])  # its metadata name b, a, c
    bank.save(tmp_path / "bank.mlpbank")
    (tmp_path / "rows.csv").write_text("key,a,b,d\nx,1,2,3\n")
    assert predict(tmp_path / "bank.mlpbank", tmp_path / "rows.csv") == 2
    assert "--features: expected some of key, a, b, d, got 'c'" in capsys.readouterr().err


def test_inspect_shows_names_and_classes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["features", "wind, sun, rain"] in lines
    assert ["classes", "'no', 'yes'"] in lines


@pytest.mark.parametrize("target", ["half.mlpbank", "plain.safetensors"])
def test_converted_banks_keep_them(path: Path, target: str) -> None:
    there = path.with_name(target)
    options = ["--dtype", "float16"] if target.endswith("mlpbank") else []
    assert main(["convert", str(path), str(there), *options]) == 0
    bank = Bank.open(there) if options else Bank.from_safetensors(there)
    assert (bank.feature_names, bank.classes) == (tuple(NAMES), ("no", "yes"))


def test_graphs_have_them_as_properties(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    assert main(["convert", str(path), "--to", "onnx"]) == 0
    model = onnx.load(path.with_suffix(".onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["feature_names"] == '["wind", "sun", "rain"]'
    assert properties["classes"] == '["no", "yes"]'
    assert ARCHITECTURE.input_size == len(NAMES)
