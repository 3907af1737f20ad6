"""mlpbank in a program with threads and an event loop: the figures of docs/threads.md.

``--imports`` adds the orders of import beside torch, scikit-learn and onnxruntime: some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.util
import itertools
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.step import Step
from benchmarks.table import Cell, Factor, Microseconds, Milliseconds, Row, Share, Table
from mlpbank import BatchedInference
from mlpbank.bench.cases import Case, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.measure import Progress, find_error
from mlpbank.bench.peers import make_inference

Floats = npt.NDArray[np.float32]
SHAPES = (Case(1000, (32, 64, 64, 1), 1), Case(1000, (32, 64, 64, 1), 32), Case(1000, (4, 8, 2), 1))
LARGE = Case(64, (256, 256, 256, 256), 64)
CALLERS, ROUNDS = 16, 5
FORWARD_SECONDS, FORWARDS = 0.1, 50  # beside Python and an event loop
IDLE = Case(1000, (32, 64, 64, 1), 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--imports", action="store_true", help="orders of import as well")
    parser.set_defaults(seconds="1")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the section's steps."""
    settings, seconds = args.settings, args.seconds
    found = [
        Step("many callers", partial(callers, SHAPES, settings, seconds)),
        Step("Python beside", partial(python_beside, LARGE, settings, seconds)),
        Step("idle", partial(idle, IDLE, settings, seconds)),
    ]
    return [*found, Step("imports", import_orders)] if args.imports else found


def loaded(case: Case, settings: Settings) -> tuple[BatchedInference, Floats, dict[str, str]]:
    """Return random models, their input, and what is wrong with their answers, if anything."""
    problem = make_problem(case)
    inference = make_inference(problem, settings)
    y = inference.forward(problem.x)
    contender = Contender(str(case), lambda: None, lambda: y, ours=True)
    error = find_error(contender, stored(problem, settings.dtype))
    return inference, problem.x, {} if error is None else {str(case): error}


