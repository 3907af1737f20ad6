"""What the tests of MicroBatcher share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from cases import random_weights
from mlpbank import Architecture, Bank

T = TypeVar("T")
Float32Array = np.ndarray[Any, np.dtype[np.float32]]
ARCHITECTURE = Architecture.mlp(5, 8, 3, activation="tanh")
MODELS = 40


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or fail after a time that no loaded machine needs."""

    async def limited() -> T:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(limited(), debug=False)


def make_bank(architecture: Architecture = ARCHITECTURE, seed: int = 0) -> Bank:
    weights = random_weights(architecture, MODELS, np.random.default_rng(seed))
    return Bank.from_stacked([f"model-{i}" for i in range(MODELS)], architecture, weights)


class Gate:
    """Holds the predictions of a bank, which run in the worker, until it is opened."""

    def __init__(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.calls: list[list[str]] = []
        self._open = threading.Event()
        predict = bank.predict

        def held(keys: Any, x: Any, **options: Any) -> Any:
            self.calls.append(list(keys))
            self.entered.release()
            assert self._open.wait(60)
            return predict(keys, x, **options)

        monkeypatch.setattr(bank, "predict", held)

    async def someone_is_inside(self) -> None:
        await asyncio.to_thread(self.entered.acquire)

    def open(self) -> None:
        self._open.set()


def row(seed: int = 0, *shape: int) -> Float32Array:
    return np.random.default_rng(seed).standard_normal((*shape, 5)).astype(np.float32)


async def outcomes(*awaitables: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


async def tick() -> None:
    """Let everything that is ready run a few times."""
    for _ in range(10):
        await asyncio.sleep(0)
