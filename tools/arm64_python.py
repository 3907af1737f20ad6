"""Make a CPython for ARM64 that runs on this machine in qemu-user, with mlpbank for its tests.

    python tools/arm64_python.py FOLDER [--wheel]
    FOLDER/bin/python -m pytest

Debian's packages for ARM64 are unpacked below FOLDER/root, nothing is installed. FOLDER is a
virtual environment whose `python` is a script that starts qemu-user. pip builds in there; CMake's
preset `arm64` compiles the core with the cross compiler. With --wheel what is installed is a wheel
as a release would have it (build_wheels.py).

Needs Debian, whose archive has packages for ARM64 beside those of other machines, with qemu-user,
and g++-aarch64-linux-gnu or what build_wheels.py needs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from build_wheels import ROOT, find_python

TARGET = "aarch64-linux-gnu.2.28"
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


def install(python: Path, wheel: Path) -> None:
    """Install a wheel with what its tests about threads need. This machine's pip unpacks faster."""
    (folder,) = python.parents[1].glob("lib/python3.*/site-packages")
    command = [sys.executable, "-m", "pip", "install", "--no-compile", "--only-binary", ":all:"]
    command += ["--upgrade", "--target", str(folder)]
    command += ["--python-version", folder.parent.name.removeprefix("python")]
    for platform in ("linux", *(f"manylinux_2_{minor}" for minor in range(17, 29))):
        command += ["--platform", f"{platform}_aarch64"]
    subprocess.run([*command, f"{wheel}[test-threads]"], check=True)


def install_wheel(python: Path) -> None:
    """Build a wheel for ARM64 with this machine's CPython of the same version, and install it."""
    (library,) = python.parents[1].glob("lib/python3.*")
    own = find_python(library.name.removeprefix("python"))
    if own is None:
        sys.exit(f"error: expected {library.name} on this machine, to build a wheel for it")
    with tempfile.TemporaryDirectory() as scratch:
        target = ("--target", TARGET, "--python", str(own))
        tool = str(ROOT / "tools/build_wheels.py")
        subprocess.run([sys.executable, tool, scratch, *target], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        install(python, wheel)


def install_package(python: Path, root: Path) -> None:
    """Cross-compile mlpbank and install it."""
    (headers,) = root.glob("usr/include/python3.[0-9]*[0-9]")
    arguments = [
        "--preset=arm64",
        "-DMLPBANK_BUILD_PYTHON=ON",
        "-DMLPBANK_BUILD_TESTS=OFF",
        f"-DPython_INCLUDE_DIR={headers}",
        # pyconfig.h is in a folder of the architecture's.
        f"-DCMAKE_CXX_FLAGS=-idirafter {headers.parent}",
    ]
    build = {
        "PYTHONPATH": "",
        "SKBUILD_CMAKE_ARGS": ";".join(arguments),
        "SKBUILD_BUILD_DIR": str(python.parents[1] / "build"),
    }
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "wheel", "--no-deps"]
        command = [*pip, "--wheel-dir", scratch, str(ROOT)]
        subprocess.run(command, env={**os.environ, **build}, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        install(python, wheel)


def make(folder: Path, wheel: bool) -> Path:
    """Make all of it, or of an existing one only the package anew. Return its python."""
    root = folder / "root"
    if not (folder / "pyvenv.cfg").exists():
        unpack_packages(root, folder / "apt")
        make_environment(folder, root)
    python = folder / "bin/python"
    if wheel:
        install_wheel(python)
    else:
        install_package(python, root)
    return python


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheel", action="store_true", help="install a wheel, as users do")
    given = parser.parse_args()
    print(make(given.folder.resolve(), given.wheel))
