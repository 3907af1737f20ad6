"""Helper threads: their number, limits by threadpoolctl, idleness, import order, refusals."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

import mlpbank
from cases import RunProgram, program, sweep

pytestmark = pytest.mark.threads


def test_helpers_start_when_they_are_first_needed(run_program: RunProgram) -> None:
    run_program("thread_counts", "starts_helpers_at_need")


@pytest.mark.parametrize("call", ["dense", "shared", "slots", "slots in order"])
@pytest.mark.parametrize(("engine", "asked"), [("1", "8"), ("None", "1"), ("1", "None")])
def test_the_lesser_of_the_engines_and_the_calls_threads_counts(
    run_program: RunProgram, call: str, engine: str, asked: str
) -> None:
    """A call with one thread starts no helper; the same call with more does."""
    run_program("thread_counts", "lesser_limit_counts", call, engine, asked)


def test_sixteen_callers_have_one_team_of_helpers(run_program: RunProgram) -> None:
    run_program("thread_counts", "sixteen_callers")


def test_helpers_sleep_when_there_is_nothing_to_do(run_program: RunProgram) -> None:
    run_program("thread_counts", "sleeps")


def test_threadpoolctl_sees_and_limits_us(run_program: RunProgram) -> None:
    pytest.importorskip("threadpoolctl")
    if getattr(mlpbank._core, "team_kind", "OpenMP") != "OpenMP":
        pytest.skip("helpers are no OpenMP team here")
    run_program("thread_counts", "threadpool_limits")


@pytest.mark.compiler
def test_refused_threads_are_done_without(run_program: RunProgram, tmp_path: Path) -> None:
    """The system gives two helpers where the CPUs are for seven, then none."""
    if os.getuid() != 0:
        pytest.skip("only root can become a user without other processes")
    compiler = program("c++")
    source = Path(__file__).parents[1] / "programs/eight_cpus.cpp"
    library = tmp_path / "eight.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    for allowed, expected in [(0, 0), (2, 2), (-1, 7)]:
        run_program(
            "thread_counts",
            "refused",
            allowed,
            expected,
            LD_PRELOAD=f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(),
            OPENBLAS_NUM_THREADS="1",
        )


LIBRARIES = ("torch", "sklearn", "onnxruntime", "mlpbank")


@pytest.mark.parametrize("order", sweep(itertools.permutations(LIBRARIES), 18), ids="-".join)
def test_any_order_of_imports(run_program: RunProgram, order: tuple[str, ...]) -> None:
    """In each order mlpbank's results are those of one thread."""
    for library in order:
        pytest.importorskip(library)
    run_program("import_order", *order)


CALLS = ("forward", "slots", "shared", "load", "load_stacked", "unload", "get", "copy")


@pytest.mark.parametrize("call", sweep(CALLS, 4))
def test_daemon_threads_do_not_disturb_the_end_of_the_process(
    run_program: RunProgram, call: str
) -> None:
    """Many are without the GIL at that moment; each must stand still when it wants it back.

    Python's debugging allocator ends the process where an object is dropped without the GIL.
    """
    for _ in range(3):
        run_program("end_with_daemons", call, PYTHONMALLOC="debug")
