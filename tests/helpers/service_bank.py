"""The bank and the requests of the tests of the example service, and the check of an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from cases import one_model, random_weights
from http_client import Connection
from mlpbank import Architecture, Bank

T = TypeVar("T")
UVICORN = ("uvicorn", "app:app", "--port", "{port}")
GUNICORN = ("gunicorn", "-c", "gunicorn.conf.py", "app:app")
ARCHITECTURE = Architecture.mlp(6, 16, 2, activation="tanh")
MODELS = 50
KEYS = [f"model-{i}" for i in range(MODELS)]
WEIGHTS = [random_weights(ARCHITECTURE, MODELS, np.random.default_rng(seed)) for seed in (0, 1)]
BANKS = [Bank.from_stacked(KEYS, ARCHITECTURE, weights) for weights in WEIGHTS]
X = np.random.default_rng(7).standard_normal((200, 6)).astype(np.float32)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(coroutine, 120)

    return asyncio.run(limited())


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a minute at most."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "still not so after a minute"
        time.sleep(0.05)


def question(*rows: tuple[int, int]) -> dict[str, Any]:
    """Ask for (model, row of X) pairs."""
    return {"keys": [KEYS[model] for model, _ in rows], "rows": [X[i].tolist() for _, i in rows]}


def right(answer: Any, bank: Bank, *rows: tuple[int, int]) -> bool:
    """Whether these are the predictions of a bank, to the last bit."""
    expected = bank.predict([KEYS[model] for model, _ in rows], X[[i for _, i in rows]])
    return np.array_equal(np.array(answer["predictions"], np.float32), expected)


def weights_json(revision: int, model: int) -> dict[str, Any]:
    weights = {name: array.tolist() for name, array in one_model(WEIGHTS[revision], model).items()}
    return {"version": str(revision), "weights": weights}


async def connections_to_each_worker(port: int, count: int) -> dict[int, list[Connection]]:
    """Return open connections by their worker's process id, to at least `count` workers."""
    found: dict[int, list[Connection]] = {}
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        batch = [Connection(port) for _ in range(8)]
        for connection, answer in zip(
            batch, await asyncio.gather(*(c.request("GET", "/healthz") for c in batch)), strict=True
        ):
            found.setdefault(answer[1]["worker"], []).append(connection)
    assert len(found) == count
    return found


async def close(*found: dict[int, list[Connection]]) -> None:
    """Close what `connections_to_each_worker` opened."""
    for connection in (
        c for workers in found for connections in workers.values() for c in connections
    ):
        await connection.close()
