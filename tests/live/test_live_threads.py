"""Threads, forks, two writers and stopped followers of a live bank."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases import LAYOUTS, RunProgram, RunPython
from live_models import TIMES

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_and_forks(run_program: RunProgram, tmp_path: Path, layout: str) -> None:
    run_program("live_threads", tmp_path, layout, 2, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_forks(run_program: RunProgram, tmp_path: Path, layout: str) -> None:
    run_program("live_threads", tmp_path, layout, TIMES * 40, timeout=TIMES * 900)


def test_what_a_child_changes_is_there(
    run_program: RunProgram, tmp_path: Path, layout: str
) -> None:
    run_program("live_forked", tmp_path, layout)


@pytest.mark.parametrize(
    ("layout", "kills"),
    [("lane", 6), *(pytest.param(name, TIMES * 60, marks=pytest.mark.slow) for name in LAYOUTS)],
)
def test_two_writers(run_program: RunProgram, tmp_path: Path, layout: str, kills: int) -> None:
    run_program("live_turns", tmp_path, layout, kills, timeout=TIMES * 900)


@pytest.mark.parametrize(
    ("layout", "changes"),
    [("panel", 300), *(pytest.param(name, 10_000, marks=pytest.mark.slow) for name in LAYOUTS)],
)
def test_stopped_follower(
    run_program: RunProgram, tmp_path: Path, layout: str, changes: int
) -> None:
    run_program("live_stops", tmp_path, layout, changes, timeout=900)


def test_a_fork_while_a_connection_is_opened(run_python: RunPython) -> None:
    """It waits for the thread that opens one, and that thread does not wait for it."""
    script = """
        import os, threading, time
        from mlpbank import Architecture, Bank
        from mlpbank.files import _live_index
        model = {"layer_0": [[2.0]]}
        Bank.from_models({"a": model}, Architecture.mlp(1, 1)).save("live", live=True)
        writer, follower = Bank.open("live", writable=True), Bank.open("live")
        follower._follower.index.close()  # as a fork does
        writer["a"] = {"layer_0": [[3.0]]}
        opening, connect = threading.Event(), _live_index.connect

        def connect_slowly(*arguments):
            opening.set()
            time.sleep(0.3)
            return connect(*arguments)

        _live_index.connect = connect_slowly
        answers = []
        index = follower._follower.index
        thread = threading.Thread(target=lambda: answers.append(index.read(lambda about: 0)))
        thread.start()
        assert opening.wait(10)
        pid = os.fork()
        if pid == 0:
            os._exit(int(follower.predict(["a"], [[1.0]])[0, 0]))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        thread.join()
        assert answers[0][0].sequence >= 1
    """
    run_python(script, timeout=30)


def test_a_bank_that_is_dropped_warns_of_nothing(run_python: RunPython) -> None:
    """CPython from 3.13 on tells of connections to SQLite that were not closed."""
    script = """
        import gc, sys, warnings
        from mlpbank import Architecture, Bank
        told = []
        sys.unraisablehook = told.append
        warnings.simplefilter("error")
        model = {"layer_0": [[2.0]]}
        Bank.from_models({"a": model}, Architecture.mlp(1, 1)).save("live", live=True)
        for _ in range(3):
            bank = Bank.open("live", writable=True)
            bank["b"] = model
            bank.itself = bank
            del bank
            gc.collect()
        print(len(told), Bank.open("live").predict("b", [3.0]).tolist())
    """
    assert run_python(script) == "0 [6.0]"
