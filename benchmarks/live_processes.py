"""Processes that follow a live bank for the section `live`, and what they all work on."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from mlpbank import Architecture, Bank, LiveBank
from mlpbank.typing import Float32Array, Layout, Sync, Weights

_SPAWN = multiprocessing.get_context("spawn")
_END = b"end"


def make(path: Path, sizes: tuple[int, ...], models: int, layout: Layout = "panel") -> Bank:
    """Save a bank of random models as a live folder, and return it."""
    arch = Architecture.mlp(*sizes)
    rng = np.random.default_rng(0)
    weights = {
        f"layer_{i}": rng.standard_normal((models, s.input_size, s.output_size), np.float32)
        for i, s in enumerate(arch.layers)
    }
    bank = Bank.from_stacked(keys_of(models), arch, weights, layout=layout)
    bank.save(path, live=True)
    return bank


def keys_of(models: int) -> list[str]:
    return [f"sensor-{i:08d}" for i in range(models)]


def opened(path: Path, sync: Sync | None = None) -> LiveBank:
    """Open a folder: to follow it, or to change it where `sync` is given."""
    bank = Bank.open(path) if sync is None else Bank.open(path, writable=True, sync=sync)
    assert isinstance(bank, LiveBank)
    return bank


def constant(arch: Architecture, value: float) -> Weights:
    """Return a model all of whose answers are `value`."""
    last = len(arch.layers) - 1
    found = {
        f"layer_{i}": np.zeros((s.input_size, s.output_size), np.float32)
        for i, s in enumerate(arch.layers)
    }
    return {**found, f"layer_{last}.bias": np.full(arch.output_size, value, np.float32)}


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make a folder that goes in the end."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        yield Path(temporary).resolve()


class Child:
    """Another process that runs `function(connection, *arguments)`.

    An exception of it ends the benchmark.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=function, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *what: Any) -> Any:
        """Send something, and return the answer."""
        self._connection.send(what)
        return self.answer()

    def send(self, *what: Any) -> None:
        self._connection.send(what)

    def answer(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a follower ended with {self._process.exitcode}") from None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()


def react(connection: Connection, path: Path, key: str) -> None:
    """Predict all the time, and tell when each new answer came."""
    bank = opened(path)
    x = np.ones(bank.architecture.input_size, np.float32)
    seen = float(bank.predict(key, x)[0])
    connection.send(seen)
    while not connection.poll():
        began = time.perf_counter()
        while time.perf_counter() < began + 0.01:
            answer = float(bank.predict(key, x)[0])
            if answer != seen:
                connection.send((time.perf_counter(), answer))
                seen = answer


def open_times(connection: Connection, path: Path, small: Path, key: str, times: int) -> None:
    """Tell how long opening takes, and the first predict, in seconds."""
    opened(small).predict(key, np.ones(4, np.float32))
    found = []
    for _ in range(times):
        began = time.perf_counter()
        bank = opened(path)
        half = time.perf_counter()
        bank.predict(key, np.ones(4, np.float32))
        found.append((half - began, time.perf_counter() - half))
        bank.close()
        del bank
        gc.collect()
    connection.send(found)


def memory(connection: Connection, path: Path, key: str) -> None:
    """Follow when asked, and tell how much memory is this process's alone."""
    bank = opened(path)
    x = np.ones(bank.architecture.input_size, np.float32)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        bank.predict(key, x)
        gc.collect()
        connection.send((bank.sequence, private_bytes()))


def private_bytes() -> int:
    """Return the memory of this process that lies in no file.

    Not Private_Dirty: there Linux counts pages of mapped files, too, until they are on the disk.
    """
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("Anonymous:", "Swap:"))
    )


def predict_paced(
    connection: Connection, path: Path, period: float, refresh: float, number: int
) -> None:
    """Predict for all models each `period` seconds, and tell when calls began and how long.

    `refresh`: seconds between takeovers by a thread beside the calls; 0: there is none.
    """
    bank = opened(path)
    if refresh:
        threading.Thread(target=_refresh, args=(bank, refresh), daemon=True).start()
    keys = list(bank)
    x = np.random.default_rng(number).random((len(keys), bank.architecture.input_size), np.float32)
    out: Float32Array = np.empty((len(keys), bank.architecture.output_size), np.float32)
    for _ in range(20):
        bank.predict(keys, x, out=out, num_threads=1)
    connection.send(os.getpid())
    due = time.perf_counter() + np.random.default_rng(number).random() * period
    calls = []
    gc.disable()
    while not connection.poll():
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        bank.predict(keys, x, out=out, num_threads=1)
        calls.append((began, time.perf_counter() - began))
        due = max(due + period, began)
    connection.send(calls)


def _refresh(bank: LiveBank, period: float) -> None:
    while True:
        bank.refresh()
        time.sleep(period)
