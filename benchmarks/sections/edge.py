"""Calls by key: one row, few keys, and tables of a million rows with a column of keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.step import Step, part_of, table_of
from benchmarks.table import Factor, Microseconds, Milliseconds, Row, Table
from mlpbank import Architecture, Bank, BatchedInference
from mlpbank.bench.contender import Contender
from mlpbank.bench.measure import Comparison, Progress, compare

SIZES = (32, 64, 64, 1)
MODELS, ROWS = 10_000, 1_000_000
KEYS = (1, 10, 100)  # of a call

Array = npt.NDArray[Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--divide", type=int, default=1, help="models and rows, for a quick look")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the section's steps."""
    models, rows = (max(2 * max(KEYS), n // args.divide) for n in (MODELS, ROWS))
    return [
        Step("one row by key", partial(_one_row, models, args.seconds)),
        Step("few keys", partial(_few_keys, models, args.seconds)),
        Step("tables", partial(_tables, models, rows, args.seconds)),
    ]


def stacked(models: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return weights and biases of random models."""
    rng = np.random.default_rng(0)
    weights = {}
    for i, layer in enumerate(_architecture().layers):
        shape = (models, layer.input_size, layer.output_size)
        spread = layer.input_size**-0.5
        weights[f"layer_{i}"] = rng.normal(0, spread, shape).astype(np.float32)
        weights[f"layer_{i}.bias"] = rng.normal(0, 0.1, shape[::2]).astype(np.float32)
    return weights


def numpy_models(weights: dict[str, Any], count: int) -> dict[str, Callable[[Array], Array]]:
    """Return a model by key as people write them: matrix products and maxima."""

    def model(i: int) -> Callable[[Array], Array]:
        layers = [(weights[f"layer_{j}"][i], weights[f"layer_{j}.bias"][i]) for j in range(3)]
        *hidden, (last, last_bias) = layers

        def run(x: Array) -> Array:
            for w, b in hidden:
                x = np.maximum(x @ w + b, 0)
            return x @ last + last_bias

        return run

    return {_key(i): model(i) for i in range(count)}


def _architecture() -> Architecture:
    return Architecture.mlp(*SIZES, activation="relu")


def _key(i: int) -> str:
    return f"shop-{i}"


def _calls(calls: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Contender]]:
    """Return what builds a contender of each call."""
    return {
        name: partial(Contender, name, call, call, ours="NumPy" not in name)
        for name, call in calls.items()
    }


def _same_as(expected: Array, contender: Contender) -> str | None:
    found = np.asarray(contender.output()).reshape(-1)
    close = found.shape == expected.shape and np.allclose(found, expected, 1e-3, 1e-4)
    return None if close else f"expected {expected[:3]}, got {found[:3]}"


def _one_row(models: int, seconds: float, progress: Progress) -> Table:
    weights = stacked(models)
    slot = models // 2
    text = Bank.from_stacked([_key(i) for i in range(models)], _architecture(), weights)
    number = Bank.from_stacked(np.arange(models), _architecture(), weights)
    alone = BatchedInference(1, _architecture())
    alone.load_weights(0, {name: array[slot] for name, array in weights.items()})
    x = np.random.default_rng(1).standard_normal(SIZES[0]).astype(np.float32)
    rows, key = x[None], _key(slot)
    handles = text.handles([key])
    by_hand = numpy_models(weights, models)
    first = "forward, the one model alone"
    found = compare(
        _calls(
            {
                first: lambda: alone.forward(rows),
                "bank.predict(key, x), str": lambda: text.predict(key, x),
                "bank.predict(key, x), int": lambda: number.predict(slot, x),
                "bank.predict([key], x)": lambda: text.predict([key], rows),
                "bank.predict_handles": lambda: text.predict_handles(handles, rows),
                "a dict of NumPy models": lambda: by_hand[key](x),
            }
        ),
        partial(_same_as, alone.forward(rows)[0]),
        seconds=seconds,
        progress=progress,
    )
    table_rows: list[Row] = [
        {
            "": timing.name,
            "median": Microseconds(timing.median_us),
            "forward's time": Factor(timing.speedup),
            "NumPy's time": Factor(timing.median_us / found.us("a dict of NumPy models")),
        }
        for timing in found.timings
    ]
    return table_of(f"One row for one of {models} × 32-64-64-1", table_rows, found)


def _few_keys(models: int, seconds: float, progress: Progress) -> Table:
    weights = stacked(models)
    bank = Bank.from_stacked([_key(i) for i in range(models)], _architecture(), weights)
    slots_of = BatchedInference(models, _architecture())
    slots_of.weights.load_stacked(weights)
    by_hand = numpy_models(weights, models)
    rows: list[Row] = []
    results: list[Comparison] = []
    for i, count in enumerate(KEYS):
        rng = np.random.default_rng(count)
        slots = rng.choice(models, count, replace=False)
        keys = [_key(slot) for slot in slots.tolist()]
        x = rng.standard_normal((count, SIZES[0])).astype(np.float32)
        handles = bank.handles(keys)

        def loop(keys: list[str] = keys, x: Array = x) -> Array:
            return np.concatenate([by_hand[key](row) for key, row in zip(keys, x, strict=True)])

        calls: dict[str, Callable[[], Any]] = {
            "by key": partial(bank.predict, keys, x),
            "by handle": partial(bank.predict_handles, handles, x),
            "by slot": partial(slots_of.forward, x, models=slots),
            "NumPy": loop,
        }
        found = compare(
            _calls(calls),
            partial(_same_as, slots_of.forward(x, models=slots)[:, 0]),
            seconds=seconds / len(KEYS),
            progress=part_of(progress, i, KEYS, f"{count} keys"),
        )
        results.append(found)
        times = {name: Microseconds(found.us(name)) for name in calls}
        rows.append({"": f"{count} keys" if count > 1 else "1 key", **times})
    return table_of(f"Few of {models} × 32-64-64-1, one row each", rows, *results)


def _tables(models: int, count: int, seconds: float, progress: Progress) -> Table:
    weights = stacked(models)
    bank = Bank.from_stacked([_key(i) for i in range(models)], _architecture(), weights)
    rng = np.random.default_rng(2)
    slots = rng.integers(0, models, count)
    x = rng.standard_normal((count, SIZES[0])).astype(np.float32)
    names = [f"x{i}" for i in range(SIZES[0])]
    keys = [_key(slot) for slot in slots.tolist()]
    handles = bank.handles(keys)
    expected = bank.predict_handles(handles, x)[:, 0]

    def over(name: str, make: Callable[[Keys, Names, Array], Any]) -> Contender:
        frame = make(keys, names, x)
        run = partial(bank.predict_frame, frame, key="key", features=names)
        return Contender(name, run, run, ours=True)

    ready = _calls({"predict_handles, ready arrays": partial(bank.predict_handles, handles, x)})
    found = compare(
        {**ready, **{name: partial(over, name, make) for name, make in _FRAMES.items()}},
        partial(_same_as, expected),
        seconds=seconds,
        progress=progress,
    )
    rows: list[Row] = [
        {
            "": timing.name,
            "median": Milliseconds(timing.median_us / 1e3),
            "of predict_handles": Factor(timing.speedup),
        }
        for timing in found.timings
    ]
    return table_of(f"{count} rows × 32 features for {models} × 32-64-64-1", rows, found)


Keys, Names = Sequence[str], Sequence[str]


def _pandas(keys: Keys, names: Names, x: Array, *, categorical: bool = False) -> Any:
    import pandas

    frame = pandas.DataFrame(x, columns=list(names))
    column = pandas.Series(keys, dtype=object)
    frame["key"] = column.astype("category") if categorical else column
    return frame


def _polars(keys: Keys, names: Names, x: Array, *, categorical: bool = False) -> Any:
    import polars

    columns = {name: x[:, i] for i, name in enumerate(names)}
    column = polars.Series("key", keys)
    return polars.DataFrame(columns).with_columns(
        column.cast(polars.Categorical) if categorical else column
    )


def _arrow(keys: Keys, names: Names, x: Array, *, dictionary: bool = False) -> Any:
    import pyarrow

    column = pyarrow.array(keys)
    columns = {name: x[:, i] for i, name in enumerate(names)}
    return pyarrow.table({"key": column.dictionary_encode() if dictionary else column, **columns})


_FRAMES: dict[str, Callable[[Keys, Names, Array], Any]] = {
    "pandas, str": _pandas,
    "pandas, categories": partial(_pandas, categorical=True),
    "polars, str": _polars,
    "polars, categories": partial(_polars, categorical=True),
    "pyarrow, str": _arrow,
    "pyarrow, dictionary": partial(_arrow, dictionary=True),
}
