"""500 models whose forward is long enough for helpers, and the threads of this process.

Loading one model at a time starts no helper.
"""

from __future__ import annotations

import os
import time

import numpy as np

import mlpbank


def tasks() -> int:
    """Return the number of threads of this process."""
    return len(os.listdir("/proc/self/task"))


def tasks_become(number: int) -> bool:
    """Wait for a number of threads: a call does not wait until its helpers have started."""
    deadline = time.monotonic() + 20
    while tasks() != number and time.monotonic() < deadline:
        time.sleep(0.01)
    return tasks() == number


inference = mlpbank.BatchedInference(500, mlpbank.Architecture.mlp(32, 64, 64, 1))
rng = np.random.default_rng(0)
for model in range(500):
    inference.load_weights(
        model,
        {
            "layer_0": rng.standard_normal(32 * 64),
            "layer_1": rng.standard_normal(64 * 64),
            "layer_2": rng.standard_normal(64),
        },
    )
X = rng.standard_normal((500, 8, 32)).astype("f4")
SERIAL = inference.forward(X, num_threads=1)
BUDGET = int(mlpbank.cpu_budget())
BEFORE = tasks()  # NumPy's BLAS has threads of its own


def is_right() -> bool:
    return np.array_equal(inference.forward(X), SERIAL)
