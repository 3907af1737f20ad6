"""How many threads calls start and use: thread_counts.py CHECK ARGUMENTS."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time

import numpy as np
from thread_models import BEFORE, BUDGET, SERIAL, X, inference, is_right, tasks, tasks_become

import mlpbank


def starts_helpers_at_need() -> None:
    for _ in range(1000):
        inference.forward(X[:1, :1], models=[7])
    assert tasks() == BEFORE, "small calls stay on the thread that makes them"
    assert is_right()
    assert tasks_become(BEFORE + BUDGET - 1)


def lesser_limit_counts(call: str, engine: str, asked: str) -> None:
    """The lesser of the engine's and the call's number of threads counts."""
    if BUDGET == 1:
        return
    reversed_slots = np.arange(500)[::-1].copy()

    def run(inference: mlpbank.BatchedInference, n: int | None) -> np.ndarray:
        if call == "dense":
            return inference.forward(X, num_threads=n)
        if call == "shared":
            return inference.forward_shared(X[0], num_threads=n)
        slots = reversed_slots if call == "slots" else np.arange(500)
        return inference.forward(X, models=slots, num_threads=n)

    def number(text: str) -> int | None:
        return None if text == "None" else int(text)

    limited = mlpbank.BatchedInference.from_weights(
        inference.weights, mlpbank.Engine(number(engine))
    )
    one = run(limited, number(asked))
    assert tasks() == BEFORE, "helpers were started for one thread"
    assert np.array_equal(run(inference, 2), one)
    assert tasks() > BEFORE, "this call is too short to tell"


def sixteen_callers() -> None:
    callers, most = 16, 0
    wrong: list[int] = []
    barrier = threading.Barrier(callers)

    def call() -> None:
        barrier.wait()
        for _ in range(50):
            if not is_right():
                wrong.append(1)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, tasks())
    assert not wrong
    assert most <= BEFORE + callers + BUDGET - 1, (most, BEFORE)


def sleeps() -> None:
    """Helpers use less than 1 % of a CPU, from some second on after the last call."""
    for _ in range(20):
        inference.forward(X)
    used = 1.0
    for _ in range(30):
        start = time.process_time()  # of all threads
        time.sleep(1)
        used = time.process_time() - start
        if used < 0.01:
            break
    assert used < 0.01, used


def schedules() -> list[str]:
    """Return how often and how long each other thread has run."""
    return [
        open(f"/proc/self/task/{task}/schedstat").read()
        for task in os.listdir("/proc/self/task")
        if int(task) != threading.get_native_id()
    ]


def threadpool_limits() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    openmp = [pool["prefix"] for pool in threadpool_info() if pool["user_api"] == "openmp"]
    assert "libgomp" in openmp
    with threadpool_limits(1):
        for _ in range(10):
            assert is_right()
        assert tasks() <= BEFORE  # BLAS may have stopped threads
        before = tasks()
    with threadpool_limits(1, user_api="openmp"):
        assert is_right()
    assert tasks() == before
    assert is_right()
    assert tasks_become(before + BUDGET - 1)
    # Now there are helpers, but they have nothing to do.
    with threadpool_limits(1, user_api="openmp"):
        for _ in range(30):  # on a busy machine they may fall asleep late
            time.sleep(0.2)
            asleep = schedules()
            for _ in range(10):
                inference.forward(X)
            if schedules() == asleep:
                break
        assert schedules() == asleep


def refused(allowed: str, expected: str) -> None:
    """On eight CPUs the system allows so many more threads; -1: as many as there are CPUs."""
    assert BUDGET == 8, BUDGET
    if int(allowed) >= 0:
        os.setuid(54321)
        resource.setrlimit(resource.RLIMIT_NPROC, (BEFORE + int(allowed),) * 2)
    assert np.array_equal(inference.forward(X, num_threads=8), SERIAL)
    assert tasks_become(BEFORE + int(expected))


globals()[sys.argv[1]](*sys.argv[2:])
