"""Measure what docs/threads.md says: ``python benchmarks/threads.py`` prints a line for each figure, in a minute.

With ``--imports`` also the orders of import beside torch, scikit-learn and onnxruntime, which takes some minutes.
"""

from __future__ import annotations

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

import numpy as np
import numpy.typing as npt

from mlpbank import Architecture, BatchedInference, Engine, cpu_budget

Floats = npt.NDArray[np.float32]
ROUNDS = 5


def loaded(num_models: int, *sizes: int, threads: int | None = None) -> BatchedInference:
    """Return models with random weights."""
    arch = Architecture.mlp(*sizes)
    bank = BatchedInference(num_models, arch, Engine(threads))
    rng = np.random.default_rng(0)
    bank.weights.load_stacked(
        {
            f"layer_{i}": rng.standard_normal((num_models, layer.input_size, layer.output_size), np.float32)
            for i, layer in enumerate(arch.layers)
        }
    )
    return bank


def inputs(bank: BatchedInference, rows: int) -> Floats:
    """Return random inputs for all models."""
    return np.random.default_rng(1).standard_normal((bank.num_models, rows, bank.architecture.input_size), np.float32)


def rate(function: Callable[[], object], callers: int, seconds: float = 1.0) -> tuple[float, float]:
    """Return calls per second of so many threads that call at once, and the CPU microseconds of a call."""
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
    calls = sum(counts)
    return calls / (time.perf_counter() - begin), (time.process_time() - cpu) / calls * 1e6


def callers() -> None:
    """Sixteen threads that call at once against one, both with the full budget."""
    for shape, rows in [((1000, 32, 64, 64, 1), 1), ((1000, 32, 64, 64, 1), 32), ((1000, 4, 8, 2), 1)]:
        bank = loaded(*shape)
        forward = functools.partial(bank.forward, inputs(bank, rows))
        rounds = [(rate(forward, 1), rate(forward, 16)) for _ in range(ROUNDS)]
        ratio = [many[0] / one[0] for one, many in rounds]
        one, many = (statistics.median(r[i][1] for r in rounds) for i in range(2))
        name = f"{shape[0]} x {'-'.join(map(str, shape[1:]))}, {rows} rows"
        print(
            f"16 callers, {name}: {statistics.median(ratio):.2f} of one caller's throughput "
            f"({min(ratio):.2f} to {max(ratio):.2f}), {many:.1f} CPU us a call against {one:.1f}"
        )


def waited() -> float:
    """Return the seconds that the calling thread could have run but had no CPU."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def counting(seconds: float) -> tuple[float, float]:
    """Return how often pure Python adds one, per second, and per second in which it did not lack a CPU."""
    count, begin, before = 0, time.perf_counter(), waited()
    while (now := time.perf_counter()) < begin + seconds:
        for _ in range(1000):
            count += 1
    return count / (now - begin), count / (now - begin - (waited() - before))


def python_beside(threads: int) -> None:
    """The rate of a pure-Python thread and the lag of an event loop while forwards of 100 ms run."""
    bank = loaded(64, 256, 256, 256, 256, threads=threads)
    x = inputs(bank, 64)
    bank.forward(x)
    begin = time.perf_counter()
    bank.forward(x)
    x = inputs(bank, round(64 * 0.1 / (time.perf_counter() - begin)))
    out = np.empty((*x.shape[:2], 256), np.float32)
    bank.forward(x, out=out)  # out= so that it is not the pages of a new array that take time

    ratios, took = [], []
    for _ in range(ROUNDS):
        alone = counting(1)
        stop = threading.Event()

        def forwards(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                start = time.perf_counter()
                bank.forward(x, out=out)
                took.append(time.perf_counter() - start)

        thread = threading.Thread(target=forwards)
        thread.start()
        ratios.append([beside / before for beside, before in zip(counting(1), alone, strict=True)])
        stop.set()
        thread.join()
    of_all, with_cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    least, most = (f(r[0] for r in ratios) for f in (min, max))
    print(
        f"pure Python beside forwards of {statistics.median(took) * 1e3:.0f} ms, num_threads={threads}: "
        f"{of_all:.0%} of its rate ({least:.0%} to {most:.0%}), {with_cpu:.0%} not counting when it waited for a CPU"
    )

    async def lags() -> list[float]:
        result = []
        task = asyncio.create_task(many_forwards())
        while not task.done():
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            result.append(time.perf_counter() - start - 0.001)
        return result

    async def many_forwards() -> None:
        for _ in range(50):
            await asyncio.to_thread(bank.forward, x, out=out)

    lag = np.sort(asyncio.run(lags())) * 1e3
    print(
        f"event loop beside await asyncio.to_thread(forward), num_threads={threads}: "
        f"lag p50 {np.quantile(lag, 0.5):.2f} ms, p99 {np.quantile(lag, 0.99):.2f} ms, most {lag[-1]:.2f} ms"
    )


def idle() -> None:
    """CPU time of the process from one second after the last call on."""
    bank = loaded(1000, 32, 64, 64, 1)
    x = inputs(bank, 8)
    for _ in range(100):
        bank.forward(x)
    time.sleep(1)
    start = time.process_time()
    time.sleep(3)
    print(f"idle: {(time.process_time() - start) / 3:.3%} of one CPU")


ORDER = """
import time
import numpy as np
{imports}
arch = mlpbank.Architecture.mlp(32, 64, 64, 1)
bank = mlpbank.BatchedInference(1000, arch)
bank.weights.load_stacked({{f"layer_{{i}}": np.ones((1000, s.input_size, s.output_size), "f4")
                           for i, s in enumerate(arch.layers)}})
x, out = np.ones((1000, 32), "f4"), np.empty((1000, 1), "f4")
times = []
for _ in range(4000):
    start = time.perf_counter()
    bank.forward(x, out=out)
    times.append(time.perf_counter() - start)
print(min(times) * 1e6)  # what others on the machine disturbed least
"""


def import_orders() -> None:
    """Forward with other libraries imported before and after mlpbank, against mlpbank alone."""
    libraries = ["torch", "sklearn.cluster", "onnxruntime", "mlpbank"]
    if any(importlib.util.find_spec(library.split(".")[0]) is None for library in libraries):
        print("import orders: left out, torch, scikit-learn or onnxruntime is missing")
        return

    def fastest(*order: str) -> float:
        script = ORDER.format(imports="\n".join(f"import {library}" for library in order))
        return float(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True).stdout)

    orders = list(itertools.permutations(libraries))
    rounds = [(fastest("mlpbank"), [fastest(*order) for order in orders], fastest("mlpbank")) for _ in range(2)]
    alone = min(time for first, _, last in rounds for time in (first, last))
    found = {order: min(times[i] for _, times, _ in rounds) / alone for i, order in enumerate(orders)}
    worst = max(found, key=found.__getitem__)
    print(
        f"import orders: the fastest forward takes {min(found.values()):.2f} to {found[worst]:.2f} of its time alone, "
        f"median {statistics.median(found.values()):.2f}, most with {' '.join(worst)}"
    )


def main() -> None:
    """Measure everything."""
    print(cpu_budget())
    callers()
    for threads in sorted({1, int(cpu_budget())}):
        python_beside(threads)
    idle()
    if "--imports" in sys.argv[1:]:
        import_orders()


if __name__ == "__main__":
    main()
