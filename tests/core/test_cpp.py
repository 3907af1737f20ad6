"""The Python-free check of tests/cpp, as users' compilers build the core and under sanitizers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cases import BuildCore, program

pytestmark = pytest.mark.compiler

# Instrumented, the kernels take minutes to compile at -O3 and seconds at -O0. Warnings are errors
# in the plain build only: instrumented code sets off false ones.
QUICK = ("-DMLPBANK_WERROR=OFF", "-DCMAKE_BUILD_TYPE=Debug", "-DMLPBANK_KERNEL_OPTIMIZATION=-O0")


def run(path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **variables}
    # The program has its own sanitizers or none; Python may run under others.
    env.pop("LD_PRELOAD", None)
    return subprocess.run([path], env=env, capture_output=True, text=True, timeout=600, check=False)


def check_passes(path: Path, **variables: str) -> None:
    done = run(path, **variables)
    assert done.returncode == 0, done.stdout + done.stderr


def check_has(path: Path, *symbols: str) -> None:
    """Check that the build did what it was asked for."""
    names = subprocess.run([program("nm"), path], capture_output=True, text=True, check=True).stdout
    for symbol in symbols:
        assert symbol in names


CHECKS = (
    "allocation_test",
    "arrow_hostile_test",
    "arrow_test",
    "bank_test",
    "bits_test",
    "core_test",
    "kernel_test",
    "keys_test",
    "many_cores_test",
    "pages_test",
    "rows_test",
    "swap_test",
    "threads_test",
)

# Half a minute without optimisation; the Python tests compare kernels with each other by default.
LONG = ("kernel_test",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in CHECKS],
)
def test_core_without_python(core_build: Path, name: str) -> None:
    check_passes(core_build / name)


@pytest.mark.slow
def test_core_under_address_and_undefined_behaviour_sanitizers(build_core: BuildCore) -> None:
    folder = build_core("-DMLPBANK_SANITIZE=address,undefined", *QUICK)
    for name in CHECKS:
        check_has(folder / name, "__asan_init", "__ubsan_handle")
        check_passes(
            folder / name, ASAN_OPTIONS="detect_leaks=1", UBSAN_OPTIONS="print_stacktrace=1"
        )


@pytest.mark.slow
def test_core_without_openmp(build_core: BuildCore) -> None:
    folder = build_core("-DMLPBANK_OPENMP=OFF", *QUICK)
    for name in CHECKS:
        check_passes(folder / name)
        command = [program("nm"), folder / name]
        symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # A weak one is looked for where another library may have brought OpenMP.
        assert not re.search(r" [^w] (GOMP_|__kmp|omp_)", symbols)


def other_compilers() -> list[str]:
    """Return the names of compilers of this machine that have their version in the name."""
    names = [f"g++-{version}" for version in range(11, 20)]
    names += [f"clang++-{version}" for version in range(14, 40)]
    return [name for name in names if shutil.which(name)]


@pytest.mark.slow
def test_another_compiler_gives_the_same_bits(build_core: BuildCore) -> None:
    """The oldest and the newest; `nox -s compilers` has all of them, at full optimisation."""
    compilers = other_compilers()
    if not compilers:
        pytest.skip("this machine has no other compiler")
    for compiler in {compilers[0], compilers[-1]}:
        options = (f"-DCMAKE_CXX_COMPILER={compiler}", "-DMLPBANK_KERNEL_OPTIMIZATION=-O1")
        programs = ("bits_test", "kernel_test")
        folder = build_core(*options, "-DMLPBANK_OPENMP=OFF", targets=programs)
        for name in programs:
            check_passes(folder / name)


@pytest.mark.parametrize(
    ("family", "lie", "found"),
    [("g++", "-D__GNUC__=10", "GNU 10."), ("clang++", "-D__clang_major__=13", "Clang 13.")],
)
def test_older_compilers_are_refused(
    root: Path, tmp_path: Path, family: str, lie: str, found: str
) -> None:
    """One line says what is needed."""
    names = [name for name in (family, *other_compilers()) if name.startswith(family)]
    compiler = next(filter(shutil.which, names), None)
    if compiler is None:
        pytest.skip("this machine has no other compiler")
    macro = lie.removeprefix("-D").partition("=")[0]
    older = tmp_path / "older"
    older.write_text(f'#!/bin/sh\nexec {compiler} -w -U{macro} {lie} "$@"\n')
    older.chmod(0o755)
    command = [program("cmake"), "-S", root, "-B", tmp_path / "build"]
    done = subprocess.run(
        [*command, f"-DCMAKE_CXX_COMPILER={older}"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "error: mlpbank needs GCC 11 or Clang 14 or later; " in said
    assert f"is {found}" in said


@pytest.mark.slow
def test_threads_under_thread_sanitizer(build_core: BuildCore) -> None:
    folder = build_core("-DMLPBANK_SANITIZE=thread", *QUICK)
    for name in (
        "bank_test",
        "follow_test",
        "pages_test",
        "recent_changes_test",
        "rows_test",
        "swap_test",
        "threads_test",
    ):
        check_has(folder / name, "__tsan_init")
        done = run(folder / name, TSAN_OPTIONS="halt_on_error=1")
        if "unexpected memory mapping" in done.stderr:
            pytest.skip("this kernel randomises addresses more than GCC's ThreadSanitizer can take")
        assert done.returncode == 0, done.stdout + done.stderr


def kernel_object(build: Path, isa: str) -> str:
    """Return the path of the object of an instruction set, or skip where it is not built."""
    objects = list(build.glob(f"**/kernel_{isa}.dir/**/*.o"))
    if not objects and isa != "portable":
        pytest.skip(f"there is no {isa} on this kind of CPU")
    assert len(objects) == 1
    return str(objects[0])


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "neon"])
def test_each_kernel_object_has_one_external_symbol(core_build: Path, isa: str) -> None:
    """More would be code compiled for one instruction set that the linker could keep for all."""
    path = kernel_object(core_build, isa)
    command = [program("nm"), "--demangle", "--defined-only", "--extern-only", path]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = [re.sub(r"^[0-9a-f]* ", "", line) for line in lines if line]
    # D or R: constant-initialised data, so nothing of it runs before main.
    assert symbols in ([f"D mlpbank::kernel_{isa}"], [f"R mlpbank::kernel_{isa}"])


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "neon"])
def test_no_kernel_object_runs_code_at_import(core_build: Path, isa: str) -> None:
    command = [program("readelf"), "-SW", kernel_object(core_build, isa)]
    sections = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ".init_array" not in sections
    assert ".text" in sections


def test_kernels_include_no_cpp_header(root: Path) -> None:
    """They include only C headers and the folder's own.

    The linker could keep the AVX-512 copy of an inline C++ function for all instruction sets.
    """
    files = [*(root / "cpp/kernels").iterdir(), root / "cpp/types.h"]
    includes = {
        (path.name, include)
        for path in files
        for include in re.findall(r"^\s*#\s*include\s+(.+?)\s*$", path.read_text(), re.MULTILINE)
    }
    foreign = {
        (name, include)
        for name, include in includes
        if not re.fullmatch(
            r'"kernels/\w+\.h"|"types\.h"|<\w+\.h>|MLPBANK_SIMD_FILE_OF\(MLPBANK_ISA\)', include
        )
    }
    assert len(includes) > 30
    assert not foreign
