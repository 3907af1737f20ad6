"""Memory of the predict command does not grow with its table."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlpbank import Architecture, Bank

COLUMNS = 16
# Starts the command and prints the most memory that it had, in bytes.
PROGRAM = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "mlpbank", *sys.argv[1:]])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(done.returncode)
"""


def most_memory(bank: Path, table: Path, output: Path) -> int:
    command = ["predict", str(bank), "--input", str(table), "--key", "id", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


def write_csv(path: Path, parts: int) -> None:
    x = np.random.default_rng(1).normal(size=(10_000, COLUMNS)).astype(np.float32)
    text = io.StringIO()
    np.savetxt(text, x, "k5," + ",".join(["%.8g"] * COLUMNS))
    data = text.getvalue().encode()
    header = ",".join(["id", *(f"f{i}" for i in range(COLUMNS))]) + "\n"
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(header.encode())
        for _ in range(parts):
            file.write(data)


def write_parquet(path: Path, parts: int) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    x = np.random.default_rng(1).normal(size=(100_000, COLUMNS)).astype(np.float32)
    columns = {f"f{i}": x[:, i] for i in range(COLUMNS)}
    table = pa.table({"id": [f"k{i % 10}" for i in range(len(x))], **columns})
    with parquet.ParquetWriter(path, table.schema) as writer:
        for _ in range(parts):
            writer.write_table(table)


def write_npy(path: Path, parts: int) -> None:
    table = np.zeros(100_000 * parts, [("id", "U3"), *((f"f{i}", "f4") for i in range(COLUMNS))])
    table["id"] = "k5"
    np.save(path, table)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "write", "few", "many"),
    [
        (".csv", write_csv, 8, 64),
        (".csv.gz", write_csv, 8, 64),
        (".parquet", write_parquet, 2, 16),
        (".npy", write_npy, 1, 16),
    ],
)
def test_memory_is_the_same_for_a_table_of_100_mb(
    tmp_path: Path, suffix: str, write: object, few: int, many: int
) -> None:
    assert callable(write)
    keys = [f"k{i}" for i in range(10)]
    weights = {"layer_0": np.ones((10, COLUMNS, 1))}
    bank = tmp_path / "b.mlpbank"
    Bank.from_stacked(keys, Architecture.mlp(COLUMNS, 1), weights).save(bank)
    most = []
    for parts in (few, many):
        table = tmp_path / f"t{suffix}"
        write(table, parts)
        most.append(most_memory(bank, table, tmp_path / f"y{suffix}"))
    size = table.stat().st_size
    assert suffix == ".csv.gz" or size > 90_000_000
    # The pages of a mapped file count, though the system takes them back when it needs them.
    mapped = size if suffix == ".npy" else 0
    assert most[1] - most[0] < 60_000_000 + mapped, most
