"""The section ``more``: mlpbank beside itself and the machine's limits, without other libraries but NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mlpbank.architecture import Activation
from mlpbank.bench import machine
from mlpbank.bench.cases import SUITE, Case, Problem, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.contest import Contest, Step, hold, part_of
from mlpbank.bench.measure import LimitProbes, Progress, find_error
from mlpbank.bench.peers import build_mlpbank, build_numpy, make_bank
from mlpbank.bench.table import Cell, Factor, Microseconds, Nanoseconds, Row, Share, Surplus, Table
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


def steps(settings: Settings, seconds: float) -> list[Step]:
    """Return the section's parts. `seconds` is about how long the contenders of one case take turns."""
    return [
        Step("instruction sets and threads", partial(instruction_sets, SUITE, settings, seconds)),
        Step("other sizes", partial(other_sizes, OTHER_SIZES, settings, seconds)),
        Step("growing banks", partial(growing, GROWING, settings, seconds)),
        Step("activations", partial(activations, ACTIVATED, settings, seconds)),
        Step("odd sizes", partial(odd_sizes, ODD, settings, seconds)),
        Step("one model", partial(one_model, settings, seconds)),
    ]


class Ours:
    """One case and mlpbank in several settings on it, verified."""

    def __init__(self, case: Case, settings: Settings) -> None:
        self.settings = settings
        self.problem: Problem = make_problem(case)
        self._right = stored(self.problem, settings.dtype)
        self.nbytes = case.nbytes_as(settings.dtype)
        self.probes = LimitProbes(self.nbytes, case.flops, Engine(settings.threads, settings.isa))

    def hold(self, who: dict[str, Settings], seconds: float, progress: Progress, limits: bool = True) -> Contest:
        def build(name: str, settings: Settings) -> Contender:
            return replace(build_mlpbank(self.problem, settings), name=name)

        return hold(
            {name: partial(build, name, settings) for name, settings in who.items()},
            partial(find_error, problem=self._right),
            seconds=seconds,
            progress=progress,
            probes=self.probes if limits else None,
        )


def _median(contest: Contest, name: str) -> Cell:
    return Microseconds(contest.us(name)) if name in contest.timings else "wrong"


def _collected(title: str, rows: list[Row], contests: Sequence[Contest], others: machine.OtherLoad) -> Table:
    wrong = {name: why for contest in contests for name, why in contest.wrong.items()}
    return Table(title, rows, wrong, {}, others.share())


def instruction_sets(cases: Sequence[Case], settings: Settings, seconds: float, progress: Progress) -> Table:
    """Time each case with all threads, with one, and with the next instruction set below, where that is AVX2."""
    isa = Engine(settings.threads, settings.isa).isa
    lesser = available_isas()[available_isas().index(isa) + 1 :]
    who = {isa: settings}
    if settings.threads > 1:
        who["1 thread"] = replace(settings, threads=1)
    if lesser and lesser[0] != "portable":
        who[lesser[0]] = replace(settings, isa=lesser[0])
    rows: list[Row] = []
    contests = []
    others = machine.OtherLoad()
    for i, case in enumerate(cases):
        ours = Ours(case, settings)
        contest = ours.hold(who, seconds, part_of(progress, i, len(cases), str(case)))
        contests.append(contest)
        row: dict[str, Cell] = {"": str(case)}
        for name in (name for name in who if name in contest.timings):
            row[name] = _median(contest, name)
            if name == "1 thread":
                row[f"{settings.threads} threads faster by"] = Factor(contest.us(name) / contest.us(isa))
            else:
                limits = ours.probes.limits(contest.us(name), name)
                row |= {f"limit of {name}": limits.binding, f"{name}'s share of it": Share(limits.share)}
        rows.append(row)
    return _collected("Instruction sets and threads, each beside its own limit", rows, contests, others)


def other_sizes(cases: Sequence[Case], settings: Settings, seconds: float, progress: Progress) -> Table:
    """Return the share of the limit for sizes that fill no vector evenly."""
    rows: list[Row] = []
    contests = []
    others = machine.OtherLoad()
    for i, case in enumerate(cases):
        ours = Ours(case, settings)
        contest = ours.hold({"mlpbank": settings}, seconds, part_of(progress, i, len(cases), str(case)))
        contests.append(contest)
        row: dict[str, Cell] = {"": str(case), "mlpbank": _median(contest, "mlpbank")}
        if contest.timings:
            limits = ours.probes.limits(contest.us("mlpbank"))
            row |= {"limit": limits.binding, "share of it": Share(limits.share)}
        rows.append(row)
    return _collected("Other sizes and rows", rows, contests, others)


