"""End while twelve daemon threads are without the GIL: end_with_daemons.py CALL."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from thread_models import X, inference

WEIGHTS = inference.weights.get(3)
STACKED = {name: np.stack([array] * 500) for name, array in WEIGHTS.items()}
SLOTS = np.arange(500)[::-1].copy()
CALLS: dict[str, Callable[[], object]] = {
    "forward": lambda: inference.forward(X),
    "slots": lambda: inference.forward(X, models=SLOTS),
    "shared": lambda: inference.forward_shared(X[0]),
    "load": lambda: inference.load_weights(3, WEIGHTS),
    "load_stacked": lambda: inference.weights.load_stacked(STACKED),
    "unload": lambda: inference.unload(4),
    "get": lambda: inference.weights.get(3),
    "copy": lambda: inference.weights.__reduce__(),
}
call = CALLS[sys.argv[1]]
call()  # here, where an error ends the program with a status
begun = threading.Semaphore(0)


def repeat() -> None:
    begun.release()
    while True:
        call()


for _ in range(12):
    threading.Thread(target=repeat, daemon=True).start()
for _ in range(12):
    begun.acquire()
time.sleep(0.02)
