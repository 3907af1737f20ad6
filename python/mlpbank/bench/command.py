"""``mlpbank bench`` itself: plan, run, print, write."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from mlpbank.bench import dtypes, ids, machine, more, report, swap
from mlpbank.bench.contest import Step
from mlpbank.bench.measure import CaseResult, run_case
from mlpbank.bench.options import Plan, make_plan
from mlpbank.bench.peers import PEERS, build_mlpbank
from mlpbank.bench.table import Table
from mlpbank.engine import Engine
from mlpbank.errors import MlpbankError
from mlpbank.files._atomic import atomic_writer

_MORE = 15  # the section "more" has many cases and takes so much less time for each
# For the estimate: how many times --seconds each section measures, and rough seconds of set-up on two cores.
_PARTS = {"ids": 3.5, "dtypes": 3, "swap": 1, "more": 2}
_SECTION_SECONDS = {"ids": 15, "dtypes": 6, "swap": 2, "more": 60}
_CASE_SECONDS, _PEER_SECONDS = 1, 2
_SET_UP = {"torch-compile": 12}
_MODULES = {"torch-compile": "torch", "torch-loop": "torch"}
_OTHERS = ("torch", "numpy")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 1 where mlpbank's own numbers were wrong; 2 for wrong arguments.
    """
    try:
        plan = make_plan(args)
    except MlpbankError as error:
        print(f"mlpbank bench: error: {error}", file=sys.stderr)
        return 2
    about = machine.describe()
    blas = machine.limit_blas(plan.settings.threads)
    _print_head(plan, about, blas)
    print(estimate(plan), flush=True)

    builders = {"mlpbank": build_mlpbank, **{name: PEERS[name] for name in plan.peers}}
    results: list[CaseResult] = []
    sections = _sections(plan)
    tables: dict[str, list[Table]] = {name: [] for name in sections}
    with _Bar(len(plan.cases) + sum(map(len, sections.values()))) as bar:
        for case in plan.cases:
            with bar.part(str(case)) as progress:
                results.append(run_case(case, builders, plan.settings, seconds=plan.seconds, progress=progress))
            gc.collect()  # the case's contenders: gigabytes, in cycles
            with bar.hidden():
                print("\n" + report.case_table(results[-1]), flush=True)
        if len(results) > 1:
            with bar.hidden():
                print("\n" + report.summary_table(results), flush=True)
        for name, steps in sections.items():
            for step in steps:
                with bar.part(step.label) as progress:
                    tables[name].append(step.run(progress))
                gc.collect()
                with bar.hidden():
                    print(f"\n{tables[name][-1]}", flush=True)
    _write_files(plan, report.as_json(about, blas, plan.settings.threads, plan.settings.dtype, results, tables))
    wrong = any("mlpbank" in result.wrong for result in results)
    # Whoever is wrong in a table is mlpbank in some form, or a peer of a name that says so.
    wrong |= any(not name.startswith(_OTHERS) for own in tables.values() for table in own for name in table.wrong)
    return int(wrong)


def _sections(plan: Plan) -> dict[str, list[Step]]:
    """Return what each section does."""
    settings, seconds = plan.settings, plan.seconds
    make: dict[str, Callable[[], list[Step]]] = {
        "ids": lambda: ids.steps(settings, seconds, plan.peers),
        "dtypes": lambda: dtypes.steps(settings, seconds),
        "swap": lambda: swap.steps(settings, seconds),
        "more": lambda: more.steps(settings, seconds / _MORE),
    }
    return {name: make[name]() for name in plan.sections}


def estimate(plan: Plan) -> str:
    """Return a line that says about how long a run takes: measuring, and setting up every contender of every case."""
    parts = len(plan.cases) + sum(_PARTS[name] for name in plan.sections)
    measuring = plan.seconds * parts
    there = [name for name in plan.peers if find_spec(_MODULES.get(name, name))]
    set_up = len(plan.cases) * (_CASE_SECONDS + sum(_SET_UP.get(name, _PEER_SECONDS) for name in there))
    set_up += sum(_SECTION_SECONDS[name] for name in plan.sections)
    return (
        f"This takes about {_duration(measuring + set_up)}: {_duration(measuring)} of measuring "
        f"({parts:.3g} times --seconds {plan.seconds:g}), and roughly {_duration(set_up)} for set-up and verification, "
        f"with {len(there) + 1} contenders in each of {len(plan.cases)} cases"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, seconds):.0f} s"


def _print_head(plan: Plan, about: dict[str, Any], blas: list[dict[str, Any]]) -> None:
    engine = Engine(plan.settings.threads, plan.settings.isa)
    print(f"{about['cpu']}, {engine.num_threads} of {about['cpus']} CPUs, {engine.isa}, {plan.settings.dtype}")
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    if "numpy" in plan.peers:
        print("\n".join(machine.blas_notes(blas)))


def _write_files(plan: Plan, everything: dict[str, Any]) -> None:
    if plan.json is not None:
        data = (json.dumps(everything, indent=1, ensure_ascii=False) + "\n").encode()
        if plan.json.exists() and not plan.json.is_file():  # a pipe or /dev/stdout
            plan.json.write_bytes(data)
        else:
            with atomic_writer(plan.json) as file:
                file.write(data)
        print(f"\nwrote {plan.json}")
    if plan.plot is not None:
        from mlpbank.bench import plot

        for path in plot.draw(everything, plan.plot):
            print(f"wrote {path}")


class _Bar:
    """A progress bar on stderr over all cases and steps, where tqdm is installed; else nothing."""

    def __init__(self, parts: int) -> None:
        self._done = 0
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            return
        layout = "{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {desc}"
        self._bar = tqdm(total=parts, file=sys.stderr, bar_format=layout, leave=False, dynamic_ncols=True, disable=None)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @contextmanager
    def part(self, name: str) -> Iterator[Any]:
        """Give the callable that a case or step reports its progress to."""

        def progress(fraction: float, doing: str) -> None:
            if self._bar is not None:
                self._bar.set_description_str(f"{name}: {doing}", refresh=False)
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
