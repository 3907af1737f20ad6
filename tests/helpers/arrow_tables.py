"""Banks and tables for the tests of Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import Architecture, Bank


def sum_bank(*keys: Any) -> Bank:
    """Return a bank of models of two features: (i + 1) * (p + 10 * q) for the i-th key."""
    bank = Bank(Architecture.mlp(2, 1))
    for i, key in enumerate(keys):
        bank[key] = {"layer_0": [i + 1, 10 * (i + 1)]}
    return bank


def random_bank(models: int, inputs: int, outputs: int, **options: Any) -> Bank:
    """Return a bank with keys "key-0", "key-1", ..."""
    rng = np.random.default_rng(models)
    keys = [f"key-{i}" for i in range(models)]
    weights = {"layer_0": rng.standard_normal((models, inputs, outputs)).astype(np.float32)}
    return Bank.from_stacked(keys, Architecture.mlp(inputs, outputs), weights, **options)


class Table:
    """A table of a library that nobody knows: an Arrow stream and nothing else."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


class Batch:
    """A record batch of such a library."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self._batch.__arrow_c_array__(requested_schema)


def features(count: int, inputs: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(count).standard_normal((count, inputs)).astype(np.float32)
