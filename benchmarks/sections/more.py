"""mlpbank beside itself and the machine's limits; of other libraries NumPy, in one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.step import Step, part_of, rows_of, table_of
from benchmarks.table import (
    Cell,
    Factor,
    Microseconds,
    Nanoseconds,
    Row,
    Share,
    Surplus,
    Table,
)
from mlpbank.architecture import Activation
from mlpbank.bench.cases import SUITE, Case, Problem, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.limits import LimitProbes
from mlpbank.bench.measure import Comparison, Progress, compare, find_error
from mlpbank.bench.peers import build_mlpbank, build_numpy, make_inference
from mlpbank.engine import Engine, available_isas

OTHER_SIZES = tuple(
    Case(models, sizes, rows)
    for models, sizes in ((1000, (24, 48, 48, 3)), (777, (17, 33, 5)), (3000, (20, 40, 1)))
    for rows in (1, 7, 48, 300)
)
GROWING = tuple(Case(models, (4, 8, 2), 1) for models in (1_000, 10_000, 100_000, 1_000_000))
ACTIVATED = Case(1000, (32, 64, 64, 1), 32)
ODD, ODD_MODELS, ODD_ROWS = (17, 31, 33, 65, 127), 64, 96
ONE = Case(1, (32, 64, 64, 1), 1)
SMALLEST = Case(1, (1, 1), 1)
_PART = 15  # many cases, each with so much less time


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the section's steps."""
    settings, seconds = args.settings, args.seconds / _PART
    return [
        Step("instruction sets and threads", partial(instruction_sets, SUITE, settings, seconds)),
        Step("other sizes", partial(other_sizes, OTHER_SIZES, settings, seconds)),
        Step("growing", partial(growing, GROWING, settings, seconds)),
        Step("activations", partial(activations, ACTIVATED, settings, seconds)),
        Step("odd sizes", partial(odd_sizes, ODD, settings, seconds)),
        Step("one model", partial(one_model, settings, seconds)),
    ]


def right_for(problem: Problem, dtype: str) -> Callable[[Contender], str | None]:
    """Return what says what is wrong with a contender that has weights of `dtype`."""
    return partial(find_error, problem=stored(problem, dtype))


class Ours:
    """One case, and mlpbank in several settings on it."""

    def __init__(self, case: Case, settings: Settings) -> None:
        self._problem = make_problem(case)
        self._verify = right_for(self._problem, settings.dtype)
        engine = Engine(settings.threads, settings.isa)
        isas = available_isas()
        self.probes = LimitProbes(
            case.nbytes_as(settings.dtype), case.flops, engine, isas[isas.index(engine.isa) :]
        )

    def compare(self, who: dict[str, Settings], seconds: float, progress: Progress) -> Comparison:
        def build(name: str, settings: Settings) -> Contender:
            return replace(build_mlpbank(self._problem, settings), name=name)

        return compare(
            {name: partial(build, name, settings) for name, settings in who.items()},
            self._verify,
            seconds=seconds,
            progress=progress,
            probes=self.probes,
        )


def instruction_sets(
    cases: Sequence[Case], settings: Settings, seconds: float, progress: Progress
) -> Table:
    """Time each case with all threads, with one, and with AVX2 where AVX-512 is in use."""
    isa = Engine(settings.threads, settings.isa).isa
    lesser = available_isas()[available_isas().index(isa) + 1 :]
    who = {isa: settings}
    if settings.threads > 1:
        who["1 thread"] = replace(settings, threads=1)
    if lesser and lesser[0] != "portable":
        who[lesser[0]] = replace(settings, isa=lesser[0])
    rows: list[Row] = []
    results = []
    for i, case in enumerate(cases):
        ours = Ours(case, settings)
        found = ours.compare(who, seconds, part_of(progress, i, cases, str(case)))
        results.append(found)
        row: dict[str, Cell] = {"": str(case)}
        for timing in found.timings:
            name, us = timing.name, timing.median_us
            row[name] = Microseconds(us)
            if name == "1 thread":
                row[f"{settings.threads} threads faster by"] = Factor(us / found.us(isa))
            else:
                limits = ours.probes.limits(us, name)
                row[f"limit of {name}"] = limits.binding
                row[f"{name}'s share of it"] = Share(limits.share)
        rows.append(row)
    title = "Instruction sets and threads, each beside its own limit"
    return table_of(title, rows, *results)


def _each(
    cases: Sequence[Case], settings: Settings, seconds: float, progress: Progress
) -> tuple[list[tuple[Case, float, LimitProbes]], list[Comparison]]:
    """Time mlpbank on each case, and return cases with medians (us), and all comparisons."""
    timed, results = [], []
    for i, case in enumerate(cases):
        ours = Ours(case, settings)
        part = part_of(progress, i, cases, str(case))
        results.append(ours.compare({"mlpbank": settings}, seconds, part))
        if results[-1].timings:
            timed.append((case, results[-1].us("mlpbank"), ours.probes))
    return timed, results


