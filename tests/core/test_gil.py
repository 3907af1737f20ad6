"""Calls give the GIL to other threads while they compute or may wait."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cases import (
    ISAS,
    architecture,
    case,
    one_model,
    random_weights,
)
from mlpbank import (
    Activation,
    Architecture,
    Bank,
)

pytestmark = pytest.mark.threads

# Far longer than anything here takes: it turns a hang into a failure.
TIMEOUT = 120


def long_calls(layout: str) -> dict[str, Callable[[], object]]:
    """Return calls that take milliseconds, each by another way into the core."""
    c = case(architecture((128, 128, 128), Activation.TANH), 64, 200)
    inference = c.inference(ISAS[-1], layout, 1)
    slots = np.arange(64)[::-1].copy()
    small = case(architecture((4, 8, 2), Activation.TANH), 1, 100_000)
    rows = small.inference(ISAS[-1], layout, 1)
    x = small.x[0, :, None]
    weights = c.batched_weights(layout)
    return {
        "direct": lambda: inference.forward(c.x),
        "num_threads": lambda: inference.forward(c.x, num_threads=1),
        "slots": lambda: inference.forward(c.x, models=slots),
        "slots in order": lambda: inference.forward(c.x, models=range(64)),
        "shared": lambda: inference.forward_shared(c.x[0]),
        "rows of one small model": lambda: rows.forward(small.x),
        "slots of one small model": lambda: rows.forward(x, models=np.zeros(len(x), int)),
        "load": lambda: weights.load_stacked(c.weights),
        "load one": lambda: weights.load(3, one_model(c.weights, 3)),
        "get": lambda: weights.get(3),
        "copy": lambda: weights.__reduce__(),
    }


LONG_CALLS = (
    *(
        "direct",
        "num_threads",
        "slots",
        "slots in order",
        "shared",
        "rows of one small model",
        "slots of one small model",
    ),
    *("load", "load one", "get", "copy"),
)


def others_run_during(call: Callable[[], object]) -> bool:
    """Return whether another thread runs Python while `call` does, in one of many calls.

    No thread gives the GIL away by itself here, so that it can only be the core's releasing it.
    Many calls, since the system need not run the other thread at once.
    """
    count, stop = 0, threading.Event()

    def counter() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)  # hands the GIL back

    thread = threading.Thread(target=counter, daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            before = count
            call()
            if count != before:
                return True
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join(TIMEOUT)
    return False


@pytest.mark.parametrize("name", LONG_CALLS)
def test_other_python_threads_run_during(layout: str, name: str) -> None:
    assert others_run_during(long_calls(layout)[name])


@pytest.mark.parametrize("by", ["dense", "num_threads", "shared", "handles", "keys"])
def test_other_python_threads_run_during_short_calls_of_mapped_banks(
    layout: str, by: str, tmp_path: Path
) -> None:
    """Pages of the file may come from disk, so no call is certain to be short."""
    arch = Architecture.mlp(4, 8, 2)
    weights = random_weights(arch, 2, np.random.default_rng(0))
    Bank.from_stacked(["a", "b"], arch, weights, layout=layout).save(tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank")
    inference, x, handles = (
        bank._state.inference,
        np.zeros((2, 4), np.float32),
        bank.handles(["b", "a"]),
    )
    calls: dict[str, Callable[[], object]] = {
        "dense": lambda: inference.forward(x),
        "num_threads": lambda: inference.forward(x, num_threads=1),
        "shared": lambda: inference.forward_shared(x[0]),
        "handles": lambda: bank.predict_handles(handles, x),
        "keys": lambda: bank.predict(["b", "a"], x),
    }
    assert others_run_during(calls[by])


@pytest.mark.parametrize("name", ["add", "remove", "info", "freeze", "set key type", "unload"])
def test_other_python_threads_run_while_a_bank_may_wait_for_its_lock(name: str) -> None:
    """The holder of the lock may take long, so no such call is certain to be short."""
    bank = Bank(Architecture.mlp(4, 2))
    weights = {"layer_0": np.ones((4, 2), np.float32), "layer_0.bias": np.ones(2, np.float32)}
    bank["a"] = weights
    core = bank._slot_map.core
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: bank.add("a", weights),
        "remove": lambda: core.remove("none"),
        "info": lambda: core.info("a"),
        "freeze": lambda: core.freeze(True),
        "set key type": lambda: core.set_key_type(str),
        "unload": lambda: bank._weights.unload(0),
    }
    assert others_run_during(calls[name])
