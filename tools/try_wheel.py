"""Install a wheel into an empty environment and run the tests there, without any compiler.

    python tools/try_wheel.py dist/mlpbank-*-cp311-*.whl [--extra test-threads] [PYTEST-ARGUMENTS]

The environment has what the wheel's extra lists, all of it as wheels, and its PATH holds nothing
else: no compiler, no CMake, no binutils. Tests marked `compiler` are left out; any other that looks
for such a program fails. By default all of tests/ runs but tests/quality, which is about the source
tree.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from build_wheels import ROOT, find_pythons

BUILD_TOOLS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "ld", "ar", "cmake", "make", "ninja")
ABOUT_THE_TREE = "tests/quality"
# What would change which compiler, library or module is found.
CLEARED = r"(CC|CXX|CFLAGS|CXXFLAGS|LDFLAGS|LD_.*|PYTHON.*|SKBUILD_.*|CMAKE_.*|VIRTUAL_ENV)"


def python_of(wheel: Path) -> Path:
    """Return the CPython of this machine that a wheel is for."""
    tag = re.search(r"-cp3(\d+)-", wheel.name)
    if tag is None:
        sys.exit(f"error: expected a wheel for CPython, got {wheel.name}")
    for python in find_pythons():
        command = [python, "-c", "import sys; print(sys.version_info[1])"]
        minor = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if minor.strip() == tag[1]:
            return python
    sys.exit(f"error: {wheel.name} needs CPython 3.{tag[1]}, which is not on this machine")


def bare_environment(folder: Path) -> dict[str, str]:
    """Return environment variables with which only the programs of an environment are found."""
    kept = {name: value for name, value in os.environ.items() if not re.fullmatch(CLEARED, name)}
    kept["PATH"] = str(folder / "bin")
    found = [tool for tool in BUILD_TOOLS if shutil.which(tool, path=kept["PATH"])]
    if found:
        sys.exit(f"error: expected an environment without build tools, found {', '.join(found)}")
    return kept


def main() -> int:
    """Try the wheel that the command line names. Return pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--extra", default="test-wheel", help="of pyproject.toml (%(default)s)")
    arguments, of_pytest = parser.parse_known_args()
    if not any(Path(argument.partition("::")[0]).exists() for argument in of_pytest):
        folders = sorted(path.parent for path in (ROOT / "tests").glob("*/test_*.py"))
        of_pytest += dict.fromkeys(str(p) for p in folders if p != ROOT / ABOUT_THE_TREE)
    with tempfile.TemporaryDirectory() as scratch:
        environment = Path(scratch) / "environment"
        python = environment / "bin/python"
        subprocess.run([python_of(arguments.wheel), "-m", "venv", environment], check=True)
        wheel = f"{arguments.wheel.resolve()}[{arguments.extra}]"
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, *install, "--only-binary", ":all:", wheel], check=True)
        command = [python, "-m", "pytest", "-m", "not compiler", *of_pytest]
        done = subprocess.run(command, cwd=ROOT, env=bare_environment(environment), check=False)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
