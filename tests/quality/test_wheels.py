"""Wheels ask for no more than their tags promise, and run where no compiler is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from check_wheels import MOST_BYTES, library_problems, platform_of, wheel_problems
from elf import Library, read_library
from try_wheel import hiding

import mlpbank
from cases import RunPython, program

CORE = Path(mlpbank._core.__file__)
MACHINE = os.uname().machine


def make_wheel(folder: Path, tag: str, padding: int = 0) -> Path:
    """Return a wheel that holds this environment's core."""
    path = folder / f"mlpbank-1.0-cp311-cp311-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(CORE, f"mlpbank/{CORE.name}")
        archive.writestr("mlpbank/padding", os.urandom(padding))
    return path


@pytest.mark.compiler
def test_the_reader_sees_what_readelf_sees() -> None:
    library = read_library(CORE.read_bytes())
    read = [program("readelf"), "--wide", "--version-info", "--dynamic", CORE]
    output = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    assert library.needed == re.findall(r"\(NEEDED\).*\[(.+)\]", output)
    files = re.findall(r"Version: 1  File: (\S+)  Cnt: (\d+)", output)
    assert {file: len(names) for file, names in library.versions.items()} == {
        file: int(count) for file, count in files
    }
    names = {name for names in library.versions.values() for name in names}
    assert names == set(re.findall(r"  Name: (\S+)  Flags:.*Version: \d", output))
    assert any(name.startswith("GLIBC_2.") for name in names)
    assert library.machine == MACHINE


def test_newer_symbols_than_the_tag_says_are_noticed(tmp_path: Path) -> None:
    problems = wheel_problems(make_wheel(tmp_path, f"manylinux_2_3_{MACHINE}"))
    assert any(re.search(r"wants GLIBC_2\.\d+ of libc\.so\.6; .* GLIBC_2\.3$", p) for p in problems)


@pytest.mark.parametrize(
    ("tag", "platform"),
    [
        ("manylinux_2_28_x86_64", ("manylinux", (2, 28), "x86_64")),
        ("manylinux_2_26_x86_64.manylinux_2_28_x86_64", ("manylinux", (2, 26), "x86_64")),
        ("musllinux_1_2_aarch64", ("musllinux", (1, 2), "aarch64")),
    ],
)
def test_the_oldest_tag_counts(tag: str, platform: tuple[str, tuple[int, ...], str]) -> None:
    assert platform_of(Path(f"mlpbank-1.0-cp311-cp311-{tag}.whl")) == platform


@pytest.mark.parametrize(
    ("library", "problem"),
    [
        (Library("x86_64", ["libgomp.so.1"]), "loads libgomp.so.1, which"),
        (Library("x86_64", is_stripped=False), "has symbols"),
        (Library("x86_64", versions={"libc.so.6": ["GLIBC_2.29"]}), "wants GLIBC_2.29 of libc"),
        (Library("x86_64", versions={"libc.so.6": ["GLIBC_PRIVATE"]}), "wants GLIBC_PRIVATE"),
        (Library("x86_64", versions={"libm.so.6": ["NEW_1"]}), "wants NEW_1 of libm.so.6, of"),
        (Library("x86_64", versions={"libstdc++.so.6": ["GLIBCXX_3.4.25"]}), "wants GLIBCXX_3.4"),
        (Library("x86_64", ["libc.so.6"], {"libc.so.6": ["GLIBC_2.28", "GLIBC_2.2.5"]}), None),
        (Library("x86_64", ["mine.so.1"], {"mine.so.1": ["OWN_9"]}), None),
    ],
)
def test_what_a_library_may_ask_for(library: Library, problem: str | None) -> None:
    problems = library_problems(library, "manylinux", (2, 28), {"mine.so.1"})
    assert len(problems) == (problem is not None)
    assert problem is None or problems[0].startswith(problem)


