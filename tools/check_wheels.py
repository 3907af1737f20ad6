"""Check that Linux wheels ask for no more than their tags promise.

    python tools/check_wheels.py wheelhouse/*.whl

A tag manylinux_2_28_x86_64 says: runs on x86-64 with glibc 2.28 or newer, and needs nothing besides
but what every system of that age has. Each compiled file is read (elf.py), and the versions of the
symbols that it takes from libraries outside of the wheel are compared with the tag.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

from elf import Library, read_library

MOST_BYTES = 3_000_000
# What a wheel may load from the system, without versions.
GLIBC = r"(libc|libm|libpthread|libdl|librt)\.so\.\d+|ld-linux.*\.so\.\d+"
MUSL = r"libc\.musl-\w+\.so\.1|libc\.so"
COMPILER = r"(libgcc_s|libstdc\+\+)\.so\.\d+"
# The newest versions that the oldest systems with this glibc have, as auditwheel's policies say.
COMPILER_VERSIONS = {
    (2, 17): {"GCC": (4, 8), "GLIBCXX": (3, 4, 19), "CXXABI": (1, 3, 7)},
    (2, 28): {"GCC": (7,), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)},
    (2, 34): {"GCC": (7,), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13)},
}
Version = tuple[int, ...]


def version_of(text: str) -> Version:
    """Return 2.28 as (2, 28)."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def platform_of(wheel: Path) -> tuple[str, Version, str]:
    """Return the kind of C library, the oldest version and the machine that a wheel is for.

    Raises
    ------
    ValueError
        The file's name has no such tag.
    """
    tags = wheel.stem.split("-")[-1].split(".")
    found = [re.fullmatch(r"(manylinux|musllinux)_(\d+)_(\d+)_(\w+)", tag) for tag in tags]
    matches = [match for match in found if match]
    if not matches:
        raise ValueError(f"expected a tag such as manylinux_2_28_x86_64, got {'.'.join(tags)}")
    oldest = min(matches, key=lambda match: (int(match[2]), int(match[3])))
    return oldest[1], (int(oldest[2]), int(oldest[3])), oldest[4]


def library_problems(library: Library, kind: str, tag: Version, inside: set[str]) -> list[str]:
    """Return what a library asks for and its tag does not promise."""
    system = f"{GLIBC if kind == 'manylinux' else MUSL}|{COMPILER}"
    problems = [
        f"loads {name}, which the system may not have: put it into the wheel (auditwheel repair)"
        for name in library.needed
        if name not in inside and not re.fullmatch(system, name)
    ]
    if not library.is_stripped:
        problems.append("has symbols or debug information: link it with -s")
    oldest = max((age for age in COMPILER_VERSIONS if age <= tag), default=None)
    promised: dict[str, Version] = dict(COMPILER_VERSIONS[oldest]) if oldest else {}
    if kind == "manylinux":
        promised["GLIBC"] = tag
    for file, wanted in library.versions.items():
        if file in inside:
            continue
        for name in wanted:
            family, _, number = name.partition("_")
            if family not in promised:
                problems.append(f"wants {name} of {file}, of which its tag says nothing")
            elif not number[:1].isdigit() or version_of(number) > promised[family]:
                newest = ".".join(map(str, promised[family]))
                problems.append(f"wants {name} of {file}; its tag promises {family}_{newest}")
    return problems


def wheel_problems(wheel: Path) -> list[str]:
    """Return all that is wrong with a wheel, a line each."""
    try:
        kind, tag, machine = platform_of(wheel)
    except ValueError as error:
        return [f"{wheel.name}: {error}"]
    problems = []
    if wheel.stat().st_size > MOST_BYTES:
        problems.append(
            f"{wheel.name}: expected at most {MOST_BYTES} bytes, got {wheel.stat().st_size}"
        )
    with zipfile.ZipFile(wheel) as archive:
        compiled = [name for name in archive.namelist() if re.search(r"\.so(\.[\d.]+)?$", name)]
        if not compiled:
            problems.append(f"{wheel.name}: expected a compiled module, got none")
        inside = {Path(name).name for name in compiled}
        for name in compiled:
            library = read_library(archive.read(name))
            found = library_problems(library, kind, tag, inside)
            if library.machine != machine:
                found.append(f"is for {library.machine}")
            named = re.search(r"\.cpython-\d+t?-(\w+?)-linux-(gnu|musl)", name)
            if named and named[1] != machine:
                found.append(f"has a name that Python on {machine} does not look for")
            problems += [f"{wheel.name}: {name} {problem}" for problem in found]
    return problems


def main(paths: list[str]) -> int:
    """Print what is wrong with wheels. Return the exit status."""
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    problems = [problem for path in paths for problem in wheel_problems(Path(path))]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        for path in paths:
            print(f"{Path(path).name}: {Path(path).stat().st_size} bytes, as its tag says")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
