"""Spark, Ray Data and Ray Serve, beside what people write by hand.

Needs the extras spark and ray, scikit-learn and torch. Rows are random, for the 2,065 models of the
flights or for 50,000 of that size. Every contender reads the same cached rows and leaves its
predictions to a sum, which is compared. Before it is timed each has run on a few of the rows, so
that its workers are there and the models with them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.by_hand import KEY, Models, TorchLoop
from benchmarks.multiplexed import compare_services
from benchmarks.step import Step, table_of
from benchmarks.table import Factor, PerSecond, Row, Seconds, Table
from mlpbank import Bank
from mlpbank.bench.measure import Progress

ROWS, MANY, CALL = 1_000_000, 50_000, 10_000
LONG = 15  # seconds
BY_TORCH = "groupBy(key).applyInPandas, torch"
BY_GROUP = "mapInPandas, bank.predict for each group of a batch"
MINUTES = (BY_TORCH, BY_GROUP)  # with many models
FLIGHTS = str(resources.files("mlpbank") / "data/flights.mlpbank")
NOTHING = "nothing: the least that the engine takes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--rows", type=int, default=ROWS, help=f"default {ROWS}")
    parser.add_argument("--only", choices=("spark", "spark-many", "ray", "serve"))


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the section's steps."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    every = {
        "spark": partial(_spark, args.rows, None),
        "spark-many": partial(_spark, args.rows, MANY),
        "ray": partial(_ray, args.rows),
        "serve": partial(_serve, float(args.seconds)),
    }
    return [Step(name, run) for name, run in every.items() if args.only in (None, name)]


def _frame(bank: Bank, rows: int) -> tuple[Any, list[str]]:
    import pandas

    names = [f"x{i}" for i in range(bank.architecture.input_size)]
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(rows, len(names))).astype(np.float32), columns=names)
    frame[KEY] = np.array(list(bank))[rng.integers(0, len(bank), rows)]
    return frame, names


def _many(folder: str) -> str:
    """Write a bank of `MANY` models of the flights' architecture, and return its path."""
    rng = np.random.default_rng(0)
    architecture = Bank.open(FLIGHTS).architecture
    weights = {}
    for i, layer in enumerate(architecture.layers):
        shape = (MANY, layer.input_size, layer.output_size)
        weights[f"layer_{i}"] = rng.normal(size=shape).astype(np.float32)
        weights[f"layer_{i}.bias"] = rng.normal(size=(MANY, layer.output_size)).astype(np.float32)
    path = os.path.join(folder, "many.mlpbank")
    Bank.from_stacked([f"XX {i} YYY" for i in range(MANY)], architecture, weights).save(path)
    return path


def _timed(
    title: str,
    ways: dict[str, Callable[[Any], float]],
    few: Any,
    all_rows: Any,
    rows: int,
    progress: Progress,
) -> Table:
    """Run each way on a few rows; then all in turns on all rows, and take the best of three.

    The first round warms up what they share. What takes long runs once.
    """
    sums: dict[str, float] = {}
    best: dict[str, float] = {}
    for run in ways.values():
        run(few)
    for turn in range(3):
        for i, (name, run) in enumerate(ways.items()):
            if best.get(name, 0.0) > LONG:
                continue
            progress((turn + i / len(ways)) / 3, name)
            start = time.perf_counter()
            sums[name] = run(all_rows)
            seconds = time.perf_counter() - start
            best[name] = min(seconds, best.get(name, seconds))
    first = next(iter(best.values()))
    table_rows: list[Row] = [
        {
            "": name,
            "time": Seconds(seconds),
            "rows": PerSecond(rows / seconds),
            "of the first": Factor(seconds / first),
        }
        for name, seconds in best.items()
    ]
    table = table_of(title, table_rows)
    expected = next(iter(sums.values()))
    for name, total in sums.items():
        if name != NOTHING and not np.isclose(total, expected, rtol=1e-3):
            table.wrong[name] = f"sum {total}, expected {expected}"
    return table


def _session() -> Any:
    from pyspark.sql import SparkSession

    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "4g",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "4",  # the default, 200, would be slower here
        "spark.sql.execution.arrow.pyspark.enabled": "true",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _spark(rows: int, count: int | None, progress: Progress) -> Table:
    from pyspark.sql import functions

    from mlpbank import spark as mlpbank_spark

    session = _session()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = FLIGHTS if count is None else _many(folder)
            bank = Bank.open(path)
            frame, names = _frame(bank, rows)
            df = session.createDataFrame(frame).repartition(4).cache()
            df.count()
            few = session.createDataFrame(frame[:2000]).repartition(4)
            schema = f"{df.schema.simpleString()[7:-1]}, prediction: float"

            def total(result: Any) -> float:
                return float(result.agg(functions.sum("prediction")).first()[0])

            ways: dict[str, Callable[[Any], Any]] = {
                "mlpbank.spark.predict": lambda df: mlpbank_spark.predict(
                    df, path, key=KEY, features=names
                )
            }
            for name, way in _by_hand(session, path, names, schema).items():
                if count is None or name not in MINUTES:
                    ways[name] = way
            title = f"Spark {session.version} local[2], {rows} rows by {len(bank)} models"
            counted = {name: partial(_applied, way, total) for name, way in ways.items()}
            return _timed(title, counted, few, df, rows, progress)
    finally:
        session.stop()


