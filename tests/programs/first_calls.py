"""Makes the first calls of a process in 16 threads, while every import gives up the GIL."""

from __future__ import annotations

import builtins
import faulthandler
import sys
import threading
import time
from typing import Any

import numpy as np

import mlpbank
import mlpbank.serving

faulthandler.dump_traceback_later(50, exit=True)  # should they wait for each other
plain_import = builtins.__import__


def slow_import(*arguments: Any, **named: Any) -> Any:
    time.sleep(0.01)
    return plain_import(*arguments, **named)


THREADS = 16
architecture = mlpbank.Architecture.mlp(2, 1)
bank = mlpbank.Bank(architecture)
inference = mlpbank.BatchedInference(1, architecture)
x = np.ones((1, 2), np.float32)
barrier = threading.Barrier(THREADS)
finished: list[int] = []


def first_call() -> None:
    barrier.wait()
    if sys.argv[1] == "batcher":
        mlpbank.serving.MicroBatcher(bank)
    else:
        assert np.isnan(inference.forward(x, missing="nan")).all()
    finished.append(1)


builtins.__import__ = slow_import
threads = [threading.Thread(target=first_call, daemon=True) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(finished) == THREADS
print("done")
