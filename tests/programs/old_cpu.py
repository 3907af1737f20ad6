"""Import, predict, and print the instruction sets that there are and an error about one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import mlpbank
import reference

# Small integers: every result is exact in any order of operations.
LAYOUTS: Any = ("panel", "lane")
rng = np.random.default_rng(0)
arch = mlpbank.Architecture.mlp(7, 18, 3)
for layout in LAYOUTS:
    inference = mlpbank.BatchedInference(20, arch, layout=layout)
    stacked = {
        f"layer_{i}": rng.integers(-3, 4, (20, s.input_size, s.output_size)).astype("f4")
        for i, s in enumerate(arch.layers)
    }
    models = [{name: array[m] for name, array in stacked.items()} for m in range(20)]
    inference.weights.load_stacked(stacked)
    for rows in (1, 5, 20, 50):
        x = rng.integers(-3, 4, (20, rows, 7)).astype("f4")
        expected = [reference.forward(arch, model, x[m]) for m, model in enumerate(models)]
        np.testing.assert_array_equal(inference.forward(x), expected)
tanh = mlpbank.BatchedInference(1, mlpbank.Architecture.mlp(1, 1, output_activation="tanh"))
tanh.load_weights(0, {"layer_0": [1.0]})
points = np.linspace(-5, 5, 101, dtype="f4")
# By math: NumPy's own tanh gathers from memory, which qemu 7.2 gets wrong.
exact = [math.tanh(point) for point in points.tolist()]
assert np.abs(tanh.forward(points.reshape(1, -1, 1)).reshape(-1) - exact).max() < 4 * 2.0**-24
print(",".join(mlpbank.available_isas()), inference.engine.isa)
try:
    mlpbank.Engine(isa="avx512")
except ValueError as error:
    print(error)
