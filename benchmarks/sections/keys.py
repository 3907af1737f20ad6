"""What it takes to look a key up, for each kind of keys and of column.

Time of the thread, so that other processes count little. A dict and pandas' Index are beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.step import Step
from benchmarks.table import Nanoseconds, Row, Table
from mlpbank import Architecture, Bank
from mlpbank.bench.measure import Progress

ARCH = Architecture.mlp(1, 1)
REPEATS = 5
CHANGES = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--models", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--keys", type=int, default=1_000_000, help="of a call")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return a step for each number of models."""
    return [
        Step(f"keys of {models} models", partial(_measure, models, args.keys))
        for models in args.models
    ]


def _measure(models: int, count: int, progress: Progress) -> Table:
    rng = np.random.default_rng(0)
    numbers = rng.choice(10**12, models, replace=False)
    asked = rng.integers(0, models, count)
    kinds: dict[str, list[Any]] = {
        "str": [f"shop-{number}" for number in numbers],
        "int": numbers.tolist(),
        "tuple": [(f"shop-{number % 1000}", number) for number in numbers.tolist()],
    }
    rows: list[Row] = []
    for i, (kind, keys) in enumerate(kinds.items()):
        progress(i / len(kinds), kind)
        bank = Bank.from_stacked(keys, ARCH, {"layer_0": np.zeros((models, 1, 1), np.float32)})
        given = _columns(kind, [keys[slot] for slot in asked.tolist()])
        before = {name: _nanoseconds(partial(bank.handles, column)) for name, column in given}
        _change(bank, keys)
        for name, column in given:
            rows.append(
                {
                    "": f"{kind}, {name}",
                    "a key": before[name],
                    f"after {CHANGES} changes": _nanoseconds(partial(bank.handles, column)),
                    **_peers(keys, column),
                }
            )
    return Table(f"Looking up {count} random keys of {models}", rows)


def _columns(kind: str, keys: list[Any]) -> list[tuple[str, Any]]:
    """Return columns of keys with their names."""
    found: list[tuple[str, Any]] = [("list", keys)]
    if kind == "tuple":
        return found
    objects = np.empty(len(keys), object)
    objects[:] = keys
    found += [("NumPy", np.array(keys)), ("NumPy, object", objects)]
    if importlib.util.find_spec("pandas") is not None:
        import pandas as pd

        found.append(("pandas, category", pd.Series(keys).astype("category")))
    return found


def _change(bank: Bank, keys: list[Any]) -> None:
    """Remove and add models again and again, and leave all as they were."""
    rng = np.random.default_rng(1)
    for i in rng.integers(0, len(keys), CHANGES // 2).tolist():
        model = bank[keys[i]]
        del bank[keys[i]]
        bank[keys[i]] = model


def _peers(keys: list[Any], column: Any) -> dict[str, Nanoseconds]:
    """Return how long a dict takes for a list, and an Index of pandas for an array."""
    if isinstance(column, list):
        known = {key: i for i, key in enumerate(keys)}
        return {"dict": _nanoseconds(lambda: [known[key] for key in column], len(column))}
    if isinstance(column, np.ndarray) and importlib.util.find_spec("pandas") is not None:
        import pandas as pd

        index = pd.Index(keys)
        return {"Index.get_indexer": _nanoseconds(partial(index.get_indexer, column), len(column))}
    return {}


def _nanoseconds(call: Callable[[], Any], count: int | None = None) -> Nanoseconds:
    """Return the shortest time of some calls, divided by the number of keys."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.thread_time_ns()
        result = call()
        best = min(best, time.thread_time_ns() - start)
    return Nanoseconds(best / (len(result) if count is None else count))
