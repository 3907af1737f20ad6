"""mlpbank.spark against the same bank on the collected table, bit for bit."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, InvalidTypeError, InvalidValueError, UnknownKeyError
from scale_rows import rows_of

# Spark 3.5 warns of what it uses of other packages.
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]


def start(master: str) -> Any:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.executorEnv.PYTHONPATH": os.environ["PYTHONPATH"],
    }
    builder = SparkSession.builder.master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    session = start("local[2]")
    yield session
    session.stop()


@pytest.fixture
def spark_predict() -> Any:
    from mlpbank import spark

    return spark.predict


def collected(df: Any) -> Any:
    return df.toPandas().sort_values("row").reset_index(drop=True)


def test_every_row_has_the_bits_of_the_bank(
    spark: Any, spark_predict: Any, flights: Path, columns: list[str]
) -> None:
    frame = rows_of(flights, columns, 1_000_000)
    df = spark.createDataFrame(frame).repartition(7)
    plan = spark_predict(df, flights, key="flight", features=columns)
    assert plan.columns == [*df.columns, "prediction"]
    got = collected(plan)
    expected = Bank.open(flights).predict_frame(frame, key="flight", features=columns)
    np.testing.assert_array_equal(got["prediction"], expected)
    assert got["prediction"].dtype == np.float32
    frame = frame.astype({"row": "int64"})
    np.testing.assert_array_equal(got[columns], frame[columns])


def test_there_is_no_shuffle(
    spark: Any, spark_predict: Any, flights: Path, columns: list[str]
) -> None:
    df = spark.createDataFrame(rows_of(flights, columns, 100))
    plan = spark_predict(df, flights, key="flight", features=columns)
    text = plan._jdf.queryExecution().executedPlan().toString()
    assert "MapInArrow" in text
    assert "Exchange" not in text


@pytest.mark.parametrize("ship", [False, True])
def test_arrays_of_features(
    spark: Any, spark_predict: Any, flights: Path, columns: list[str], ship: bool
) -> None:
    from pyspark.sql import functions

    frame = rows_of(flights, columns, 5_000, seed=ship)
    df = spark.createDataFrame(frame)
    df = df.select("row", "flight", functions.array(*columns).alias("v"))
    got = collected(spark_predict(df, flights, key="flight", features="v", ship=ship))
    expected = Bank.open(flights).predict_frame(frame, key="flight", features=columns)
    np.testing.assert_array_equal(got["prediction"], expected)


def test_nulls_and_doubles(
    spark: Any, spark_predict: Any, flights: Path, columns: list[str]
) -> None:
    frame = rows_of(flights, columns, 1_000).astype(dict.fromkeys(columns, np.float64))
    frame.loc[::7, columns[0]] = None
    frame.loc[::11, "flight"] = None
    names = ", ".join(f"{name} double" for name in columns)
    values = frame.astype(object).where(frame.notna(), None).values.tolist()
    df = spark.createDataFrame(values, f"flight string, row long, {names}")
    got = collected(spark_predict(df, flights, key="flight", features=columns, missing="nan"))
    expected = Bank.open(flights).predict_frame(
        frame, key="flight", features=columns, missing="nan"
    )
    np.testing.assert_array_equal(got["prediction"], expected)
    assert np.isnan(got["prediction"][::11]).all()


def test_several_outputs_and_keys_of_parts(spark: Any, spark_predict: Any, tmp_path: Path) -> None:
    import pandas as pd

    rng = np.random.default_rng(3)
    keys = [(f"shop {i}", j) for i in range(20) for j in range(5)]
    weights = {"layer_0": rng.normal(size=(100, 3, 2)), "layer_0.bias": rng.normal(size=(100, 2))}
    bank = Bank.from_stacked(keys, Architecture.mlp(3, 2), weights)
    path = tmp_path / "shops.live"
    bank.save(path, live=True)
    chosen = rng.integers(0, 100, 500)
    frame = pd.DataFrame(rng.normal(size=(500, 3)), columns=list("abc"))
    frame["row"] = np.arange(500)
    frame["shop"] = [keys[i][0] for i in chosen]
    frame["item"] = [keys[i][1] for i in chosen]
    df = spark.createDataFrame(frame)
    plan = spark_predict(df, path, key=["shop", "item"], features=["a", "b", "c"], name="y")
    # Tasks see the bank as the driver saw it, whatever changes until they run.
    with Bank.open(path, writable=True) as writer:
        writer.update({key: {"layer_0": np.zeros((3, 2))} for key in keys})
    got = collected(plan)
    expected = bank.predict([keys[i] for i in chosen], frame[["a", "b", "c"]].to_numpy(np.float32))
    np.testing.assert_array_equal(got[["y_0", "y_1"]], expected)
    assert (
        collected(spark_predict(df, path, key=["shop", "item"], features=["a", "b", "c"]))[
            "prediction_0"
        ]
        == 0
    ).all()


def test_expressions_sql_and_batches(spark: Any, flights: Path, columns: list[str]) -> None:
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql import functions
    from pyspark.sql.types import FloatType

    from mlpbank.spark import arrow_udf, make_predict_fn

    frame = rows_of(flights, columns, 3_000)
    expected = Bank.open(flights).predict_frame(frame, key="flight", features=columns)
    df = spark.createDataFrame(frame)
    df.createOrReplaceTempView("rows")
    spark.udf.register("model", arrow_udf(flights))
    got = collected(spark.sql(f"SELECT row, model(flight, {', '.join(columns)}) AS y FROM rows"))
    np.testing.assert_array_equal(got["y"], expected)
    function = predict_batch_udf(
        make_predict_fn(flights),
        return_type=FloatType(),
        batch_size=500,
        input_tensor_shapes=[[], [len(columns)]],
    )
    got = collected(df.select("row", function("flight", functions.array(*columns)).alias("y")))
    np.testing.assert_array_equal(got["y"], expected)


def test_wrong_calls_fail_on_the_driver(
    spark: Any, spark_predict: Any, flights: Path, columns: list[str]
) -> None:
    df = spark.createDataFrame(rows_of(flights, columns, 10))
    right = {"key": "flight", "features": columns}
    for change, error, message in (
        ({"key": "shop"}, UnknownKeyError, "'shop': no such column, there are flight"),
        ({"features": columns[1:]}, InvalidValueError, "expected 8 columns"),
        ({"features": [*columns[1:], "flight"]}, InvalidTypeError, "a number, got string"),
        ({"features": columns[0]}, InvalidTypeError, "an array of numbers, got float"),
        ({"features": None}, InvalidValueError, "does not know the names"),
        ({"name": "row"}, InvalidValueError, "there is 'row' already"),
        ({"missing": "no"}, InvalidValueError, "missing"),
    ):
        with pytest.raises(error, match=message):
            spark_predict(df, flights, **{**right, **change})
    with pytest.raises(FileNotFoundError):
        spark_predict(df, flights.with_name("none"), **right)
    with pytest.raises(InvalidValueError, match="made in memory"):
        spark_predict(df, Bank(Architecture.mlp(8, 1)), **right)


def test_another_file_in_the_place_of_the_bank_fails_the_job(
    spark: Any, spark_predict: Any, flights: Path, columns: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "changing.mlpbank"
    Bank.open(flights).save(path)
    df = spark.createDataFrame(rows_of(flights, columns, 10))
    plan = spark_predict(df, path, key="flight", features=columns)
    bank = Bank.open(path)
    bank[next(iter(bank))] = bank[list(bank)[1]]
    bank.save(path)
    with pytest.raises(Exception, match="got another one in its place"):
        plan.toPandas()


def test_an_unknown_key_fails_the_job_and_is_named(
    spark: Any, spark_predict: Any, flights: Path, columns: list[str]
) -> None:
    frame = rows_of(flights, columns, 10)
    frame.loc[3, "flight"] = "XX 1 YYY"
    df = spark.createDataFrame(frame)
    plan = spark_predict(df, flights, key="flight", features=columns, missing="error")
    with pytest.raises(Exception, match="XX 1 YYY"):
        plan.toPandas()


def test_too_little_address_space_is_told(flights: Path) -> None:
    """What a worker says whose spark.executor.pyspark.memory is too small for the mapping."""
    import subprocess

    program = (
        "import resource, sys\n"
        "from mlpbank._reference import reference_to\n"
        "reference, bank = reference_to(sys.argv[1])\n"
        "del bank\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000, resource.RLIM_INFINITY))\n"
        "reference.open(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(flights)], capture_output=True, text=True, check=False
    )
    assert "spark.executor.pyspark.memory" in done.stderr


@pytest.fixture
def cluster(spark: Any) -> Iterator[Any]:
    """Two executors in processes of their own; the session of the other tests ends."""
    spark.stop()
    session = start("local-cluster[2,1,1024]")
    yield session
    session.stop()


def executors() -> list[int]:
    """Return the processes of executors that descend from this one."""
    parents, found = {}, []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if b"CoarseGrainedExecutorBackend" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue

    def is_mine(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid in found if is_mine(pid)]


def test_an_executor_that_is_killed_changes_nothing(
    cluster: Any, spark_predict: Any, flights: Path, columns: list[str]
) -> None:
    """The last test of this file: it ends the session of the others."""
    frame = rows_of(flights, columns, 1_000_000)
    df = cluster.createDataFrame(frame).repartition(40).cache()
    df.count()
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            time.sleep(0.5)
            for pid in executors()[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    got = collected(spark_predict(df, flights, key="flight", features=columns))
    thread.join()
    assert killed
    expected = Bank.open(flights).predict_frame(frame, key="flight", features=columns)
    np.testing.assert_array_equal(got["prediction"], expected)
