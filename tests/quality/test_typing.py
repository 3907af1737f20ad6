"""What a type checker tells users: the strings that arguments take, and what calls give back."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

import mlpbank

PROGRAM = """
from typing_extensions import assert_type  # comes with mypy

import numpy as np

import mlpbank
from mlpbank import Architecture, Bank, BatchedInference, BatchedWeights, Engine, StackedModels
from mlpbank.typing import DtypeName, Float32Array, Key, Layout, Missing, Weights

arch = Architecture.mlp(3, 2, activation="tanh")
missing: Missing = "nan"
layout: Layout = "panel"
bank = Bank(arch, dtype="int8", layout=layout, engine=Engine(isa="avx2"))
Bank(arch, dtype=np.float16)
Bank(arch, dtype=np.dtype("int8"))
bank["a"] = {"layer_0": np.zeros((3, 2))}
assert_type(bank["a"], Weights)
assert_type(bank.dtype, DtypeName)
assert_type(bank.to_stacked(), StackedModels)
assert_type(list(bank), list[Key])
assert_type(Bank.from_stacked(*bank.to_stacked(), layout="lane"), Bank)
assert_type(bank.predict(["a"], [[1, 2, 3]], missing=missing), Float32Array)
assert_type(bank.predict_handles(bank.handles(["a"]), [[1, 2, 3]], missing="error"), Float32Array)
assert_type(BatchedInference(2, arch).forward([[1, 2, 3]] * 2, missing="nan"), Float32Array)
BatchedWeights(2, arch, dtype="bfloat16")
"""

WRONG = (
    'Bank(arch, dtype="float64")',
    'Bank(arch, layout="rows")',
    'Engine(isa="sse")',
    'bank.predict(["a"], [[1]], missing="ignore")',
    "bank.predict_handles([0], [[1]], missing=True)",
    'bank.predict_frame(None, key="a", features=["b"], missing="none")',
    'BatchedInference(1, arch).forward([[1]], missing="fallback")',
    'BatchedWeights(1, arch, dtype="half")',
    'bank.predict(["a"], [[1]], threads=2)',
)


@pytest.mark.slow
def test_mypy_knows_what_arguments_may_be(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM + "".join(line + "\n" for line in WRONG))
    environment = {**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("MYPYPATH", None)
    folder = str(Path(mlpbank.__file__).parents[1])
    if folder not in site.getsitepackages():  # mypy looks there itself, and refuses to be told to
        environment["MYPYPATH"] = folder
    command = [sys.executable, "-m", "mypy", "--strict", str(path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    first = PROGRAM.count("\n") + 1
    found = {
        int(line.split(":")[1])
        for line in done.stdout.splitlines()
        if line.startswith("program.py")
    }
    assert found == set(range(first, first + len(WRONG))), done.stdout + done.stderr
