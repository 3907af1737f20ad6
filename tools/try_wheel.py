"""Install a wheel into an empty environment and run the tests there, without compiler and headers.

    python tools/try_wheel.py dist/mlpbank-*-cp311-*.whl [--extra test-threads] [PYTEST-ARGUMENTS]

The environment has what the wheel's extra lists, all of it as wheels, and its PATH holds nothing
else: no compiler, no CMake, no binutils. The headers of the system and of Python are hidden, and
what compilers consist of: empty folders are mounted over theirs (`unshare` of util-linux; who is
not root needs user namespaces). Tests marked `compiler` are left out; any other that looks for such
a thing fails. By default all of tests/ runs but tests/quality, which is about the source tree.
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

from build_wheels import ROOT, find_python

COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++")
BUILD_TOOLS = (*COMPILERS, "ld", "ar", "cmake", "make", "ninja")
# Where headers lie, and the parts of compilers: a compiler that is named by its path has none then.
HIDDEN = ("/usr/include", "/usr/local/include", "/usr/lib/gcc*", "/usr/lib/llvm*", "/usr/*/include")
HEADERS = "import sysconfig; print(sysconfig.get_path('include'))"
# Mounts something empty over each argument before --, and goes on as what follows it.
MOUNT = (
    'while [ "$1" != -- ]; do "$0" -t tmpfs -o ro none "$1" || exit; shift; done; shift; exec "$@"'
)
ABOUT_THE_TREE = "tests/quality"
# What would change which compiler, library or module is found.
CLEARED = r"(CC|CXX|CFLAGS|CXXFLAGS|LDFLAGS|LD_.*|PYTHON.*|SKBUILD_.*|CMAKE_.*|VIRTUAL_ENV)"


def python_of(wheel: Path) -> Path:
    """Return the CPython of this machine that a wheel is for."""
    tag = re.search(r"-cp3(\d+)-", wheel.name)
    if tag is None:
        sys.exit(f"error: expected a wheel for CPython, got {wheel.name}")
    python = find_python(f"3.{tag[1]}")
    if python is None:
        sys.exit(f"error: {wheel.name} needs CPython 3.{tag[1]}, which is not on this machine")
    return python


def bare_environment(folder: Path) -> dict[str, str]:
    """Return environment variables with which only the programs of an environment are found."""
    kept = {name: value for name, value in os.environ.items() if not re.fullmatch(CLEARED, name)}
    kept["PATH"] = str(folder / "bin")
    found = [tool for tool in BUILD_TOOLS if shutil.which(tool, path=kept["PATH"])]
    if found:
        sys.exit(f"error: expected an environment without build tools, found {', '.join(found)}")
    return kept


def hiding(python: Path) -> list[str]:
    """Return the command before a command that runs it without compilers and headers.

    It is tried here: every compiler of this machine must fail to compile.
    """
    asked = subprocess.run([python, "-c", HEADERS], capture_output=True, text=True, check=True)
    places = [asked.stdout.strip()]
    places += sorted(str(path) for name in HIDDEN for path in Path("/").glob(name[1:]))
    tools = [shutil.which(name) for name in ("unshare", "sh", "mount")]
    if not all(tools):
        sys.exit("error: unshare, sh and mount (util-linux) are needed to hide headers")
    unshare, shell, mount = map(str, tools)
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    outermost = {place for place in places if not set(map(str, Path(place).parents)) & set(places)}
    folders = sorted(place for place in outermost if Path(place).is_dir())
    prefix = [unshare, *user, "--mount", shell, "-c", MOUNT, mount, *folders, "--"]
    tried = subprocess.run([*prefix, shell, "-c", ":"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        sys.exit(f"error: headers cannot be hidden here: {tried.stderr.strip()}")
    for compiler in filter(None, map(shutil.which, COMPILERS)):
        command = [*prefix, compiler, "-fsyntax-only", "-x", "c", "-"]
        done = subprocess.run(
            command, input="#include <stdio.h>\n", capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            sys.exit(
                f"error: expected no compiler, but {compiler} compiles: add its parts to HIDDEN"
            )
    print("hidden:", *folders)
    return prefix


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
        base = python_of(arguments.wheel)
        subprocess.run([base, "-m", "venv", environment], check=True)
        wheel = f"{arguments.wheel.resolve()}[{arguments.extra}]"
        # Compiling all modules of all libraries takes a minute.
        install = ["-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
        subprocess.run([python, *install, "--only-binary", ":all:", wheel], check=True)
        command = [*hiding(base), python, "-m", "pytest", "-m", "not compiler", *of_pytest]
        done = subprocess.run(command, cwd=ROOT, env=bare_environment(environment), check=False)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
