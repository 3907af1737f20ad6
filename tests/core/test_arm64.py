"""ARM64 gives the bits of x86-64: cross-compiled, in qemu-user. `nox -s arm` runs all tests so."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases import BuildCore, program

QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
pytestmark = pytest.mark.slow


def skip_without(*programs: str) -> None:
    """Skip the test where one of the programs is not installed."""
    for name in programs:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed, which the tests on ARM64 need")


@pytest.fixture(scope="module")
def arm64_build(build_core: BuildCore) -> Path:
    """The folder of a build for ARM64 as users get it."""
    skip_without("aarch64-linux-gnu-g++", QEMU[0])
    return build_core("--preset", "arm64", targets=("bits_test", "kernel_test"))


@pytest.mark.parametrize("name", ["bits_test", "kernel_test"])
def test_core_on_arm64(arm64_build: Path, name: str) -> None:
    """bits_test knows the bits of x86-64, kernel_test tries every register tile."""
    done = subprocess.run(
        [*QEMU, arm64_build / name], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def innermost_loops(function: str) -> Iterator[str]:
    """Yield the instructions from a branch's target to the branch, if no other loop is inside."""
    lines = list(re.finditer(r"^ *([0-9a-f]+):\t.*\n", function, re.MULTILINE))
    position = {int(line[1], 16): i for i, line in enumerate(lines)}
    loops = []
    for last, line in enumerate(lines):
        branch = re.search(r"\t(?:b\.\w+|[ct]bn?z)\t.*\b([0-9a-f]+) <", line[0])
        first = position.get(int(branch[1], 16)) if branch else None
        if first is not None and first <= last:
            loops.append((first, last))
    for first, last in loops:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in loops):
            yield "".join(line[0] for line in lines[first : last + 1])


def test_no_register_tile_goes_through_memory(arm64_build: Path) -> None:
    """In the loops of all tiles no vector is written to the stack or read from there."""
    (path,) = arm64_build.glob("**/kernel_neon.dir/**/*.o")
    command = [program("aarch64-linux-gnu-objdump"), "-d", "--no-show-raw-insn", path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    tiles = 0
    for function in listing.split("\n\n"):
        for loop in innermost_loops(function):
            if loop.count("\tfmla\t") < 8 or ("_tile" not in function and "_pass" not in function):
                continue
            tiles += 1
            assert not re.search(r"\t(ld|st)u?[rp]\t[qds]\d+.*\[sp", loop), loop
    assert tiles > 200


def test_python_on_arm64(root: Path) -> None:
    """Calls of every kind give the same bits there, and files from x86-64 can be read."""
    skip_without("aarch64-linux-gnu-g++", QEMU[0])
    if platform.freedesktop_os_release()["ID"] != "debian":
        pytest.skip("only Debian's own archive has packages for ARM64 beside those of this machine")
    folder = root / "build/arm64-python"
    part = ("tests/core/test_engine.py", "tests/core/test_bits.py", "tests/files/test_format.py")
    variables = {"PYTHONPATH": "", "PYTEST_ADDOPTS": ""}
    for command in (
        (sys.executable, "tools/arm64_python.py", folder),
        (folder / "bin/python", "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *part),
    ):
        done = subprocess.run(
            command,
            cwd=root,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
