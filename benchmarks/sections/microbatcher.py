"""Single rows for random models from many asyncio tasks: which way of asking is fastest, and when.

Each figure is that of the repeat with the highest throughput: on a shared machine the others
measure the neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.step import Step
from benchmarks.table import Cell, Factor, Microseconds, Milliseconds, PerSecond, Row, Table
from mlpbank import Architecture, Bank
from mlpbank.bench.measure import Progress
from mlpbank.serving import MicroBatcher

Array = npt.NDArray[np.float32]
Predict = Callable[[str, Array], Awaitable[Array]]
ASKED = 20_000  # different requests
SECONDS, REPEATS = 0.15, 8
NETWORKS: Mapping[tuple[int, ...], int] = {
    (10, 8, 1): 10_000,
    (32, 64, 64, 1): 10_000,
    (64, 256, 256, 10): 500,
    (128, 512, 512, 10): 200,
}
TASKS = (4, 32, 256)
ROWS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Result:
    """How one way of asking did."""

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
    return Result(
        len(latencies) / (time.perf_counter() - began),
        p50,
        p99,
        float(np.quantile(lags or [seconds], 0.99)),
    )


async def wrong_answers(bank: Bank, keys: list[str], x: Array) -> dict[str, str]:
    """Return what is wrong with the answers of MicroBatcher, if anything."""
    async with MicroBatcher(bank) as batcher:
        asked = (batcher.predict(key, row) for key, row in zip(keys, x, strict=True))
        answers = await asyncio.gather(*asked)
    same = np.array_equal(np.reshape(answers, (len(x), -1)), bank.predict(keys, x))
    return {} if same else {"MicroBatcher": "answers otherwise than Bank.predict"}


async def measure(
    bank: Bank, keys: list[str], x: Array, tasks: int, seconds: float
) -> dict[str, Result]:
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
        f"layer_{i}": rng.standard_normal((models, s.input_size, s.output_size), np.float32)
        / s.input_size**0.5
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.set_defaults(seconds=str(SECONDS))


def steps(args: argparse.Namespace) -> list[Step]:
    """Return a step for each network, and one for blocking calls."""
    return [
        *(
            Step(name_of(sizes), partial(_network, sizes, args.seconds, args.repeats))
            for sizes in NETWORKS
        ),
        Step("blocking calls", partial(_blocking, args.repeats)),
    ]


def name_of(sizes: tuple[int, ...]) -> str:
    return f"{NETWORKS[sizes]} × {'-'.join(map(str, sizes))}"


def _network(sizes: tuple[int, ...], seconds: float, repeats: int, progress: Progress) -> Table:
    models = NETWORKS[sizes]
    bank = make_bank(sizes, models)
    rng = np.random.default_rng(1)
    keys = [str(i) for i in rng.integers(models, size=ASKED)]
    x = rng.standard_normal((ASKED, sizes[0]), np.float32)
    title = f"Single rows of {name_of(sizes)}"
    wrong = asyncio.run(wrong_answers(bank, keys[:50], x[:50]))
    if wrong:
        return Table(title, [], wrong, failed=True)
    rows: list[Row] = []
    for i, tasks in enumerate(TASKS):
        best: dict[str, Result] = {}
        for repeat in range(repeats):
            progress((i + repeat / repeats) / len(TASKS), f"{tasks} tasks")
            for name, result in asyncio.run(measure(bank, keys, x, tasks, seconds)).items():
                if name not in best or result.per_second > best[name].per_second:
                    best[name] = result
        thread, batcher = best["to_thread"], best["MicroBatcher"]
        row: dict[str, Cell] = {"": f"{tasks} tasks"}
        row |= {name: PerSecond(result.per_second) for name, result in best.items()}
        row["times to_thread"] = Factor(batcher.per_second / thread.per_second)
        row["p99 of to_thread"] = Milliseconds(thread.p99 * 1e3)
        row["p99 of MicroBatcher"] = Milliseconds(batcher.p99 * 1e3)
        row["max_wait + 3 batches"] = Milliseconds((batcher.bound or 0.0) * 1e3)
        row["loop lag p99: predict"] = Milliseconds(best["predict"].lag * 1e3)
        row["MicroBatcher's lag"] = Milliseconds(batcher.lag * 1e3)
        rows.append(row)
    return Table(title, rows)


def _blocking(repeats: int, progress: Progress) -> Table:
    rows: list[Row] = []
    for i, (sizes, models) in enumerate(NETWORKS.items()):
        progress(i / len(NETWORKS), name_of(sizes))
        bank = make_bank(sizes, models)
        times = {f"{n} rows": Microseconds(call_seconds(bank, n, repeats) * 1e6) for n in ROWS}
        rows.append({"": name_of(sizes), **times})
    return Table("One blocking predict for one model", rows)
