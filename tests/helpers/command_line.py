"""The command line in a process of its own, and a bank for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cases import Float32Array
from mlpbank import Architecture, Bank

ARCHITECTURE = Architecture.mlp(3, 4, 2, activation="tanh")


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "mlpbank", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def make_bank(keys: list[Any]) -> Bank:
    rng = np.random.default_rng(1)
    shapes = {"layer_0": (3, 4), "layer_0.bias": (4,), "layer_1": (4, 2), "layer_1.bias": (2,)}
    weights = {
        name: rng.normal(size=(len(keys), *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    bank = Bank.from_stacked(keys, ARCHITECTURE, weights, version="v7", fallback=keys[0])
    bank.metadata = {"features": ["b", "a", "c"], "unit": "°C"}
    return bank


def rows(n: int) -> Float32Array:
    return np.random.default_rng(2).normal(size=(n, 3)).astype(np.float32)
