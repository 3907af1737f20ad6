"""Models that are replaced while others predict, and how fast weights are packed."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from benchmarks.step import Step
from benchmarks.table import (
    Factor,
    GigabytesPerSecond,
    Microseconds,
    PerSecond,
    Row,
    Table,
)
from mlpbank.bench import machine
from mlpbank.bench.cases import Case, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.limits import settle
from mlpbank.bench.measure import Progress, find_error, no_gc
from mlpbank.bench.peers import make_inference, stacked_weights

CASE = Case(1000, (32, 64, 64, 1), 1)
RATE = 1000  # swaps a second
PERIOD = 0.25  # seconds with swaps, then without, and so on
LOADS = (2000, 15)  # loads of one model and of all that are timed


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the section's steps."""
    latency = partial(_latency, CASE, args.settings, args.seconds)
    return [
        Step("forward while models are replaced", latency),
        Step("loading", partial(_loading, CASE, args.settings)),
    ]


class Swapped:
    """Models with what replaces them: what both steps start from."""

    def __init__(self, case: Case, settings: Settings) -> None:
        problem = make_problem(case)
        self.inference = make_inference(problem, settings)
        self.x = problem.x[:, 0]
        self.y = np.empty((case.num_models, case.sizes[-1]), np.float32)
        self.stacked = stacked_weights(problem)
        models = range(case.num_models)
        self._single = [{name: a[m] for name, a in self.stacked.items()} for m in models]
        self._right = stored(problem, settings.dtype)

    def forward(self) -> None:
        self.inference.forward(self.x, out=self.y)

    def swap(self, model: int) -> None:
        """Load a model's own weights once more: the work is that of any, and answers stay right."""
        self.inference.load_weights(model, self._single[model])

    def wrong(self) -> dict[str, str]:
        """Return what is wrong with the answers, if anything."""
        contender = Contender("mlpbank", self.forward, lambda: self.y, ours=True)
        error = find_error(contender, self._right)
        return {} if error is None else {"mlpbank": error}

    def table(self, title: str, rows: list[Row], others: machine.OtherLoad | None = None) -> Table:
        """Return a table, after a last look at the answers."""
        wrong = self.wrong()
        load = others.share() if others else None
        return Table(title, rows, wrong, failed=bool(wrong), other_load=load)


class Swapper:
    """A thread that replaces models at random, `rate` a second, while `active` is set."""

    def __init__(self, models: Swapped, rate: int) -> None:
        self._models = models
        self._rate = rate
        slots = np.random.default_rng(3).permutation(models.inference.num_models)
        self._slots: list[int] = slots.tolist()
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self.active = threading.Event()
        self.swaps = 0

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self.active.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.active.wait()
            due = time.perf_counter()
            while self.active.is_set():
                if self._stop:
                    return
                self._models.swap(self._slots[self.swaps % len(self._slots)])
                self.swaps += 1
                due += 1 / self._rate
                time.sleep(max(0.0, due - time.perf_counter()))


def _latency(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    progress(0.0, "setting up")
    models = Swapped(case, settings)
    title = f"One forward after the other, {case}, while another thread replaces models"
    if models.wrong():
        return models.table(title, [])
    others = machine.OtherLoad()
    took: dict[bool, list[float]] = {False: [], True: []}
    active_seconds = 0.0
    periods = 2 * max(1, round(seconds / 2 / PERIOD))
    with Swapper(models, RATE) as swapper, no_gc():
        for period in range(periods):
            swapping = period % 2 == 1
            if swapping:
                swapper.active.set()
            calls = took[swapping]
            start = time.perf_counter()
            while (now := time.perf_counter()) < start + PERIOD:
                models.forward()
                calls.append(time.perf_counter() - now)
            swapper.active.clear()
            active_seconds += swapping * (time.perf_counter() - start)
            time.sleep(2e-3)  # a swap that has begun ends before the next period
            progress((period + 1) / periods, "swaps on" if swapping else "swaps off")
        swaps = swapper.swaps
    quantiles = {"median": 0.5, "p90": 0.9, "p99": 0.99}
    names = {False: "without", True: "with swaps"}
    rates = {False: 0.0, True: swaps / active_seconds}
    found = {
        swapping: {name: float(np.quantile(calls, q)) for name, q in quantiles.items()}
        for swapping, calls in took.items()
    }
    rows: list[Row] = [
        {
            "": names[swapping],
            "calls": len(took[swapping]),
            "swaps": PerSecond(rates[swapping]),
            **{name: Microseconds(1e6 * seconds) for name, seconds in own.items()},
        }
        for swapping, own in found.items()
    ]
    as_long = {name: Factor(found[True][name] / found[False][name]) for name in quantiles}
    rows.append({"": "as long", **as_long})
    return models.table(title, rows, others)


def _loading(case: Case, settings: Settings, progress: Progress) -> Table:
    progress(0.0, "setting up")
    models = Swapped(case, settings)
    title = f"Loading weights, {case.network}"
    if models.wrong():
        return models.table(title, [])
    others = machine.OtherLoad()
    nbytes = sum(array.nbytes for array in models.stacked.values())
    copies = {name: np.array(array) for name, array in models.stacked.items()}

    def load_all() -> None:
        models.inference.weights.load_stacked(models.stacked)

    def copy_all() -> None:
        for name, array in models.stacked.items():
            np.copyto(copies[name], array)

    one, many = LOADS
    swaps = iter(np.random.default_rng(4).integers(0, case.num_models, one).tolist())
    settle()
    with no_gc():
        single = _median(lambda: models.swap(next(swaps)), one)
        progress(0.3, "all models")
        load_all()  # allocates as much again; from now on that memory is used again
        in_turns = [(_seconds(load_all), _seconds(copy_all)) for _ in range(many)]
        progress(0.6, "all models beside a reader")
        with _reader(models):
            beside = _median(load_all, many)
    load, copy = (float(s) for s in np.median(in_turns, axis=0))
    timed = {  # seconds, bytes
        "one model": (single, nbytes // case.num_models),
        "all models (load_stacked)": (load, nbytes),
        "all models, beside a thread that predicts": (beside, nbytes),
        "memory copy of as much, by NumPy": (copy, nbytes),
    }
    rows: list[Row] = [
        {
            "": name,
            "median": Microseconds(1e6 * seconds),
            "weights": GigabytesPerSecond(size / seconds / 1e9),
            "of the copy's speed": Factor(size / seconds / (nbytes / copy)),
        }
        for name, (seconds, size) in timed.items()
    ]
    return models.table(title, rows, others)


@contextmanager
def _reader(models: Swapped) -> Iterator[None]:
    """Let another thread call forward all the time."""
    stop = threading.Event()
    y = np.empty_like(models.y)

    def read() -> None:
        while not stop.is_set():
            models.inference.forward(models.x, out=y)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _median(function: Callable[[], Any], count: int) -> float:
    return float(np.median([_seconds(function) for _ in range(count)]))


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