def test_wheels_of_other_machines_and_large_ones_are_noticed(tmp_path: Path) -> None:
    (problem,) = wheel_problems(make_wheel(tmp_path, "linux_x86_64"))
    assert "expected a tag such as manylinux_2_28_x86_64, got linux_x86_64" in problem
    problems = wheel_problems(make_wheel(tmp_path, "manylinux_2_99_riscv64", MOST_BYTES))
    assert any(f"expected at most {MOST_BYTES} bytes" in problem for problem in problems)
    assert any(problem.endswith(f"is for {MACHINE}") for problem in problems)
    assert any("a name that Python on riscv64 does not look for" in problem for problem in problems)


@pytest.mark.compiler
def test_a_compiler_and_headers_are_hidden_from_a_wheel() -> None:
    try:
        prefix = hiding(Path(sys.executable))
    except SystemExit as error:
        if "cannot be hidden here" not in str(error):
            raise
        pytest.skip(str(error))
    listed = [program("ls"), "/usr/include"]
    outside, inside = (
        subprocess.run([*before, *listed], capture_output=True, text=True, check=True).stdout
        for before in ([], prefix)
    )
    assert "stdio.h" in outside
    assert inside == ""
    command = [*prefix, program("c++"), "-fsyntax-only", "-x", "c++", "/dev/null"]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def build_sdist(tree: Path, folder: Path, umask: int) -> Path:
    """Build an sdist from a source tree."""
    script = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, folder], cwd=tree, check=True, umask=umask)
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.mark.slow
def test_equal_sources_make_equal_sdists(root: Path, tmp_path: Path) -> None:
    """Also from copies with other times, that are built by users with other habits."""
    pytest.importorskip("scikit_build_core")
    sdists = []
    for copy, umask in [("one", 0o022), ("two", 0o077)]:
        tree = tmp_path / copy
        left_out = shutil.ignore_patterns(".git", "build", "dist", ".*_cache", "__pycache__")
        shutil.copytree(root, tree, ignore=left_out, copy_function=shutil.copyfile)
        sdists.append(build_sdist(tree, tmp_path / f"sdist-{copy}", umask))
    assert sdists[0].read_bytes() == sdists[1].read_bytes()
    with tarfile.open(sdists[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "CMakeLists.txt", "LICENSE", "cpp/python/module.cpp"} <= names
    assert {"tests/conftest.py", "tools/zig.cmake", "noxfile.py", "docs/index.md"} <= names
    assert not any(re.search(r"\.so$|^build/|__pycache__|^\.git/", name) for name in names)


def without_network() -> list[str]:
    """Return what runs a command without any network, where this user may do that."""
    for user in ([], ["--map-root-user"]):
        command = ["unshare", *user, "--net"]
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], check=False).returncode == 0
        ):
            return command
    return []


@pytest.mark.slow
@pytest.mark.compiler
def test_the_sdist_installs_without_a_network(
    root: Path, tmp_path: Path, run_python: RunPython
) -> None:
    for needed in ("scikit_build_core", "pybind11"):
        pytest.importorskip(needed)
    (tmp_path / "dist").mkdir()
    sdist = build_sdist(root, tmp_path / "dist", 0o022)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-build-isolation",
        "--no-index",
        "--no-deps",
    ]
    # What is compiled quickly, without symbols for debuggers, shows as much.
    quick = {
        "SKBUILD_CMAKE_BUILD_TYPE": "Debug",
        "SKBUILD_CMAKE_DEFINE": "MLPBANK_KERNEL_OPTIMIZATION=-O0;CMAKE_CXX_FLAGS_DEBUG=-O0",
        "SKBUILD_BUILD_DIR": str(tmp_path / "build"),
    }
    installed = tmp_path / "installed"
    command = [*without_network(), *pip, "--target", installed, sdist]
    subprocess.run(command, env={**os.environ, **quick}, check=True)
    script = """
        import mlpbank
        bank = mlpbank.Bank.from_models(
            {"a": {"layer_0": [[2.0]]}}, mlpbank.Architecture.mlp(1, 1, activation="none")
        )
        print(mlpbank._core.__file__, bank.predict(["a"], [[3.0]]))
    """
    core, result = run_python(script, PYTHONPATH=str(installed)).split(maxsplit=1)
    assert (Path(core).parents[1], result) == (installed, "[[6.]]")
