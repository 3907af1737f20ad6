"""Ctrl-C between any two instructions of a call: ctrl_c.py readers|changes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable

import numpy as np

from mlpbank import Architecture, Bank

# A job in the background of a shell begins with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def until_ctrl_c(call: Callable[[], object]) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(random.uniform(0.0005, 0.002), interrupt)
    try:
        timer.start()
        while True:
            call()
    except KeyboardInterrupt:
        pass
    with contextlib.suppress(KeyboardInterrupt):
        timer.join()


def readers() -> None:
    """No reader is left behind: slots of removed models are used again."""
    bank = Bank(Architecture.mlp(4, 8, 1))
    one = {"layer_0": np.ones((4, 8)), "layer_1": np.ones((8, 1))}
    for key in range(10):
        bank[key] = one
    x = np.ones((1, 4), np.float32)
    handles = bank.handles([3])
    calls: list[Callable[[], object]] = [
        lambda: bank.predict([3], x),
        lambda: bank.predict_handles(handles, x),
        lambda: bank[3],
    ]
    for turn in range(150):
        until_ctrl_c(calls[turn % 3])
    before = bank.nbytes, bank._weights.num_models
    for i in range(3000):
        bank[100 + i] = one
        del bank[100 + i]
    assert (bank.nbytes, bank._weights.num_models) == before


def changes() -> None:
    """A change is one step: a model, its key, its version and its count come and go together."""
    bank = Bank(Architecture.mlp(1, 1))
    i = 0

    def change() -> None:
        nonlocal i
        i += 1
        key = i % 7
        bank.add(key, {"layer_0": [[float(i)]]}, version=str(i))
        if i % 3 == 0 and key in bank:
            del bank[key]

    for _ in range(200):
        until_ctrl_c(change)
        keys = list(bank)
        assert len(keys) == len(bank) == len(set(keys))
        for key in range(7):
            assert (key in keys) == (key in bank)
            if key in bank:
                assert str(int(bank.predict(key, [1.0])[0])) == bank.info(key).version, key
    assert bank._weights.num_models < 50


globals()[sys.argv[1]]()
