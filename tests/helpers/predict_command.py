"""The predict command in this process, and a bank and tables for it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlpbank import Architecture, Bank
from mlpbank.cli import main

KEYS = ["a", "b", "007", 'q"', "two\nlines", "c\rr"]


def save_bank(path: Path, keys: list[Any], **options: Any) -> Bank:
    """Save a bank in which model i gives (i + 1) * x + y."""
    weights = {"layer_0": np.array([[[i + 1], [1.0]] for i in range(len(keys))])}
    bank = Bank.from_stacked(keys, Architecture.mlp(2, 1), weights, **options)
    bank.save(path)
    return bank


def some_rows(count: int, keys: list[Any]) -> tuple[list[Any], npt.NDArray[np.float32]]:
    """Return keys and inputs, one of which is NaN here and there."""
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, 2)).astype(np.float32)
    x[::5, 1] = np.nan
    return [keys[i] for i in rng.integers(0, len(keys), count)], x


def write_table(path: Path, keys: list[Any], x: npt.NDArray[np.float32]) -> Path:
    """Write a table with a column that is no input in the format of its suffix."""
    name, columns = path.name, {"key": keys, "x": x[:, 0], "note": ["n,\nm"] * len(x), "y": x[:, 1]}
    if name.endswith((".csv", ".csv.gz")):
        pd = pytest.importorskip("pandas")
        data = pd.DataFrame(columns).to_csv(index=False, lineterminator="\r\n").encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    elif name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table(columns), path, row_group_size=5)
    elif name.endswith(".npz"):
        np.savez(path, **{column: np.array(values) for column, values in columns.items()})
    else:
        key_type = np.array(keys).dtype if keys else "U1"
        table = np.zeros(len(x), [("key", key_type), ("x", "f4"), ("y", "f4")])
        table["key"], table["x"], table["y"] = keys, x[:, 0], x[:, 1]
        np.save(path, table)
    return path


def small_parts(patch: pytest.MonkeyPatch, rows: int, cells: int = 8) -> None:
    """Make parts of tables as small as `rows`, and blocks of CSV as small as `cells`."""
    patch.setattr("mlpbank.cli._parts._ROWS", rows)
    patch.setattr("mlpbank.cli._read_csv._BLOCK_CELLS", cells)
    patch.setattr("mlpbank.cli._results._BATCH", 2)


def predict(bank: Path, table: Path | str, *options: str) -> int:
    """Run the command with the columns of `write_table`."""
    command = ["predict", str(bank), "--input", str(table), "--key", "key", "--features", "x,y"]
    return main([*command, *options])