def _applied(way: Callable[[Any], Any], total: Callable[[Any], float], df: Any) -> float:
    return total(way(df))


def _by_hand(
    session: Any, path: str, names: list[str], schema: str
) -> dict[str, Callable[[Any], Any]]:
    """Return what people write, as functions of data frames."""
    models = session.sparkContext.broadcast(Models(path))

    def nothing(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow

        for batch in batches:
            columns = [*batch.columns, batch.column(0)]
            yield pyarrow.RecordBatch.from_arrays(columns, [*batch.schema.names, "prediction"])

    def each_batch(parts: Iterator[Any]) -> Iterator[Any]:
        bank = Bank.open(path)
        for part in parts:
            y = bank.predict(part[KEY], part[names].to_numpy(np.float32))
            yield part.assign(prediction=y[:, 0])

    def each_group(parts: Iterator[Any]) -> Iterator[Any]:
        import pandas

        bank = Bank.open(path)
        for part in parts:
            found = []
            for key, group in part.groupby(KEY):
                y = bank.predict(key, group[names].to_numpy(np.float32))
                found.append(group.assign(prediction=y[:, 0]))
            yield pandas.concat(found)

    def by_sklearn(group: Any) -> Any:
        model = models.value.sklearn(group[KEY].iloc[0])
        return group.assign(prediction=model.predict(group[names].to_numpy()).astype(np.float32))

    def by_torch(group: Any) -> Any:
        import torch

        model = models.value.torch(group[KEY].iloc[0])
        with torch.inference_mode():
            y = model(torch.from_numpy(group[names].to_numpy(np.float32)))
        return group.assign(prediction=y[:, 0].numpy())

    def grouped(step: Any) -> Callable[[Any], Any]:
        return lambda df: df.groupBy(KEY).applyInPandas(step, schema)

    return {
        NOTHING: lambda df: df.mapInArrow(nothing, schema),
        "mapInPandas, bank.predict for each batch": lambda df: df.mapInPandas(each_batch, schema),
        BY_GROUP: lambda df: df.mapInPandas(each_group, schema),
        "groupBy(key).applyInPandas, scikit-learn": grouped(by_sklearn),
        BY_TORCH: grouped(by_torch),
    }


class _Nothing:
    """An actor that computes nothing."""

    def __call__(self, batch: Any) -> Any:
        return batch.append_column("prediction", batch.column(0))


def _start_ray() -> Any:
    import ray

    ray.init(
        num_cpus=8,  # more than there are: some wait while others work
        include_dashboard=False,
        object_store_memory=500 << 20,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
    )
    return ray


def _ray(rows: int, progress: Progress) -> Table:
    from mlpbank.bank._shards import split
    from mlpbank.ray import Predictor, ShardedBank

    ray = _start_ray()
    bank = Bank.open(FLIGHTS)
    frame, names = _frame(bank, rows)
    dataset = ray.data.from_pandas(frame).repartition(8).materialize()
    few = ray.data.from_pandas(frame[:2000]).materialize()
    given = {"bank": bank, "key": KEY, "features": names}
    hand = {"models": Models(FLIGHTS), "names": names}

    def way(step: Any, kind: str, arguments: dict[str, Any]) -> Callable[[Any], float]:
        how = {"batch_format": kind, "fn_constructor_kwargs": arguments, "concurrency": 2}
        return lambda data: float(data.map_batches(step, **how).sum("prediction"))

    def sharded(data: Any) -> float:
        """Return the sum of all rows, asked by one caller, one call after the other."""
        part = frame[:2000] if data is few else frame
        keys, x = part[KEY].tolist(), part[names].to_numpy()
        calls = range(0, len(part), CALL)
        return float(sum(shards.predict(keys[i : i + CALL], x[i : i + CALL]).sum() for i in calls))

    def here(data: Any) -> float:
        part = frame[:2000] if data is few else frame
        return float(bank.predict_frame(part, key=KEY, features=names).sum())

    ways = {
        "mlpbank.ray.Predictor": way(Predictor, "pyarrow", given),
        NOTHING: way(_Nothing, "pyarrow", {}),
        "map_batches, a torch module for each key": way(TorchLoop, "pandas", hand),
        f"mlpbank.ray.ShardedBank, calls of {CALL} rows": sharded,
        "bank.predict_frame, without Ray": here,
    }
    title = f"Ray Data {ray.__version__}, 2 actors, {rows} rows by {len(bank)} models"
    try:
        with tempfile.TemporaryDirectory() as folder:
            split(bank, folder, 16)
            with ShardedBank(folder, replicas=1, groups=2) as shards:
                return _timed(title, ways, few, dataset, rows, progress)
    finally:
        ray.shutdown()


def _serve(seconds: float, progress: Progress) -> Table:
    ray = _start_ray()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return compare_services(FLIGHTS, Path(folder), seconds, progress)
    finally:
        ray.shutdown()
