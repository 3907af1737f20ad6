"""``mlpbank bench`` itself: plan, run, print, write."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlpbank.bench import machine, report
from mlpbank.bench.cases import Case
from mlpbank.bench.measure import CaseResult, run_case
from mlpbank.bench.options import Plan, make_plan
from mlpbank.bench.peers import PEERS, build_mlpbank
from mlpbank.inference import Engine


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 1 where mlpbank's own numbers were wrong; 2 for wrong arguments.
    """
    try:
        plan = make_plan(args)
    except (ValueError, TypeError, OverflowError) as error:
        print(f"mlpbank bench: error: {error}", file=sys.stderr)
        return 2
    about = machine.describe()
    blas = machine.limit_blas(plan.settings.threads)
    _print_head(plan, about, blas)

    builders = {"mlpbank": build_mlpbank, **{name: PEERS[name] for name in plan.peers}}
    results: list[CaseResult] = []
    with _Bar(plan.cases) as bar:
        for case in plan.cases:
            with bar.case(case) as progress:
                results.append(run_case(case, builders, plan.settings, seconds=plan.seconds, progress=progress))
            gc.collect()  # the case's contenders: gigabytes, in cycles
            with bar.hidden():
                print("\n" + report.case_table(results[-1]), flush=True)
    if len(results) > 1:
        print("\n" + report.summary_table(results))
    _write_files(plan, report.as_json(about, blas, plan.settings.threads, plan.dtype, results))
    return 1 if any("mlpbank" in result.wrong for result in results) else 0


def _print_head(plan: Plan, about: dict[str, Any], blas: list[dict[str, Any]]) -> None:
    engine = Engine(plan.settings.threads, plan.settings.isa)
    print(f"{about['cpu']}, {engine.num_threads} of {about['cpus']} CPUs, {engine.isa}, {plan.dtype}")
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    if "numpy" in plan.peers:
        print("\n".join(machine.blas_notes(blas)))


def _write_files(plan: Plan, everything: dict[str, Any]) -> None:
    if plan.json is not None:
        plan.json.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwrote {plan.json}")
    if plan.plot is not None:
        from mlpbank.bench import plot

        for path in plot.draw(everything, plan.plot):
            print(f"wrote {path}")


class _Bar:
    """A progress bar on stderr over all cases, where tqdm is installed; else nothing."""

    def __init__(self, cases: tuple[Case, ...]) -> None:
        self._done = 0
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            return
        layout = "{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {desc}"
        self._bar = tqdm(
            total=len(cases), file=sys.stderr, bar_format=layout, leave=False, dynamic_ncols=True, disable=None
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @contextmanager
    def case(self, case: Case) -> Iterator[Any]:
        """Give the callable that the case reports its progress to."""

        def progress(fraction: float, doing: str) -> None:
            if self._bar is not None:
                self._bar.set_description_str(f"{case}: {doing}", refresh=False)
                self._bar.update(self._done + fraction - self._bar.n)

        yield progress
        self._done += 1

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        if self._bar is not None:
            self._bar.clear()
        yield
        if self._bar is not None:
            self._bar.refresh()
