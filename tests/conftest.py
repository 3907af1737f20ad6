"""Fixtures of the whole suite: `isa` and `layout` run a test for each that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("cases", "tolerance")  # before they are imported

from cases import ISAS, LAYOUTS, BuildCore, RunPython, program  # noqa: E402

# No deadline: the machines that run this are shared, and a slow moment is no failure.
settings.register_profile("mlpbank", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mlpbank")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set this machine has."""
    return str(request.param)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    """Both layouts of the weights."""
    return str(request.param)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of pyproject.toml."""
    return ROOT


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run a script in a fresh interpreter, away from the source tree, and return what it printed.

    Keyword arguments are environment variables, None removes one. A script that fails or hangs fails the test.
    """

    def run(script: str, *, timeout: float = 120, **variables: str | None) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MLPBANK_", "OMP_"))}
        for name, value in variables.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = value
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def build_core(tmp_path_factory: pytest.TempPathFactory) -> BuildCore:
    """Build the core and tests/cpp by CMake, warnings as errors unless options say otherwise, and return the folder."""

    def build(*options: str, target: str = "all") -> Path:
        folder = tmp_path_factory.mktemp("core")
        cmake = program("cmake")
        fixed = ["BUILD_PYTHON=OFF", "BUILD_TESTS=ON", "WERROR=ON"]
        configure = [
            cmake,
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
            "-S",
            str(ROOT),
            "-B",
            str(folder),
        ]
        configure += [*(f"-DMLPBANK_{option}" for option in fixed), *options]
        for command in (configure, [cmake, "--build", str(folder), "--target", target]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return folder

    return build


@pytest.fixture(scope="session")
def core_build(build_core: BuildCore) -> Path:
    """The folder of a plain build: objects as users get them, and core_test."""
    return build_core()
