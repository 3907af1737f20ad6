"""The package imports and gives right answers on other CPUs, which qemu-user emulates."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
QEMU = shutil.which("qemu-x86_64")
pytestmark = [
    pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 (package qemu-user) is not installed"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="these CPUs are of x86-64"),
]

# The oldest CPU that NumPy's wheels run on, one with AVX2, and one with AVX but neither AVX2 nor
# FMA.
CPUS = {"Nehalem": "portable", "SandyBridge": "portable", "Haswell": "avx2,portable"}


def run(cpu: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert QEMU is not None
    command = [QEMU, "-cpu", cpu, sys.executable, *arguments]
    paths = [str(TESTS / "helpers"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("cpu", CPUS)
def test_import_and_forward(cpu: str, tmp_path: Path) -> None:
    done = run(cpu, tmp_path, str(TESTS / "programs/old_cpu.py"))
    if done.returncode != 0:
        # NumPy can be built for newer CPUs, and then nothing that needs it runs there.
        alone = run(cpu, tmp_path, "-c", "import numpy")
        if alone.returncode != 0:
            lines = [*alone.stderr.splitlines(), f"it ended with status {alone.returncode}"]
            reason = " ".join(lines[-2:])
            pytest.skip(f"NumPy {np.__version__} itself cannot be imported on a {cpu}: {reason}")
    if re.search("TCG doesn't support .*avx2", done.stderr) and CPUS[cpu] != "portable":
        pytest.skip("qemu-x86_64 emulates AVX2 from version 7.2 on")
    assert done.returncode == 0, done.stderr
    isas = CPUS[cpu].split(",")
    quoted = ", ".join(repr(isa) for isa in isas)
    assert done.stdout.splitlines() == [
        f"{CPUS[cpu]} {isas[0]}",
        f"isa: expected one of {quoted}, got 'avx512', which this CPU does not support",
    ]
