"""The recipes of docs/scale.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank

pytestmark = pytest.mark.scale

PAGE = Path(__file__).resolve().parents[2] / "docs/scale.md"
RECIPES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def recipe(word: str) -> str:
    """Return the one recipe with this word."""
    (found,) = [text for text in RECIPES if word in text]
    return found


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """A bank of shops, and rows for it."""
    import pandas as pd

    rng = np.random.default_rng(0)
    keys = [f"shop-{i}" for i in range(50)]
    bank = Bank.from_stacked(
        keys,
        Architecture.mlp(2, 1),
        {"layer_0": rng.normal(size=(50, 2, 1))},
        feature_names=["price", "age"],
    )
    path = tmp_path / "shops.mlpbank"
    bank.save(path)
    frame = pd.DataFrame(
        {
            "id": np.arange(10_000),
            "shop": np.array(keys)[rng.integers(0, 50, 10_000)],
            "price": rng.normal(size=10_000),
            "age": rng.normal(size=10_000),
        }
    )
    parquet = str(tmp_path / "sales.parquet")
    frame.to_parquet(parquet)
    expected = bank.predict_frame(frame, key="shop").to_numpy()
    names = {"bank": bank, "path": str(path), "parquet": parquet, "frame": frame}
    return {**names, "expected": expected}


def test_dask(data: dict[str, Any]) -> None:
    import dask
    import dask.dataframe as dd
    from dask.distributed import Client, LocalCluster

    with (
        dask.config.set({"dataframe.convert-string": False}),
        LocalCluster(2, processes=True, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster),
    ):
        names = {**data, "ddf": dd.from_pandas(data["frame"], npartitions=5)}
        exec(recipe("dask"), names)
        got = names["result"].compute().sort_values("id")["prediction"]
    np.testing.assert_array_equal(got, data["expected"])


def test_duckdb(data: dict[str, Any]) -> None:
    import duckdb

    exec(recipe("duckdb"), data)
    got = duckdb.sql("SELECT * FROM result").fetchnumpy()["prediction"]
    np.testing.assert_array_equal(got, data["expected"])


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_polars(data: dict[str, Any], engine: Any) -> None:
    exec(recipe("polars"), data)
    got = data["lazy"].collect(engine=engine).sort("id")["prediction"]
    np.testing.assert_array_equal(got, data["expected"])


@pytest.mark.filterwarnings("default")  # of Beam's own modules
def test_beam(data: dict[str, Any]) -> None:
    import apache_beam as beam
    from apache_beam.testing.util import assert_that

    expected = data["expected"]

    def check(got: list[dict[str, Any]]) -> None:
        found = [row["prediction"] for row in sorted(got, key=lambda row: row["id"])]
        np.testing.assert_array_equal(np.float32(found), expected)

    with beam.Pipeline(runner="DirectRunner") as pipeline:
        rows = pipeline | beam.Create(data["frame"].to_dict("records"))
        # Classes of __main__ are sent as they are.
        names = {"path": data["path"], "rows": rows, "Bank": Bank, "__name__": "__main__"}
        exec(recipe("apache_beam"), names)
        assert_that(names["result"], check)


def test_spark_and_ray_are_not_needed_by_anything_else() -> None:
    import subprocess
    import sys

    program = "import mlpbank, mlpbank.serving, sys; print({'pyspark', 'ray'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
