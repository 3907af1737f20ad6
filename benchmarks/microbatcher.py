"""Single rows for random models from many asyncio tasks: which way of asking is fastest, and when.

python benchmarks/microbatcher.py [--seconds 0.15] [--repeats 8]

Prints the tables of docs/serving.md. Each figure is that of the repeat with the highest throughput: on a shared machine
the others measure the neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlpbank import Architecture, Bank
from mlpbank.serving import MicroBatcher

Array = npt.NDArray[np.float32]
Predict = Callable[[str, Array], Awaitable[Array]]
ASKED = 20_000  # different requests
NETWORKS = {(10, 8, 1): 10_000, (32, 64, 64, 1): 10_000, (64, 256, 256, 10): 500, (128, 512, 512, 10): 200}
TASKS = (4, 32, 256)
ROWS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Result:
    """Of one way of asking."""

    per_second: float
    p50: float  # seconds
    p99: float
    lag: float  # of the event loop, 99th percentile, seconds
    bound: float | None = None  # of p99: max_wait and three times the median batch


async def ask(predict: Predict, keys: list[str], x: Array, tasks: int, seconds: float) -> Result:
    """Let tasks ask, each again as soon as it has its answer."""
    latencies: list[float] = []
    lags: list[float] = []
    until = time.perf_counter() + seconds

    async def task(i: int) -> None:
        while (began := time.perf_counter()) < until:
            await predict(keys[i % ASKED], x[i % ASKED])
            latencies.append(time.perf_counter() - began)
            await asyncio.sleep(0)  # blocking calls never let others run by themselves
            i += tasks

    async def watch() -> None:
        while (began := time.perf_counter()) < until:
            await asyncio.sleep(0.001)
            lags.append(max(0.0, time.perf_counter() - began - 0.001))

    began = time.perf_counter()
    await asyncio.gather(watch(), *(task(i) for i in range(tasks)))
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
    return Result(len(latencies) / (time.perf_counter() - began), p50, p99, float(np.quantile(lags or [seconds], 0.99)))


async def measure(bank: Bank, keys: list[str], x: Array, tasks: int, seconds: float) -> dict[str, Result]:
    """Return one result for each way of asking."""

    async def blocking(key: str, row: Array) -> Array:
        return bank.predict(key, row)

    async def to_thread(key: str, row: Array) -> Array:
        return await asyncio.to_thread(bank.predict, key, row)

    results = {}
    for name, function in (("predict", blocking), ("to_thread", to_thread)):
        results[name] = await ask(function, keys, x, tasks, seconds)
    async with MicroBatcher(bank) as batcher:
        result = await ask(batcher.predict, keys, x, tasks, seconds)
        bound = 0.001 + 3 * batcher.statistics().compute_seconds.p50
    results["MicroBatcher"] = replace(result, bound=bound)
    return results


def make_bank(sizes: tuple[int, ...], models: int) -> Bank:
    """Return a bank of random models, keys "0", "1", ..."""
    architecture = Architecture.mlp(*sizes, activation="relu")
    rng = np.random.default_rng(0)
    weights = {
        f"layer_{i}": rng.standard_normal((models, s.input_size, s.output_size), np.float32) / s.input_size**0.5
        for i, s in enumerate(architecture.layers)
    }
    return Bank.from_stacked([str(i) for i in range(models)], architecture, weights)


def call_seconds(bank: Bank, rows: int, repeats: int) -> float:
    """Return how long a blocking call for one model takes, at best."""
    x = np.ones((rows, bank.architecture.input_size), np.float32)
    keys = list(bank)
    calls = max(3, 300 // rows)
    best = float("inf")
    for repeat in range(repeats):
        began = time.perf_counter()
        for i in range(calls):
            bank.predict(keys[(repeat * calls + i) * 37 % len(keys)], x)
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def main() -> None:
    """Measure all networks and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    calls = []
    print(
        "| models × sizes | tasks | `predict`, requests/s | `to_thread` | MicroBatcher | times `to_thread` "
        "| p99 of `to_thread`, ms | p99 of MicroBatcher, ms | max_wait + 3 batches, ms | loop lag p99: `predict`, ms "
        "| MicroBatcher, ms |\n" + "|---" * 11 + "|"
    )
    for sizes, models in NETWORKS.items():
        bank = make_bank(sizes, models)
        network = f"{models} × {'-'.join(map(str, sizes))}"
        times = [call_seconds(bank, rows, options.repeats) for rows in ROWS]
        calls.append(f"| {network} | {' | '.join(f'{t * 1e6:.0f}' for t in times)} |")
        rng = np.random.default_rng(1)
        keys = [str(i) for i in rng.integers(models, size=ASKED)]
        x = rng.standard_normal((ASKED, sizes[0]), np.float32)
        for tasks in TASKS:
            best: dict[str, Result] = {}
            for _ in range(options.repeats):
                for name, result in asyncio.run(measure(bank, keys, x, tasks, options.seconds)).items():
                    if name not in best or result.per_second > best[name].per_second:
                        best[name] = result
            blocking, thread, batcher = best["predict"], best["to_thread"], best["MicroBatcher"]
            factor = batcher.per_second / thread.per_second
            per_second = " | ".join(f"{r.per_second:.0f}" for r in (blocking, thread, batcher))
            times = [thread.p99, batcher.p99, batcher.bound or 0.0, blocking.lag, batcher.lag]
            print(
                f"| {network} | {tasks} | {per_second} | {factor:.1f} | {' | '.join(f'{t * 1e3:.2f}' for t in times)} |"
            )
    print("\n| One blocking `predict` for one model, us | " + " | ".join(f"{rows} rows" for rows in ROWS) + " |")
    print("|---" * (len(ROWS) + 1) + "|")
    print("\n".join(calls))


if __name__ == "__main__":
    main()
