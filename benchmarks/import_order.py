"""Print the time of the fastest forward in us after imports: import_order.py LIBRARY..."""

from __future__ import annotations

import importlib
import sys
import time

import numpy as np

for library in sys.argv[1:]:
    importlib.import_module(library)

import mlpbank  # noqa: E402

arch = mlpbank.Architecture.mlp(32, 64, 64, 1)
inference = mlpbank.BatchedInference(1000, arch)
inference.weights.load_stacked(
    {
        f"layer_{i}": np.ones((1000, s.input_size, s.output_size), "f4")
        for i, s in enumerate(arch.layers)
    }
)
x, out = np.ones((1000, 32), "f4"), np.empty((1000, 1), "f4")
times = []
for _ in range(4000):
    start = time.perf_counter()
    inference.forward(x, out=out)
    times.append(time.perf_counter() - start)
print(min(times) * 1e6)  # the one that others on the machine disturbed least