def rate(function: Callable[[], object], callers: int, seconds: float) -> tuple[float, float]:
    """Return calls per second of `callers` threads at once, and CPU microseconds of a call."""
    counts = [0] * callers
    stop = threading.Event()
    start = threading.Barrier(callers + 1)

    def call(number: int) -> None:
        start.wait()
        while not stop.is_set():
            function()
            counts[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    begin, cpu = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    calls = max(1, sum(counts))
    return calls / (time.perf_counter() - begin), (time.process_time() - cpu) / calls * 1e6


def callers(
    cases: tuple[Case, ...], settings: Settings, seconds: float, progress: Progress
) -> Table:
    """Compare many threads that call at once with one, both with all of the CPU budget."""
    rows: list[Row] = []
    wrong: dict[str, str] = {}
    for i, case in enumerate(cases):
        inference, x, error = loaded(case, settings)
        if error:
            wrong |= error
            continue
        forward = functools.partial(inference.forward, x)
        rounds = []
        for turn in range(ROUNDS):
            progress((i + turn / ROUNDS) / len(cases), str(case))
            rounds.append((rate(forward, 1, seconds), rate(forward, CALLERS, seconds)))
        ratios = [many[0] / one[0] for one, many in rounds]
        one, many = (statistics.median(r[k][1] for r in rounds) for k in range(2))
        rows.append(
            {
                "": str(case),
                "of one caller's throughput": Factor(statistics.median(ratios)),
                "least": Factor(min(ratios)),
                "most": Factor(max(ratios)),
                "CPU time of a call": Microseconds(many),
                "of one caller's": Microseconds(one),
            }
        )
    return Table(f"{CALLERS} callers at once", rows, wrong, failed=bool(wrong))


def waited() -> float:
    """Return the seconds that the calling thread could have run but had no CPU."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def counting(seconds: float) -> tuple[float, float]:
    """Return how often Python adds one per second, and per second in which it had a CPU."""
    count, begin, before = 0, time.perf_counter(), waited()
    while (now := time.perf_counter()) < begin + seconds:
        for _ in range(1000):
            count += 1
    return count / (now - begin), count / (now - begin - (waited() - before))


def python_beside(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    """Measure the rate of pure Python and the lag of an event loop beside long forwards."""
    rows: list[Row] = []
    wrong: dict[str, str] = {}
    counts = sorted({1, settings.threads})
    for i, threads in enumerate(counts):
        progress(i / len(counts), f"{threads} threads")
        own = replace(settings, threads=threads)
        inference, x, error = loaded(case, own)
        if error:
            wrong |= error
            continue
        forward = _long_forward(inference, x)
        row: dict[str, Cell] = {"": f"num_threads={threads}", **_counting_beside(forward, seconds)}
        lag = np.sort(asyncio.run(_lags(forward))) * 1e3
        for name, q in (("p50", 0.5), ("p99", 0.99), ("most", 1.0)):
            row[f"loop lag {name}"] = Milliseconds(np.quantile(lag, q))
        rows.append(row)
    return Table(f"Beside forwards of {case}, repeated", rows, wrong, failed=bool(wrong))


def _long_forward(inference: BatchedInference, x: Floats) -> Callable[[], object]:
    """Return a forward that takes about FORWARD_SECONDS: more rows, and memory made before."""
    begin = time.perf_counter()
    inference.forward(x)
    factor = max(1, round(FORWARD_SECONDS / (time.perf_counter() - begin)))
    x = np.tile(x, (1, factor, 1))
    out = np.empty((*x.shape[:2], inference.architecture.output_size), np.float32)
    forward = functools.partial(inference.forward, x, out=out)
    forward()
    return forward


def _counting_beside(forward: Callable[[], object], seconds: float) -> dict[str, Cell]:
    ratios, took = [], []
    for _ in range(ROUNDS):
        alone = counting(seconds)
        stop = threading.Event()

        def forwards(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                start = time.perf_counter()
                forward()
                took.append(time.perf_counter() - start)

        thread = threading.Thread(target=forwards)
        thread.start()
        beside = counting(seconds)
        ratios.append([b / a for b, a in zip(beside, alone, strict=True)])
        stop.set()
        thread.join()
    of_all, with_cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    return {
        "a forward": Milliseconds(1e3 * statistics.median(took)),
        "Python's rate": Share(of_all),
        "least": Share(min(r[0] for r in ratios)),
        "most": Share(max(r[0] for r in ratios)),
        "without waits for a CPU": Share(with_cpu),
    }


async def _lags(forward: Callable[[], object]) -> list[float]:
    """Return how much later than planned another task gets its turn, in seconds."""

    async def many_forwards() -> None:
        for _ in range(FORWARDS):
            await asyncio.to_thread(forward)

    result = []
    task = asyncio.create_task(many_forwards())
    while not task.done():
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        result.append(time.perf_counter() - start - 0.001)
    return result


def idle(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    """Measure the CPU time of the process from one second after the last call on."""
    progress(0.0, str(case))
    inference, x, wrong = loaded(case, settings)
    for _ in range(100):
        inference.forward(x)
    time.sleep(seconds)
    start, begin = time.process_time(), time.perf_counter()
    time.sleep(3 * seconds)
    share = (time.process_time() - start) / (time.perf_counter() - begin)
    row: Row = {"": "idle", "of one CPU": f"{share:.3%}"}
    return Table("CPU time after the last call", [row], wrong, failed=bool(wrong))


def import_orders(progress: Progress) -> Table:
    """Time forward with other libraries imported before and after mlpbank."""
    title = "The fastest forward in orders of import, as long as with mlpbank alone"
    libraries = ["torch", "sklearn.cluster", "onnxruntime", "mlpbank"]
    missing = [name for name in libraries if importlib.util.find_spec(name.split(".")[0]) is None]
    if missing:
        return Table(title, [], left_out={"import orders": f"not installed ({', '.join(missing)})"})

    def fastest(*order: str) -> float:
        command = [sys.executable, Path(__file__).parents[1] / "import_order.py", *order]
        return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    orders = list(itertools.permutations(libraries))
    alone, times = [], dict.fromkeys(orders, float("inf"))
    for turn in range(2):
        alone.append(fastest("mlpbank"))
        for i, order in enumerate(orders):
            progress((turn + i / len(orders)) / 2, " ".join(order))
            times[order] = min(times[order], fastest(*order))
        alone.append(fastest("mlpbank"))
    found: dict[Any, float] = {order: time / min(alone) for order, time in times.items()}
    worst = max(found, key=found.__getitem__)
    row: Row = {
        "": f"{len(orders)} orders",
        "least": Factor(min(found.values())),
        "median": Factor(statistics.median(found.values())),
        "most": Factor(found[worst]),
        "with": " ".join(worst),
    }
    return Table(title, [row])
