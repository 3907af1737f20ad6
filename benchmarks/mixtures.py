"""Rows and models in every mixture, in each layout, beside loops over groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks import peers_traffic, traffic
from benchmarks.step import Step, part_of, table_of
from benchmarks.table import Factor, Milliseconds, Row, Table
from mlpbank.bench.cases import Case, Problem, make_problem
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.measure import Comparison, Progress, compare
from mlpbank.bench.peers import make_inference
from mlpbank.typing import Float32Array, Layout

SHAPES = ((4, 8, 2), (5, 16, 8, 1), (10, 8, 1), (32, 64, 64, 1))
MODELS = (500, 10_000)
ROWS = 1_000_000
LAYOUTS: tuple[Layout, ...] = ("panel", "lane", "auto")

Scale = Callable[[int], int]


def steps(settings: Settings, seconds: float, torch: bool, scale: Scale) -> Iterator[Step]:
    """Yield two steps for each shape."""
    for sizes in SHAPES:
        name = "-".join(map(str, sizes))
        million = partial(_million, sizes, settings, seconds, torch, scale)
        yield Step(f"many rows for {name}", million)
        yield Step(f"mixtures for {name}", partial(_mixtures, sizes, settings, seconds, scale))


def _million(
    sizes: tuple[int, ...],
    settings: Settings,
    seconds: float,
    torch: bool,
    scale: Scale,
    progress: Progress,
) -> Table:
    rows: list[Row] = []
    results: list[Comparison] = []
    for i, models in enumerate(map(scale, MODELS)):
        problem = make_problem(Case(models, sizes, 1))
        random = np.random.default_rng(3).integers(0, models, scale(ROWS))
        orders = {"random": random, "sorted": np.sort(random)}
        found = {}
        for j, (order, slots) in enumerate(orders.items()):
            part = part_of(progress, 2 * i + j, range(2 * len(MODELS)), f"{models} models, {order}")
            found[order] = _compare(problem, slots, settings, seconds / 4, torch, part, peers=True)
        for order, comparison in found.items():
            row = {"": f"{problem.case.network}, {order}", **_times(comparison)}
            ratio = found["random"].us("auto") / found["sorted"].us("auto")
            rows.append({**row, "random / sorted": Factor(ratio) if order == "random" else ""})
            results.append(comparison)
    return table_of(f"{scale(ROWS)} rows by slot, sorted or not", rows, *results)


def _mixtures(
    sizes: tuple[int, ...], settings: Settings, seconds: float, scale: Scale, progress: Progress
) -> Table:
    rows: list[Row] = []
    results: list[Comparison] = []
    for i, models in enumerate(map(scale, MODELS)):
        problem = make_problem(Case(models, sizes, 1))
        mixtures = slots_of_mixtures(models, scale(100_000))
        for j, (name, slots) in enumerate(mixtures.items()):
            done = part_of(progress, i, MODELS, f"{models} models")
            part = part_of(done, j, list(mixtures), name)
            time = seconds / 2 / len(mixtures)
            comparison = _compare(problem, slots, settings, time, False, part, peers=False)
            rows.append({"": f"{problem.case.network}, {name}", **_times(comparison)})
            results.append(comparison)
    return table_of("Mixtures of rows and models, by slot", rows, *results)


def slots_of_mixtures(models: int, many: int) -> dict[str, traffic.Slots]:
    """Return slots by the name of the mixture; `many` is the most rows of one model."""
    rng = np.random.default_rng(4)
    every = np.arange(models)
    some = rng.permutation(models)
    popularity = 1 / (every + 1)
    huge = np.full(many // 2, models // 3)
    few = min(models, 1000)
    return {
        "one row": some[:1],
        "500 rows of one model": np.full(500, some[0]),
        f"{many} rows of one model": np.full(many, some[0]),
        "16 models, a row each": some[:16],
        f"{few} random rows": rng.integers(0, models, few),
        f"{few} rows in order": np.sort(rng.integers(0, models, few)),
        "a tenth of the models": some[: -(-models // 10)],
        "half of the models, in order": np.sort(some[: -(-models // 2)]),
        "nine tenths of the models, in order": np.sort(some[: -(-models * 9 // 10)]),
        "all models": every,
        "all models, mixed": some,
        "3 rows each, mixed": rng.permutation(np.repeat(every, 3)),
        "7 rows each": np.repeat(every, 7),
        "20 rows each on average": rng.integers(0, models, 20 * models),
        "by Zipf's law": some[rng.choice(models, many, p=popularity / popularity.sum())],
        "a huge group and all others": rng.permutation(np.concatenate([huge, every])),
    }


def _compare(
    problem: Problem,
    slots: traffic.Slots,
    settings: Settings,
    seconds: float,
    torch: bool,
    progress: Progress,
    *,
    peers: bool,
) -> Comparison:
    request = traffic.one(problem, slots)

    def build(layout: Layout) -> Contender:
        inference = make_inference(problem, replace(settings, layout=layout))
        return traffic.answering(layout, inference, request)

    builders: dict[str, Callable[[], Contender]] = {
        layout: partial(build, layout) for layout in LAYOUTS
    }
    if peers:
        builders["numpy-loop"] = partial(_numpy_loop, request)
    if peers and torch:
        builders["torch-sort-loop"] = partial(peers_traffic.build_sort_loop, request, settings)
    verify = request.verifier(settings.dtype)
    return compare(builders, verify, seconds=seconds, progress=progress)


def _times(found: Comparison) -> Row:
    row = {t.name: Milliseconds(t.median_us / 1e3) for t in found.timings}
    if not set(LAYOUTS) <= set(row):
        return row
    return {**row, "auto / better": Factor(row["auto"] / min(row["panel"], row["lane"]))}


def _numpy_loop(request: traffic.Traffic) -> Contender:
    """Return a sort by model, then matrix products of each model's rows."""
    problem, (only,) = request.problem, request.requests
    y = np.empty((len(only.slots), problem.case.sizes[-1]), np.float32)

    def answer(_: int) -> Float32Array:
        order = np.argsort(only.slots, kind="stable")
        models, first = np.unique(only.slots[order], return_index=True)
        for model, entries in zip(models, np.split(order, first[1:]), strict=True):
            rows = only.x[entries]
            for layer, (w, b) in enumerate(zip(problem.weights, problem.biases, strict=True)):
                if layer > 0:
                    np.maximum(rows, 0, out=rows)
                rows = rows @ w[model] + b[model]
            y[entries] = rows
        return y

    return traffic.rotating("numpy-loop", answer, 1, "sort, then products of each model's rows")