def growing(cases: Sequence[Case], settings: Settings, seconds: float, progress: Progress) -> Table:
    """Return what a model costs in banks of more and more models."""
    rows: list[Row] = []
    contests = []
    others = machine.OtherLoad()
    for i, case in enumerate(cases):
        ours = Ours(case, settings)
        contest = ours.hold({"mlpbank": settings}, seconds, part_of(progress, i, len(cases), str(case)))
        contests.append(contest)
        row: dict[str, Cell] = {"": str(case), "parameters (MB)": f"{ours.nbytes / 1e6:.3g}"}
        if contest.timings:
            limits = ours.probes.limits(contest.us("mlpbank"))
            row |= {
                "mlpbank": _median(contest, "mlpbank"),
                "per model": Nanoseconds(1e3 * contest.us("mlpbank") / case.num_models),
                "reading the parameters": Nanoseconds(1e3 * limits.read_us / case.num_models),
                "share": Share(limits.read_us / contest.us("mlpbank")),
            }
        rows.append(row)
    return _collected("Cost of a model in banks of more and more", rows, contests, others)


def activations(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    """Return what each activation costs more than relu, all of them in turns."""
    hidden = [activation.value for activation in Activation if activation is not Activation.SOFTMAX]
    names = ["relu", *(name for name in hidden if name != "relu")]
    problems: dict[str, Problem] = {}

    def build(name: str) -> Contender:
        problem = make_problem(replace(case, activation=name))
        problems[name] = stored(problem, settings.dtype)
        return replace(build_mlpbank(problem, settings), name=name)

    def verify(contender: Contender) -> str | None:
        return find_error(contender, problems.pop(contender.name))

    contest = hold({name: partial(build, name) for name in names}, verify, seconds=seconds, progress=progress)
    rows: list[Row] = [
        {
            "": name,
            "median": Microseconds(timing.median_us),
            "more than relu": Surplus(timing.speedup - 1),
        }
        for name, timing in contest.timings.items()
    ]
    return contest.table(f"Activations, {case}", rows)


def odd_sizes(sizes: Sequence[int], settings: Settings, seconds: float, progress: Progress) -> Table:
    """Compare networks of odd sizes with those of the next multiple of 16, by time per useful flop."""
    rows: list[Row] = []
    contests = []
    others = machine.OtherLoad()
    for i, size in enumerate(sizes):
        even = -(-size // 16) * 16
        cases = {str(n): Case(ODD_MODELS, (n, n, n), ODD_ROWS) for n in (size, even)}
        problems = {name: make_problem(case) for name, case in cases.items()}

        def build(name: str, problems: dict[str, Problem] = problems) -> Contender:
            return replace(build_mlpbank(problems[name], settings), name=name)

        def verify(contender: Contender, problems: dict[str, Problem] = problems) -> str | None:
            return find_error(contender, stored(problems[contender.name], settings.dtype))

        contest = hold(
            {name: partial(build, name) for name in cases},
            verify,
            seconds=seconds,
            progress=part_of(progress, i, len(sizes), f"{size} and {even}"),
        )
        contests.append(contest)
        if len(contest.timings) < 2:
            continue  # one is wrong
        per_flop = {name: 1e6 * contest.us(name) / case.flops for name, case in cases.items()}
        rows.append(
            {
                "": f"{size} beside {even}",
                "odd": Microseconds(contest.us(str(size))),
                "even": Microseconds(contest.us(str(even))),
                "odd, per 1000 flops": Nanoseconds(per_flop[str(size)]),
                "even, per 1000 flops": Nanoseconds(per_flop[str(even)]),
                "as long per flop": Factor(per_flop[str(size)] / per_flop[str(even)]),
            }
        )
    title = f"Odd sizes beside the next multiple of 16: {ODD_MODELS} × n-n-n, {ODD_ROWS} rows"
    return _collected(title, rows, contests, others)


def one_model(settings: Settings, seconds: float, progress: Progress) -> Table:
    """Compare one row through one model with NumPy, and tell how much of it is the call."""
    problem, smallest = make_problem(ONE), make_problem(SMALLEST)
    own = {"mlpbank": stored(problem, settings.dtype), "numpy": problem, "call": stored(smallest, settings.dtype)}

    def plain() -> Contender:
        bank = make_bank(problem, Engine(settings.threads, settings.isa), settings)
        x = problem.x[:, 0]
        return Contender("mlpbank without out=", lambda: bank.forward(x), lambda: bank.forward(x))

    contest = hold(
        {
            "mlpbank": partial(build_mlpbank, problem, settings),
            "mlpbank without out=": plain,
            "numpy": partial(build_numpy, problem, settings),
            "call": lambda: replace(build_mlpbank(smallest, settings), name="call", detail=f"mlpbank on {SMALLEST}"),
        },
        lambda contender: find_error(contender, own.get(contender.name, own["mlpbank"])),
        seconds=seconds,
        progress=progress,
    )
    return contest.table(f"One model: {ONE}", contest.rows())
