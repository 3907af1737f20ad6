"""CPUs that this machine is not, by qemu-user: the package must import and give right answers on all of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

QEMU = shutil.which("qemu-x86_64")
pytestmark = pytest.mark.skipif(
    QEMU is None, reason="qemu-x86_64 (package qemu-user) is not installed"
)

# Small integers: every result is exact, whatever rounds how.
SCRIPT = """
import math

import numpy as np
import mlpbank
import reference

rng = np.random.default_rng(0)
arch = mlpbank.Architecture.mlp(7, 18, 3)
for layout in ("panel", "lane"):
    bi = mlpbank.BatchedInference(20, arch, layout=layout)
    stacked = {
        f"layer_{i}": rng.integers(-3, 4, (20, s.input_size, s.output_size)).astype("f4")
        for i, s in enumerate(arch.layers)
    }
    bi.weights.load_stacked(stacked)
    for rows in (1, 5, 20, 50):
        x = rng.integers(-3, 4, (20, rows, 7)).astype("f4")
        expected = [
            reference.forward(arch, {name: array[m] for name, array in stacked.items()}, x[m]) for m in range(20)
        ]
        np.testing.assert_array_equal(bi.forward(x), expected)
tanh = mlpbank.BatchedInference(1, mlpbank.Architecture.mlp(1, 1, output_activation="tanh"))
tanh.load_weights(0, {"layer_0": [1.0]})
points = np.linspace(-5, 5, 101, dtype="f4")
# By math, since NumPy's own tanh gathers from memory, which qemu 7.2 gets wrong.
expected = [math.tanh(x) for x in points.tolist()]
assert np.abs(tanh.forward(points.reshape(1, -1, 1)).reshape(-1) - expected).max() < 4 * 2.0**-24
print(",".join(mlpbank.available_isas()), bi.engine.isa)
try:
    mlpbank.Engine(isa="avx512")
except ValueError as error:
    print(error)
"""

# The oldest CPU that NumPy's wheels run on, one with AVX2, and one with AVX but neither AVX2 nor
# FMA.
CPUS = {"Nehalem": "portable", "SandyBridge": "portable", "Haswell": "avx2,portable"}


def run(cpu: str, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    assert QEMU is not None
    command = [QEMU, "-cpu", cpu, sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize("cpu", CPUS)
def test_import_and_forward(cpu: str, tmp_path: Path) -> None:
    done = run(cpu, SCRIPT, tmp_path)
    if done.returncode != 0:
        # NumPy can be built for newer CPUs, and then nothing that needs it runs there.
        alone = run(cpu, "import numpy", tmp_path)
        if alone.returncode != 0:
            reason = [
                *alone.stderr.strip().splitlines(),
                f"it ended with status {alone.returncode}",
            ]
            pytest.skip(
                f"NumPy {np.__version__} itself cannot be imported on a {cpu}: {' '.join(reason[-2:])}"
            )
    if re.search("TCG doesn't support .*avx2", done.stderr) and CPUS[cpu] != "portable":
        pytest.skip("qemu-x86_64 emulates AVX2 from version 7.2 on")
    assert done.returncode == 0, done.stderr
    isas = CPUS[cpu].split(",")
    quoted = ", ".join(repr(isa) for isa in isas)
    assert done.stdout.splitlines() == [
        f"{CPUS[cpu]} {isas[0]}",
        f"isa: expected one of {quoted}, got 'avx512', which this CPU does not support",
    ]
