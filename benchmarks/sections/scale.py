"""Spark and Ray Data: rows of the flights' models, beside what people write by hand.

Needs the extras spark and ray. Every contender reads the same rows and leaves its predictions to a
sink that counts them; the first run of each starts its workers and is not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from typing import Any

import numpy as np

from benchmarks.step import Step, table_of
from benchmarks.table import Factor, Row, Seconds, Table
from mlpbank import Bank
from mlpbank.bench.measure import Progress

ROWS = 1_000_000
KEY = "flight"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--rows", type=int, default=ROWS, help=f"default {ROWS}")
    parser.add_argument("--engine", choices=("spark", "ray"), help="one of them")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the section's steps."""
    both = {"spark": partial(_spark, args.rows), "ray": partial(_ray, args.rows)}
    return [Step(name, run) for name, run in both.items() if args.engine in (None, name)]


def _path() -> str:
    return str(resources.files("mlpbank") / "data/flights.mlpbank")


def _frame(rows: int) -> tuple[Any, list[str]]:
    import pandas

    bank = Bank.open(_path())
    names = [f"x{i}" for i in range(bank.architecture.input_size)]
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(rows, len(names))).astype(np.float32), columns=names)
    frame[KEY] = np.array(list(bank))[rng.integers(0, len(bank), rows)]
    return frame, names


def _sklearn_models() -> dict[str, Any]:
    """Return the bank's models as scikit-learn has them."""
    from sklearn.neural_network import MLPRegressor

    keys, architecture, weights = Bank.open(_path()).to_stacked()
    hidden = tuple(layer.output_size for layer in architecture.layers[:-1])
    activation = architecture.layers[0].activation.value
    models = {}
    for i, key in enumerate(keys):
        model = MLPRegressor(hidden, activation=activation)
        count = len(architecture.layers)
        model.coefs_ = [weights[f"layer_{j}"][i] for j in range(count)]
        model.intercepts_ = [weights[f"layer_{j}.bias"][i] for j in range(count)]
        model.n_layers_, model.n_outputs_, model.out_activation_ = count + 1, 1, "identity"
        model.n_features_in_ = architecture.input_size
        models[key] = model
    return models


def _timed(title: str, ways: dict[str, Callable[[], float]], progress: Progress) -> Table:
    """Run each way twice, one after the other, and count the second time. All sums are equal."""
    rows: list[Row] = []
    sums: dict[str, float] = {}
    first = 0.0
    for i, (name, run) in enumerate(ways.items()):
        progress(i / len(ways), name)
        run()
        start = time.perf_counter()
        sums[name] = run()
        seconds = time.perf_counter() - start
        first = first or seconds
        rows.append({"": name, "time": Seconds(seconds), "of the first": Factor(seconds / first)})
    table = table_of(title, rows)
    expected = next(iter(sums.values()))
    for name, total in sums.items():
        if not np.isclose(total, expected, rtol=1e-3):
            table.wrong[name] = f"sum {total}, expected {expected}"
    return table


def _spark(rows: int, progress: Progress) -> Table:
    from pyspark.sql import SparkSession, functions

    from mlpbank import spark as mlpbank_spark

    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    frame, names = _frame(rows)
    df = session.createDataFrame(frame).repartition(4).cache()
    df.count()
    path = _path()
    models = session.sparkContext.broadcast(_sklearn_models())

    def total(result: Any) -> float:
        return float(result.agg(functions.sum("prediction")).first()[0])

    def by_hand(parts: Iterator[Any]) -> Iterator[Any]:
        bank = Bank.open(path)
        for part in parts:  # group by key in pandas, as most write it
            found = []
            for key, group in part.groupby(KEY):
                y = bank.predict([key] * len(group), group[names].to_numpy(np.float32))
                found.append(group.assign(prediction=y[:, 0]))
            import pandas

            yield pandas.concat(found)

    def of_group(group: Any) -> Any:
        model = models.value[group[KEY].iloc[0]]
        return group.assign(prediction=model.predict(group[names].to_numpy()).astype(np.float32))

    schema = f"{df.schema.simpleString()[7:-1]}, prediction: float"
    ways = {
        "mlpbank.spark.predict": lambda: total(
            mlpbank_spark.predict(df, path, key=KEY, features=names)
        ),
        "mapInPandas, mlpbank by hand": lambda: total(df.mapInPandas(by_hand, schema)),
        "groupBy(key).applyInPandas, scikit-learn": lambda: total(
            df.groupBy(KEY).applyInPandas(of_group, schema)
        ),
    }
    try:
        return _timed(f"Spark local[2], {rows} rows by 2602 models", ways, progress)
    finally:
        session.stop()


class _TorchModels:
    """An actor that loops over the models of a batch, as people write it."""

    def __init__(self, names: list[str]) -> None:
        import torch

        keys, architecture, weights = Bank.open(_path()).to_stacked()
        self._names = names
        self._models = {}
        for i, key in enumerate(keys):
            layers: list[Any] = []
            for j, layer in enumerate(architecture.layers):
                linear = torch.nn.Linear(layer.input_size, layer.output_size)
                with torch.no_grad():
                    linear.weight.copy_(torch.from_numpy(weights[f"layer_{j}"][i].T.copy()))
                    linear.bias.copy_(torch.from_numpy(weights[f"layer_{j}.bias"][i]))
                layers += [linear, torch.nn.ReLU()]
            self._models[key] = torch.nn.Sequential(*layers[:-1])

    def __call__(self, batch: Any) -> Any:
        import pandas
        import torch

        found = []
        with torch.inference_mode():
            for key, group in batch.groupby(KEY):
                y = self._models[key](torch.from_numpy(group[self._names].to_numpy(np.float32)))
                found.append(group.assign(prediction=y[:, 0].numpy()))
        return pandas.concat(found)


def _ray(rows: int, progress: Progress) -> Table:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    import ray

    from mlpbank.ray import Predictor

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=1 << 30,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
    )
    frame, names = _frame(rows)
    dataset = ray.data.from_pandas(frame).repartition(8).materialize()
    given = {"bank": Bank.open(_path()), "key": KEY, "features": names}

    def total(result: Any) -> float:
        return float(result.sum("prediction"))

    ways = {
        "mlpbank.ray.Predictor": lambda: total(
            dataset.map_batches(
                Predictor, fn_constructor_kwargs=given, batch_format="pyarrow", concurrency=2
            )
        ),
        "map_batches, a torch module for each key": lambda: total(
            dataset.map_batches(
                _TorchModels,
                fn_constructor_kwargs={"names": names},
                batch_format="pandas",
                concurrency=2,
            )
        ),
    }
    try:
        return _timed(f"Ray Data, 2 actors, {rows} rows by 2602 models", ways, progress)
    finally:
        ray.shutdown()
