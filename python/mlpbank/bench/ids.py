"""The section ``ids``: any rows for any models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from mlpbank.bench import machine, peers_traffic, traffic
from mlpbank.bench.cases import Case, Problem, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.contest import Contest, Step, hold, part_of
from mlpbank.bench.measure import Progress, find_difference, find_error
from mlpbank.bench.peers import make_bank
from mlpbank.bench.table import Factor, GigabytesPerSecond, Microseconds, Nanoseconds, Row, Share, Surplus, Table
from mlpbank.engine import Engine
from mlpbank.inference import BatchedInference

SIZES = (32, 64, 64, 1)
MANY, FEW = 10_000, 1_000  # models
SUBSET, SUBSETS = 500, 40  # entries of a request; together the requests touch nearly all models, as the dense call does
ZIPF_ROWS, HUGE_GROUP = 100_000, 50_000
Scale = Callable[[int], int]  # tests make everything smaller


def steps(settings: Settings, seconds: float, peers: tuple[str, ...], scale: Scale = lambda n: n) -> list[Step]:
    """Return the section's parts.

    Parameters
    ----------
    settings : Settings
        Threads and such.
    seconds : float
        About so long each part's contenders take turns.
    peers : tuple of str
        PyTorch takes part if "torch" is among them.
    scale : callable
        Is given each number of models and of rows, and returns the one to use.
    """
    torch = "torch" in peers
    return [
        Step("some models of many", partial(_subset, settings, seconds, torch, scale)),
        Step("rows by Zipf's law", partial(_zipf, settings, seconds, torch, scale)),
        Step("ids in order", partial(_in_order, settings, seconds / 2, scale)),
        Step("grouping", partial(_grouping, settings, seconds / 2, scale)),
        Step("one huge group", partial(_huge_group, settings, seconds / 2, scale)),
    ]


def _problem(models: int) -> Problem:
    return make_problem(Case(models, SIZES, 1))


def _bank(problem: Problem, settings: Settings) -> BatchedInference:
    return make_bank(problem, Engine(settings.threads, settings.isa), settings)


def _named(case: Case) -> str:
    return f"{case.num_models} × {'-'.join(map(str, case.sizes))}"


def _subset(settings: Settings, seconds: float, torch: bool, scale: Scale, progress: Progress) -> Table:
    problem = _problem(scale(MANY))
    requests = traffic.uniform(problem, scale(SUBSET), SUBSETS)
    bank = _bank(problem, settings)
    all_models = stored(problem, settings.dtype)
    right = requests.verifier(settings.dtype)

    def verify(contender: Contender) -> str | None:
        return find_error(contender, all_models) if contender.name == "dense" else right(contender)

    builders: dict[str, Callable[[], Contender]] = {
        "mlpbank": lambda: traffic.answering("mlpbank", bank, requests, f"{settings.dtype}, by ids")
    }
    if torch:
        builders["torch-index"] = lambda: peers_traffic.build_index(requests, settings)
    builders["dense"] = partial(_dense, bank, problem)
    contest = hold(builders, verify, seconds=seconds, progress=progress)

    per_model = problem.case.nbytes_as(settings.dtype) / problem.case.num_models
    speed = {
        name: per_model * models / contest.us(name) / 1e3
        for name, models in (("mlpbank", scale(SUBSET)), ("dense", problem.case.num_models))
    }
    rows: list[Row] = []
    for row in contest.rows():
        name = row[""]
        if name == "dense":
            row = {**row, "mlpbank is faster by": ""}  # it does more
        if name in speed:
            read = GigabytesPerSecond(speed[str(name)])
            row = {**row, "weights read": read, "of dense": Share(speed[str(name)] / speed["dense"])}
        rows.append(row)
    title = f"{scale(SUBSET)} random of {_named(problem.case)}, one row each"
    return contest.table(title, rows)


def _zipf(settings: Settings, seconds: float, torch: bool, scale: Scale, progress: Progress) -> Table:
    problem = _problem(scale(MANY))
    request = traffic.zipf(problem, scale(ZIPF_ROWS))
    builders: dict[str, Callable[[], Contender]] = {
        "mlpbank": lambda: traffic.answering("mlpbank", _bank(problem, settings), request, f"{settings.dtype}, by ids")
    }
    if torch:
        builders["torch-sort-loop"] = lambda: peers_traffic.build_sort_loop(request, settings)
        builders["torch-padded"] = lambda: peers_traffic.build_padded(request, settings)
    contest = hold(builders, request.verifier(settings.dtype), seconds=seconds, progress=progress)
    used = len(np.unique(request.requests[0].ids))
    title = f"{scale(ZIPF_ROWS)} rows for {_named(problem.case)} by Zipf's law ({used} models have some)"
    return contest.table(title, contest.rows())


def _in_order(settings: Settings, seconds: float, scale: Scale, progress: Progress) -> Table:
    rows: list[Row] = []
    results: list[Contest] = []
    others = machine.OtherLoad()
    for i, models in enumerate((scale(FEW), scale(MANY))):
        problem = _problem(models)
        bank = _bank(problem, settings)  # one for both: where memory lies makes a difference of some percent
        contest = hold(
            {
                "dense": partial(_dense, bank, problem),
                "by ids": partial(traffic.answering, "by ids", bank, traffic.in_order(problem)),
            },
            partial(find_error, problem=stored(problem, settings.dtype)),
            seconds=seconds / 2,
            progress=part_of(progress, i, 2, f"{models} models"),
        )
        results.append(contest)
        if len(contest.timings) == 2:
            dense, by_ids = contest.us("dense"), contest.us("by ids")
            rows.append(
                {
                    "": _named(problem.case),
                    "dense": Microseconds(dense),
                    "by ids": Microseconds(by_ids),
                    "more": Surplus(by_ids / dense - 1),
                }
            )
    wrong = {name: why for contest in results for name, why in contest.wrong.items()}
    return Table("All models in order, one row each: ids = arange(models) or no ids", rows, wrong, {}, others.share())


def _dense(bank: BatchedInference, problem: Problem) -> Contender:
    """Return the call without ids: every model, one row each."""
    x = problem.x[:, 0]
    y = np.empty((len(x), SIZES[-1]), np.float32)
    return Contender("dense", lambda: bank.forward(x, out=y), lambda: y, "all models, without ids")


def _grouping(settings: Settings, seconds: float, scale: Scale, progress: Progress) -> Table:
    """Time calls of entries without rows, which are looked at, grouped and looked up, with nothing to compute after it.

    No other way leaves grouping alone: in a call that computes, rows in disorder are also read and written in disorder.
    """
    entries = scale(ZIPF_ROWS)
    problem = _problem(scale(MANY))
    bank = _bank(problem, settings)
    random = np.random.default_rng(2).integers(0, problem.case.num_models, entries)
    x = np.empty((entries, 0, SIZES[0]), np.float32)
    y = np.empty((entries, 0, SIZES[-1]), np.float32)

    def build(name: str, ids: traffic.Ids) -> Contender:
        return Contender(name, lambda: bank.forward(x, models=ids, out=y), lambda: y)

    contest = hold(
        {
            "random ids": partial(build, "random ids", random),
            "sorted ids": partial(build, "sorted ids", np.sort(random)),
        },
        lambda contender: find_difference(contender, y.astype(np.float64), np.ones(1)),
        seconds=seconds,
        progress=progress,
    )
    rows: list[Row] = [
        {"": name, "call": Microseconds(timing.median_us), "per entry": Nanoseconds(timing.median_us * 1e3 / entries)}
        for name, timing in contest.timings.items()
    ]
    title = f"Grouping {entries} entries by {_named(problem.case)}: calls with no rows to compute"
    return contest.table(title, rows)


def _huge_group(settings: Settings, seconds: float, scale: Scale, progress: Progress) -> Table:
    problem = _problem(scale(FEW))
    request = traffic.huge_group(problem, scale(HUGE_GROUP))
    bank = _bank(problem, settings)
    names = {_threads(n): n for n in range(settings.threads, 0, -1) if n in (1, settings.threads)}
    contest = hold(
        {name: partial(traffic.answering, name, bank, request, num_threads=n) for name, n in names.items()},
        request.verifier(settings.dtype),
        seconds=seconds,
        progress=progress,
    )
    one = contest.us(_threads(1))
    rows: list[Row] = [
        {
            "": name,
            "median": Microseconds(timing.median_us),
            "faster than 1 thread by": Factor(one / timing.median_us) if name != _threads(1) else "",
        }
        for name, timing in contest.timings.items()
    ]
    title = f"{scale(HUGE_GROUP)} rows for one of {_named(problem.case)}, and one for each other, mixed"
    return contest.table(title, rows)


def _threads(count: int) -> str:
    return "mlpbank, 1 thread" if count == 1 else f"mlpbank, {count} threads"
