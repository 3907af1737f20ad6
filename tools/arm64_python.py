"""Make a CPython for ARM64 that runs on this machine in qemu-user, with mlpbank for its tests.

    python tools/arm64_python.py FOLDER
    FOLDER/bin/python -m pytest

Debian's packages for ARM64 are unpacked below FOLDER/root, nothing is installed. FOLDER is a
virtual environment whose `python` is a script that starts qemu-user. pip runs in there; CMake's
preset `arm64` compiles the core with the cross compiler.

Needs Debian, whose archive has packages for ARM64 beside those of other machines, with qemu-user
and g++-aarch64-linux-gnu.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("python3", "libpython3-dev", "libgomp1", "libstdc++6")


def unpack_packages(root: Path, state: Path) -> None:
    """Unpack PACKAGES and all that they depend on. apt keeps a state of its own."""
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Debug::NoLocking": 1,
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    subprocess.run([*apt, "update"], check=True)
    install = ["install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES]
    subprocess.run([*apt, *install], check=True, stdout=subprocess.DEVNULL)
    for package in sorted((state / "archives").glob("*.deb")):
        subprocess.run(["dpkg", "--extract", package, root], check=True)


def make_environment(folder: Path, root: Path) -> Path:
    """Write a virtual environment whose python runs in qemu-user. Return its python."""
    (interpreter,) = root.glob("usr/bin/python3.[0-9]*[0-9]")
    (folder / "lib" / interpreter.name / "site-packages").mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    python = folder / "bin/python"
    python.parent.mkdir(exist_ok=True)
    # Programs start sys.executable again, so that has to be this script.
    python.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L "{root}" -0 "$0" "{interpreter}" "$@"\n')
    python.chmod(0o755)
    return python


def install_package(python: Path, root: Path) -> None:
    """Cross-compile mlpbank and install it with what its tests about threads need."""
    (headers,) = root.glob("usr/include/python3.[0-9]*[0-9]")
    arguments = [
        "--preset=arm64",
        "-DMLPBANK_BUILD_PYTHON=ON",
        "-DMLPBANK_BUILD_TESTS=OFF",
        f"-DPython_INCLUDE_DIR={headers}",
        # pyconfig.h is in a folder of the architecture's.
        f"-DCMAKE_CXX_FLAGS=-idirafter {headers.parent}",
    ]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-compile"]
    variables = {
        "SKBUILD_CMAKE_ARGS": ";".join(arguments),
        "SKBUILD_BUILD_DIR": str(python.parents[1] / "build"),
        "PYTHONPATH": "",
    }
    subprocess.run([*pip, f"{ROOT}[test-threads]"], env=os.environ | variables, check=True)


def make(folder: Path) -> Path:
    """Make all of it, or of an existing one only the package anew. Return its python."""
    root = folder / "root"
    if not (folder / "pyvenv.cfg").exists():
        unpack_packages(root, folder / "apt")
        make_environment(folder, root)
    python = folder / "bin/python"
    install_package(python, root)
    return python


if __name__ == "__main__":
    print(make(Path(sys.argv[1]).resolve()))
