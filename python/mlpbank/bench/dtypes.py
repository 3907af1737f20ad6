"""The section ``dtypes``: weights in half and a quarter of the bytes, beside our own float32."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mlpbank.bench.cases import DTYPES, Case, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.contest import Step, hold
from mlpbank.bench.measure import Progress, find_error
from mlpbank.bench.peers import build_mlpbank
from mlpbank.bench.table import Factor, Microseconds, Row, Table

CASES = (
    Case(1000, (64, 128, 64, 10), 1),
    Case(10_000, (32, 64, 64, 1), 1),
    Case(1000, (32, 64, 64, 1), 32),
)


def steps(settings: Settings, seconds: float, cases: tuple[Case, ...] = CASES) -> list[Step]:
    """Return a part for each case."""
    return [Step(f"dtypes, {case}", partial(_dtypes, case, settings, seconds)) for case in cases]


def _dtypes(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    problem = make_problem(case)

    def build(dtype: str) -> Contender:
        return replace(build_mlpbank(problem, replace(settings, dtype=dtype)), name=dtype)

    contest = hold(
        {dtype: partial(build, dtype) for dtype in DTYPES},
        lambda contender: find_error(contender, stored(problem, contender.name)),
        seconds=seconds,
        progress=progress,
    )
    rows: list[Row] = [
        {
            "": dtype,
            "parameters (MB)": f"{case.nbytes_as(dtype) / 1e6:.3g}",
            "median": Microseconds(timing.median_us),
            "p10": Microseconds(timing.p10_us),
            "p90": Microseconds(timing.p90_us),
            "as fast as float32": Factor(1 / timing.speedup),
        }
        for dtype, timing in contest.timings.items()
    ]
    return contest.table(f"Weights of each dtype, {case}", rows)
