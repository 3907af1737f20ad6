"""Forked children have no helper threads. They give the same results, and no call hangs."""

from __future__ import annotations

import pytest

from cases import LAYOUTS, RunProgram, sweep

pytestmark = pytest.mark.threads

SCENARIOS = (
    "after_forward",
    "uses_its_cores",
    "grandchild",
    "many_children",
    "while_others_predict",
    "memory",
    "while_others_load",
    "pool",
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_forked_children_predict_and_load(
    run_program: RunProgram, layout: str, scenario: str
) -> None:
    run_program("forked_forward", scenario, layout, timeout=600)


def test_child_of_a_parent_that_never_predicted(run_program: RunProgram) -> None:
    run_program("forked_forward", "before_any_forward", "panel")


@pytest.mark.parametrize("busy_threads", [0, 1])
@pytest.mark.parametrize("library", sweep(["numpy", "sklearn", "torch"], 3))
def test_hundred_forks_beside_other_libraries(
    run_program: RunProgram, library: str, busy_threads: int
) -> None:
    pytest.importorskip(library)
    run_program("forks_beside_libraries", library, busy_threads, timeout=600)


@pytest.mark.parametrize("method", sweep(["forkserver", "spawn"], every=2))
def test_children_by_other_methods(run_program: RunProgram, method: str) -> None:
    run_program("children_by_method", method, timeout=600)
