"""The run of ``mlpbank bench``: plan, measure, print, write."""

from __future__ import annotations

import argparse
import gc
import sys
from importlib.util import find_spec
from typing import Any

from mlpbank.bench import machine, report
from mlpbank.bench.measure import ENOUGH_ROUNDS, CaseResult, run_case
from mlpbank.bench.options import Plan, make_plan
from mlpbank.bench.peers import PEERS, build_mlpbank
from mlpbank.bench.progress import ProgressBar

# For the estimate, in seconds on two cores: set-up of a contender and of the slow ones, the least
# time to measure one, and the time of the reference per float and per operation.
_SET_UP, _SLOW_SET_UP = 0.5, {"torch-compile": 12.0, "torch-loop": 1.0}
_LEAST = 0.1 * (ENOUGH_ROUNDS + 1)
_PER_FLOAT, _PER_FLOP = 3e-8, 1.5e-10
_MODULES = {"torch-compile": "torch", "torch-loop": "torch"}


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 1 if outputs of mlpbank were wrong; 2 for wrong arguments.
    """
    try:
        plan = make_plan(args)
    except (ValueError, TypeError, OverflowError) as error:
        print(f"mlpbank bench: error: {error}", file=sys.stderr)
        return 2
    about = machine.describe()
    blas = machine.limit_blas(plan.settings.threads)
    print(report.head(about, plan.settings))
    if "numpy" in plan.peers:
        print("\n".join(machine.blas_notes(blas)))
    print(announcement(plan), flush=True)

    builders = {"mlpbank": build_mlpbank, **{name: PEERS[name] for name in plan.peers}}
    results: list[CaseResult] = []
    with ProgressBar(len(plan.cases)) as bar:
        for case in plan.cases:
            progress, seconds = bar.part(str(case)), plan.seconds
            result = run_case(case, builders, plan.settings, seconds=seconds, progress=progress)
            results.append(result)
            gc.collect()  # contenders are gigabytes in reference cycles
            bar.print("\n" + report.case_table(result))
    if len(results) > 1:
        print("\n" + report.summary_table(results), flush=True)
    _write_files(plan, report.as_json(about, blas, plan.settings, results))
    return int(any(result.failed for result in results))


def _write_files(plan: Plan, everything: dict[str, Any]) -> None:
    if plan.json is not None:
        report.write_json(plan.json, everything)
        print(f"\nwrote {plan.json}")
    if plan.plot is not None:
        from mlpbank.bench import plot

        for path in plot.draw(everything, plan.plot):
            print(f"wrote {path}")


def estimate(plan: Plan) -> tuple[float, float]:
    """Return estimates in seconds: of measuring, and of set-up with verification."""
    peers = [name for name in plan.peers if find_spec(_MODULES.get(name, name))]
    measuring = set_up = 0.0
    for case in plan.cases:
        floats = case.nbytes / 4 + case.num_models * case.rows * sum(case.sizes)
        work = _PER_FLOAT * floats + _PER_FLOP * case.flops  # of a contender or the reference
        set_up += (len(peers) + 1) * (_SET_UP + work)
        set_up += sum(_SLOW_SET_UP.get(name, 0.0) for name in peers)
        measuring += max(plan.seconds, _LEAST * (len(peers) + 1))
    return measuring, set_up


def announcement(plan: Plan) -> str:
    """Return a line with the estimated duration of the run."""
    measuring, set_up = estimate(plan)
    count = len(plan.cases)
    return (
        f"This takes about {_duration(measuring + set_up)}: {_duration(measuring)} of measuring "
        f"{count} case{'s' if count > 1 else ''}, {_duration(set_up)} of set-up and verification"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{max(1, seconds):.0f} s"