def other_sizes(
    cases: Sequence[Case], settings: Settings, seconds: float, progress: Progress
) -> Table:
    """Return the share of the limit for sizes that fill no vector evenly."""
    timed, results = _each(cases, settings, seconds, progress)
    rows: list[Row] = []
    for case, us, probes in timed:
        limits = probes.limits(us)
        rows.append(
            {
                "": str(case),
                "mlpbank": Microseconds(us),
                "limit": limits.binding,
                "share of it": Share(limits.share),
            }
        )
    return table_of("Other sizes and rows", rows, *results)


def growing(cases: Sequence[Case], settings: Settings, seconds: float, progress: Progress) -> Table:
    """Return what a model costs among more and more models."""
    timed, results = _each(cases, settings, seconds, progress)
    rows: list[Row] = []
    for case, us, probes in timed:
        read_us = probes.limits(us).read_us
        rows.append(
            {
                "": str(case),
                "mlpbank": Microseconds(us),
                "per model": Nanoseconds(1e3 * us / case.num_models),
                "reading the parameters": Nanoseconds(1e3 * read_us / case.num_models),
                "share": Share(read_us / us),
            }
        )
    return table_of("Cost of a model among more and more", rows, *results)


def activations(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    """Return what each activation costs more than relu, all of them in turns."""
    hidden = [a.value for a in Activation if a is not Activation.SOFTMAX]
    names = ["relu", *(name for name in hidden if name != "relu")]
    verifiers: dict[str, Callable[[Contender], str | None]] = {}

    def build(name: str) -> Contender:
        problem = make_problem(replace(case, activation=name))
        verifiers[name] = right_for(problem, settings.dtype)
        return replace(build_mlpbank(problem, settings), name=name)

    found = compare(
        {name: partial(build, name) for name in names},
        lambda contender: verifiers.pop(contender.name)(contender),
        seconds=seconds,
        progress=progress,
    )
    rows: list[Row] = [
        {
            "": timing.name,
            "median": Microseconds(timing.median_us),
            "more than relu": Surplus(timing.speedup - 1),
        }
        for timing in found.timings
    ]
    return table_of(f"Activations, {case}", rows, found)


def odd_sizes(
    sizes: Sequence[int], settings: Settings, seconds: float, progress: Progress
) -> Table:
    """Compare networks of odd sizes with the next multiple of 16, by time per useful flop."""
    rows: list[Row] = []
    results = []
    for i, size in enumerate(sizes):
        even = -(-size // 16) * 16
        cases = {str(n): Case(ODD_MODELS, (n, n, n), ODD_ROWS) for n in (size, even)}
        problems = {name: make_problem(case) for name, case in cases.items()}

        def build(name: str, problems: dict[str, Problem] = problems) -> Contender:
            return replace(build_mlpbank(problems[name], settings), name=name)

        def verify(who: Contender, problems: dict[str, Problem] = problems) -> str | None:
            return right_for(problems[who.name], settings.dtype)(who)

        found = compare(
            {name: partial(build, name) for name in cases},
            verify,
            seconds=seconds,
            progress=part_of(progress, i, sizes, f"{size} and {even}"),
        )
        results.append(found)
        if len(found.timings) < 2:
            continue  # one is wrong
        per_flop = {name: 1e6 * found.us(name) / case.flops for name, case in cases.items()}
        rows.append(
            {
                "": f"{size} beside {even}",
                "odd": Microseconds(found.us(str(size))),
                "even": Microseconds(found.us(str(even))),
                "odd, per 1000 flops": Nanoseconds(per_flop[str(size)]),
                "even, per 1000 flops": Nanoseconds(per_flop[str(even)]),
                "as long per flop": Factor(per_flop[str(size)] / per_flop[str(even)]),
            }
        )
    models = f"{ODD_MODELS} × n-n-n, {ODD_ROWS} rows"
    title = f"Odd sizes beside the next multiple of 16: {models}"
    return table_of(title, rows, *results)


def one_model(settings: Settings, seconds: float, progress: Progress) -> Table:
    """Compare one row through one model with NumPy, and with a call that has nothing to do."""
    problem, smallest = make_problem(ONE), make_problem(SMALLEST)
    verify = {
        "numpy": right_for(problem, "float32"),
        "call": right_for(smallest, settings.dtype),
    }
    ours = right_for(problem, settings.dtype)

    def plain() -> Contender:
        inference = make_inference(problem, settings)
        run = partial(inference.forward, problem.x[:, 0])
        return Contender("mlpbank without out=", run, run, ours=True)

    def call() -> Contender:
        contender = build_mlpbank(smallest, settings)
        return replace(contender, name="call", detail=f"mlpbank on {SMALLEST}")

    found = compare(
        {
            "mlpbank": partial(build_mlpbank, problem, settings),
            "mlpbank without out=": plain,
            "numpy": partial(build_numpy, problem, settings),
            "call": call,
        },
        lambda contender: verify.get(contender.name, ours)(contender),
        seconds=seconds,
        progress=progress,
    )
    return table_of(f"One model: {ONE}", rows_of(found), found)
