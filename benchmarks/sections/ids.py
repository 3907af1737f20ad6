"""Any rows for any models: ``forward(x, models=slots)``, beside PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks import mixtures, peers_traffic, traffic
from benchmarks.step import Step, part_of, rows_of, table_of
from benchmarks.table import (
    Factor,
    GigabytesPerSecond,
    Microseconds,
    Nanoseconds,
    Row,
    Share,
    Surplus,
    Table,
)
from mlpbank.bench.cases import Case, Problem, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.measure import Comparison, Progress, compare, find_difference, find_error
from mlpbank.bench.peers import make_inference
from mlpbank.inference import BatchedInference

SIZES = (32, 64, 64, 1)
MANY, FEW = 10_000, 1_000  # models
SUBSET, SUBSETS = 500, 40  # entries of a request; all requests together touch nearly all models
ZIPF_ROWS, HUGE_GROUP = 100_000, 50_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--no-torch", action="store_true", help="mlpbank alone")
    parser.add_argument("--divide", type=int, default=1, help="models and rows, for a quick look")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the section's steps."""
    divide: int = args.divide

    def scale(n: int) -> int:
        return max(2, n // divide)

    settings, seconds, torch = args.settings, args.seconds, not args.no_torch
    return [
        Step("some models of many", partial(_subset, settings, seconds, torch, scale)),
        Step("rows by Zipf's law", partial(_zipf, settings, seconds, torch, scale)),
        Step("slots in order", partial(_in_order, settings, seconds / 2, scale)),
        Step("grouping", partial(_grouping, settings, seconds / 2, scale)),
        Step("one huge group", partial(_huge_group, settings, seconds / 2, scale)),
        *mixtures.steps(settings, seconds, torch, scale),
    ]


Scale = Callable[[int], int]


def _problem(models: int) -> Problem:
    return make_problem(Case(models, SIZES, 1))


def _all_models(problem: Problem, dtype: str) -> Callable[[Contender], str | None]:
    return partial(find_error, problem=stored(problem, dtype))


def _dense(inference: BatchedInference, problem: Problem) -> Contender:
    """Return the call without slots: every model, one row each."""
    x = problem.x[:, 0]
    y = np.empty((len(x), SIZES[-1]), np.float32)
    run = partial(inference.forward, x, out=y)
    return Contender("dense", run, lambda: y, "all models, no slots", ours=True)


def _subset(
    settings: Settings, seconds: float, torch: bool, scale: Scale, progress: Progress
) -> Table:
    problem = _problem(scale(MANY))
    requests = traffic.uniform(problem, scale(SUBSET), SUBSETS)
    inference = make_inference(problem, settings)
    right, right_dense = requests.verifier(settings.dtype), _all_models(problem, settings.dtype)
    how = f"{settings.dtype}, by slots"
    builders: dict[str, Callable[[], Contender]] = {
        "mlpbank": lambda: traffic.answering("mlpbank", inference, requests, how)
    }
    if torch:
        builders["torch-index"] = lambda: peers_traffic.build_index(requests, settings)
    builders["dense"] = partial(_dense, inference, problem)
    found = compare(
        builders,
        lambda who: right_dense(who) if who.name == "dense" else right(who),
        seconds=seconds,
        progress=progress,
    )

    per_model = problem.case.nbytes_as(settings.dtype) / problem.case.num_models
    models = {"mlpbank": scale(SUBSET), "dense": problem.case.num_models}
    speed = {name: per_model * n / found.us(name) / 1e3 for name, n in models.items()}
    rows: list[Row] = []
    for row in rows_of(found):
        name = str(row[""])
        if name == "dense":
            row = {**row, "mlpbank is faster by": ""}  # it does more
        if name in speed:
            read = GigabytesPerSecond(speed[name])
            of_dense = Share(speed[name] / speed["dense"])
            row = {**row, "weights read": read, "of dense": of_dense}
        rows.append(row)
    title = f"{scale(SUBSET)} random of {problem.case.network}, one row each"
    return table_of(title, rows, found)


def _zipf(
    settings: Settings, seconds: float, torch: bool, scale: Scale, progress: Progress
) -> Table:
    problem = _problem(scale(MANY))
    request = traffic.zipf(problem, scale(ZIPF_ROWS))
    how = f"{settings.dtype}, by slots"

    def build() -> Contender:
        return traffic.answering("mlpbank", make_inference(problem, settings), request, how)

    builders: dict[str, Callable[[], Contender]] = {"mlpbank": build}
    if torch:
        builders["torch-sort-loop"] = lambda: peers_traffic.build_sort_loop(request, settings)
        builders["torch-padded"] = lambda: peers_traffic.build_padded(request, settings)
    verify = request.verifier(settings.dtype)
    found = compare(builders, verify, seconds=seconds, progress=progress)
    used = len(np.unique(request.requests[0].slots))
    rows = f"{scale(ZIPF_ROWS)} rows for {problem.case.network}"
    title = f"{rows} by Zipf's law ({used} models have some)"
    return table_of(title, rows_of(found), found)


def _in_order(settings: Settings, seconds: float, scale: Scale, progress: Progress) -> Table:
    rows: list[Row] = []
    results: list[Comparison] = []
    sizes = (scale(FEW), scale(MANY))
    for i, models in enumerate(sizes):
        problem = _problem(models)
        # One for both: where memory lies makes a difference of some percent.
        inference = make_inference(problem, settings)
        in_order = traffic.in_order(problem)
        found = compare(
            {
                "dense": partial(_dense, inference, problem),
                "by slots": partial(traffic.answering, "by slots", inference, in_order),
            },
            _all_models(problem, settings.dtype),
            seconds=seconds / 2,
            progress=part_of(progress, i, sizes, f"{models} models"),
        )
        results.append(found)
        if len(found.timings) == 2:
            dense, by_slots = found.us("dense"), found.us("by slots")
            rows.append(
                {
                    "": problem.case.network,
                    "dense": Microseconds(dense),
                    "by slots": Microseconds(by_slots),
                    "more": Surplus(by_slots / dense - 1),
                }
            )
    title = "All models in order, one row each: slots = arange(models) or no slots"
    return table_of(title, rows, *results)


def _grouping(settings: Settings, seconds: float, scale: Scale, progress: Progress) -> Table:
    """Time calls of entries without rows: they are checked, grouped and looked up, no more.

    Nothing else shows grouping alone. In a call that computes, rows in disorder are also read and
    written in disorder.
    """
    entries = scale(ZIPF_ROWS)
    problem = _problem(scale(MANY))
    inference = make_inference(problem, settings)
    random = np.random.default_rng(2).integers(0, problem.case.num_models, entries)
    x = np.empty((entries, 0, SIZES[0]), np.float32)
    y = np.empty((entries, 0, SIZES[-1]), np.float32)

    def build(name: str, slots: traffic.Slots) -> Contender:
        run = partial(inference.forward, x, models=slots, out=y)
        return Contender(name, run, lambda: y, ours=True)

    found = compare(
        {
            "random slots": partial(build, "random slots", random),
            "sorted slots": partial(build, "sorted slots", np.sort(random)),
        },
        lambda contender: find_difference(contender, y.astype(np.float64), np.ones(1)),
        seconds=seconds,
        progress=progress,
    )
    rows: list[Row] = [
        {
            "": timing.name,
            "call": Microseconds(timing.median_us),
            "per entry": Nanoseconds(timing.median_us * 1e3 / entries),
        }
        for timing in found.timings
    ]
    title = f"Grouping {entries} entries by {problem.case.network}: calls with no rows to compute"
    return table_of(title, rows, found)


def _huge_group(settings: Settings, seconds: float, scale: Scale, progress: Progress) -> Table:
    problem = _problem(scale(FEW))
    request = traffic.huge_group(problem, scale(HUGE_GROUP))
    inference = make_inference(problem, settings)
    names = {_threads(n): n for n in range(settings.threads, 0, -1) if n in (1, settings.threads)}
    found = compare(
        {
            name: partial(traffic.answering, name, inference, request, num_threads=n)
            for name, n in names.items()
        },
        request.verifier(settings.dtype),
        seconds=seconds,
        progress=progress,
    )
    one = found.us(_threads(1))
    rows: list[Row] = [
        {
            "": timing.name,
            "median": Microseconds(timing.median_us),
            "faster than 1 thread by": Factor(one / timing.median_us),
        }
        for timing in found.timings
    ]
    title = (
        f"{scale(HUGE_GROUP)} rows for one of {problem.case.network}, and one for each other, mixed"
    )
    return table_of(title, rows, found)


def _threads(count: int) -> str:
    return "mlpbank, 1 thread" if count == 1 else f"mlpbank, {count} threads"
