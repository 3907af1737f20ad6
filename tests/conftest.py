"""Options and fixtures of the suite. `isa` and `layout` run a test for each one available here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("cases", "tolerance")  # before they are imported

from cases import ISAS, LAYOUTS, BuildCore, RunProgram, RunPython, program  # noqa: E402

# No deadline: the machines that run this are shared, and a slow moment is no failure.
settings.register_profile(
    "mlpbank", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mlpbank")

ROOT = Path(__file__).resolve().parents[1]

# An editable install was compiled anew by the import above; processes that tests start need not
# look again.
for finder in sys.meta_path:
    if type(finder).__name__ == "ScikitBuildRedirectingFinder":
        os.environ["SKBUILD_EDITABLE_SKIP"] = str(finder.path)  # type: ignore[attr-defined]

# Why a test may be skipped under --strict-skips. A library that is not installed is on this list
# only where the extra `test` leaves it out; `test-all` has it, and there --only-slow takes it off
# the list.
ALLOWED_SKIPS = (
    r"could not import 'skorch'",
    r"NumPy \S+ itself cannot be imported on a \w+",
    r"qemu-x86_64 emulates AVX2 from version 7\.2 on",
    r"qemu-x86_64 \(package qemu-user\) is not installed",
    r"\S+ is not installed, which the tests on ARM64 need",
    r"only Debian's own archive has packages for ARM64 beside those of this machine",
    r"this kernel randomises addresses more than GCC's ThreadSanitizer can take",
    r"this filesystem keeps evicted pages in memory",
    r"madvise is without effect here",
    r"this CPU has only one instruction set with fused multiply-add",
    r"this CPU has no other instruction set than portable",
    r"there is no (avx2|avx512|neon) on this kind of CPU",
    r"the mode is set as x86-64 has it",
    r"these CPUs are of x86-64",
    r"this machine has no other compiler",
    r"error: headers cannot be hidden here",
    r"\w+ is not set up for \w+",  # a peer of the benchmark that lacks an activation
    r"could not import 'openvino'",  # in the extra `bench` alone
    r"helpers are no OpenMP team here",
    r"only root can become (a user without other processes|another user)",
)
ONLY_IN_TEST_ALL = (
    r"could not (import|find) '?(duckdb|jax|flax|equinox|geopandas|skl2onnx|onnxscript|skorch)\b",
)
# The extra `test-threads` has none of these.
ONLY_IN_TEST = (
    r"could not (import|find) '?(torch|sklearn|onnx|onnxruntime|keras)\b",
    r"could not (import|find) '?(tqdm|httpx|fastapi|matplotlib|pyarrow)\b",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mlpbank")
    group.addoption(
        "--slow", action="store_true", help="run every test, those marked slow included"
    )
    group.addoption(
        "--only-slow", action="store_true", help="run the tests marked slow and no others"
    )
    group.addoption(
        "--strict-skips",
        action="store_true",
        help="fail tests that are skipped for an unlisted reason",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked slow, unless an option or a test's own name asks for them.

    Mark those that compile something as `compiler`. Those marked scale need an environment of their
    own, and run with ``-m scale`` alone.
    """
    for item in items:
        if {"build_core", "faults"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("compiler")
    if any("::" in argument for argument in config.args):
        return
    is_scale = config.option.markexpr == "scale"

    def is_wanted(item: pytest.Item) -> bool:
        if is_scale or item.get_closest_marker("scale") is not None:
            return is_scale
        if config.getoption("--slow"):
            return True
        is_slow = item.get_closest_marker("slow") is not None
        return is_slow == bool(config.getoption("--only-slow"))

    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if is_wanted(item) else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


# --- Two processes or more, where pytest-xdist is installed. `-n 0` has one; pytest's own options
# come first.

# Files whose tests are independent of each other and long. The tests of any other file stay
# together, since they share what is expensive: a build, a service, references of the same networks.
DEALT_SINGLY = (
    "test_fork.py",
    "test_interpreter_end.py",
    "test_quality.py",
    "test_service_workers.py",
    "test_threads.py",
)
MOST_WORKERS = 8


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use all CPUs, unless there is an -n, a debugger or a single test on the command line."""
    if hasattr(config, "workerinput") or not config.pluginmanager.has_plugin("xdist"):
        return
    if config.option.numprocesses is not None:
        return
    one = (
        config.option.usepdb
        or config.option.collectonly
        or any("::" in argument for argument in config.args)
    )
    cpus = len(os.sched_getaffinity(0))
    config.option.numprocesses = 0 if one or cpus == 1 else min(cpus, MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if file.endswith(DEALT_SINGLY) else file

    return Scheduling(config, log) if config.option.dist == "load" else None


# --- Skips that are allowed.


def refuse_unlisted_skip(
    config: pytest.Config, report: pytest.TestReport | pytest.CollectReport
) -> None:
    """Turn a report of a skip into one of a failure, unless its reason is listed."""
    if (
        not config.getoption("--strict-skips")
        or report.outcome != "skipped"
        or hasattr(report, "wasxfail")
    ):
        return
    allowed = ALLOWED_SKIPS
    if not config.getoption("--only-slow"):
        allowed += ONLY_IN_TEST_ALL
    if config.option.markexpr == "threads":
        allowed += ONLY_IN_TEST
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not any(re.match(pattern, reason.removeprefix("Skipped: ")) for pattern in allowed):
        report.outcome = "failed"
        report.longrepr = f"skipped, for a reason that tests/conftest.py does not list: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    refuse_unlisted_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    refuse_unlisted_skip(collector.config, report)
    return report


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


def run_interpreter(
    arguments: list[str], folder: Path, timeout: float, variables: dict[str, str | None]
) -> str:
    """Run a fresh interpreter in a folder and return what it printed.

    `variables` change the environment, None removes one. A failure or a timeout fails the test.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLPBANK_", "OMP_"))
    }
    for name, value in variables.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    done = subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run a short script, away from the source tree, and return what it printed.

    Keyword arguments are environment variables, None removes one.
    """

    def run(script: str, *, timeout: float = 120, **variables: str | None) -> str:
        return run_interpreter(["-c", textwrap.dedent(script)], tmp_path, timeout, variables)

    return run


@pytest.fixture
def run_program(tmp_path: Path) -> RunProgram:
    """Run a program of tests/programs with arguments, and return what it printed.

    Programs can import the modules of tests/helpers. Keyword arguments are environment variables,
    None removes one.
    """

    def run(name: str, *arguments: object, timeout: float = 120, **variables: str | None) -> str:
        command = [str(ROOT / f"tests/programs/{name}.py"), *map(str, arguments)]
        paths = [str(ROOT / "tests/helpers"), os.environ.get("PYTHONPATH", "")]
        variables.setdefault("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        return run_interpreter(command, tmp_path, timeout, variables)

    return run


@pytest.fixture(scope="session")
def build_core(tmp_path_factory: pytest.TempPathFactory) -> BuildCore:
    """Build the core and tests/cpp, by default with warnings as errors. Return the folder."""

    def build(*options: str, targets: Sequence[str] = ("all",)) -> Path:
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
        for command in (configure, [cmake, "--build", str(folder), "--target", *targets]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return folder

    return build


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(("-DCMAKE_BUILD_TYPE=Debug", "-DMLPBANK_KERNEL_OPTIMIZATION=-O0"), id="quick"),
        pytest.param((), id="release", marks=pytest.mark.slow),
    ],
)
def core_build(request: pytest.FixtureRequest, build_core: BuildCore) -> Path:
    """The folder of a plain build with its programs and objects, unoptimised and optimised."""
    return build_core(*request.param)
