"""2000 models in a BatchedInference and in a Bank, and the calls that keep them busy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from mlpbank import Architecture, Bank, BatchedInference

ARCH = Architecture.mlp(32, 64, 64, 1)
N = 2000
WEIGHTS = {
    f"layer_{i}": np.ones((N, s.input_size, s.output_size), np.float32)
    for i, s in enumerate(ARCH.layers)
}
ONE = {name: array[0] for name, array in WEIGHTS.items()}
X = np.ones((N, 32), np.float32)

inference = BatchedInference(N, ARCH)
inference.weights.load_stacked(WEIGHTS)
bank = Bank.from_stacked(np.arange(N), ARCH, WEIGHTS)


def add() -> None:
    bank[5] = ONE


def remove() -> None:
    bank.add(N + 1, ONE)
    with contextlib.suppress(KeyError):  # another thread was first
        del bank[N + 1]


CALLS: dict[str, Callable[[], object]] = {
    "forward": lambda: inference.forward(X),
    "by_slots": lambda: inference.forward(X, models=np.arange(N)[::-1]),
    "predict": lambda: bank.predict(np.arange(1000)[::-1], X[:1000]),
    "add": add,
    "remove": remove,
    "load": lambda: inference.weights.load_stacked(WEIGHTS),
    "get": lambda: inference.weights.get(3),
    "freeze": lambda: list(bank),
}
