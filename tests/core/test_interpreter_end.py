"""The interpreter around the calls: its end, signals, subinterpreters."""

from __future__ import annotations

import pytest

from cases import RunProgram, sweep

pytestmark = pytest.mark.threads

CALLS = ("forward", "by_slots", "predict", "add", "remove", "load", "get", "freeze")


@pytest.mark.parametrize("call", sweep(CALLS, every=4))
def test_the_process_ends_while_daemon_threads_are_in_calls(
    call: str, run_program: RunProgram
) -> None:
    """Each thread wants the GIL back at the end, and before Python 3.14 is unwound there."""
    for _ in range(4):
        assert run_program("end_in_calls", call, OPENBLAS_NUM_THREADS="1") == ""


def test_calls_of_the_thread_that_ends_the_interpreter(run_program: RunProgram) -> None:
    assert run_program("last_calls") == "done"


def test_ctrl_c_leaves_no_reader_behind(run_program: RunProgram) -> None:
    run_program("ctrl_c", "readers")


def test_ctrl_c_in_changes_leaves_them_whole(run_program: RunProgram) -> None:
    run_program("ctrl_c", "changes")


def test_a_signal_that_the_program_waits_for_is_not_taken_by_a_helper(
    run_program: RunProgram,
) -> None:
    run_program("signal_masks", "waits", OPENBLAS_NUM_THREADS="1")


def test_the_first_forward_leaves_the_signal_mask_as_it_is(run_program: RunProgram) -> None:
    run_program("signal_masks", "first_forward")


@pytest.mark.parametrize("when", ["alone", "after"])
def test_a_subinterpreter_is_refused(when: str, run_program: RunProgram) -> None:
    output = run_program("subinterpreter", when, timeout=60)
    assert "subinterpreter" in output or "once per process" in output
    assert output.endswith("end")
