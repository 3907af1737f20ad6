"""Weights in half and a quarter of the bytes, beside mlpbank's own float32."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

from benchmarks.step import Step, table_of
from benchmarks.table import Factor, Microseconds, Row, Table
from mlpbank.bench.cases import DTYPES, Case, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.measure import Progress, compare, find_error
from mlpbank.bench.peers import build_mlpbank

CASES = (
    Case(1000, (64, 128, 64, 10), 1),
    Case(10_000, (32, 64, 64, 1), 1),
    Case(1000, (32, 64, 64, 1), 32),
)


def steps(args: argparse.Namespace) -> list[Step]:
    """Return a step for each case."""
    return [
        Step(f"dtypes, {case}", partial(_dtypes, case, args.settings, args.seconds))
        for case in CASES
    ]


def _dtypes(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    problem = make_problem(case)

    def build(dtype: str) -> Contender:
        return replace(build_mlpbank(problem, replace(settings, dtype=dtype)), name=dtype)

    found = compare(
        {dtype: partial(build, dtype) for dtype in DTYPES},
        lambda contender: find_error(contender, stored(problem, contender.name)),
        seconds=seconds,
        progress=progress,
    )
    rows: list[Row] = [
        {
            "": timing.name,
            "parameters (MB)": f"{case.nbytes_as(timing.name) / 1e6:.3g}",
            "median": Microseconds(timing.median_us),
            "p10": Microseconds(timing.p10_us),
            "p90": Microseconds(timing.p90_us),
            "as fast as float32": Factor(1 / timing.speedup),
        }
        for timing in found.timings
    ]
    return table_of(f"Weights of each dtype, {case}", rows, found)
