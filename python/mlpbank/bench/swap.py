"""The section ``swap``: models that are replaced while others predict, and how fast weights are packed."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from mlpbank.bench import machine
from mlpbank.bench.cases import Case, Problem, make_problem, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.contest import Step
from mlpbank.bench.measure import Progress, find_error, settle
from mlpbank.bench.peers import make_bank, stacked_weights
from mlpbank.bench.table import Factor, GigabytesPerSecond, Microseconds, Row, Table
from mlpbank.engine import Engine
from mlpbank.inference import BatchedInference

CASE = Case(1000, (32, 64, 64, 1), 1)
RATE = 1000  # swaps a second
_PERIOD = 0.25  # seconds with swaps, then without, and so on
_LOADS = (2000, 15)  # loads of one model and of all that are timed


def steps(settings: Settings, seconds: float, case: Case = CASE) -> list[Step]:
    """Return the section's parts."""
    return [
        Step("forward while models are replaced", partial(_latency, case, settings, seconds)),
        Step("loading", partial(_loading, case, settings)),
    ]


class Bank:
    """A bank with its problem: what both parts start from. `wrong` says what is wrong with its numbers, if anything."""

    def __init__(self, case: Case, settings: Settings) -> None:
        self.problem: Problem = make_problem(case)
        self.models: BatchedInference = make_bank(self.problem, Engine(settings.threads, settings.isa), settings)
        self.x = self.problem.x[:, 0]
        self.y = np.empty((case.num_models, case.sizes[-1]), np.float32)
        self.stacked = stacked_weights(self.problem)
        self._single = [{name: a[m] for name, a in self.stacked.items()} for m in range(case.num_models)]
        self._right = stored(self.problem, settings.dtype)

    def forward(self) -> None:
        self.models.forward(self.x, out=self.y)

    def swap(self, model: int) -> None:
        """Load a model's own weights once more: the work is that of any weights, and the answers stay right."""
        self.models.load_weights(model, self._single[model])

    def wrong(self) -> dict[str, str]:
        error = find_error(Contender("mlpbank", self.forward, lambda: self.y), self._right)
        return {} if error is None else {"mlpbank": error}


class Swapper:
    """A thread that replaces models at random, `rate` a second, while `active` is set."""

    def __init__(self, bank: Bank, rate: int) -> None:
        self._bank = bank
        self._rate = rate
        self._models = np.random.default_rng(3).permutation(bank.models.num_models).tolist()
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
                self._bank.swap(self._models[self.swaps % len(self._models)])
                self.swaps += 1
                due += 1 / self._rate
                time.sleep(max(0.0, due - time.perf_counter()))


def _latency(case: Case, settings: Settings, seconds: float, progress: Progress) -> Table:
    progress(0.0, "setting up")
    bank = Bank(case, settings)
    title = f"One forward after the other, {case}, while another thread replaces models"
    if wrong := bank.wrong():
        return Table(title, [], wrong)
    others = machine.OtherLoad()
    took: dict[bool, list[float]] = {False: [], True: []}
    active_seconds = 0.0
    periods = 2 * max(1, round(seconds / 2 / _PERIOD))
    with Swapper(bank, RATE) as swapper, _no_gc():
        for period in range(periods):
            swapping = period % 2 == 1
            if swapping:
                swapper.active.set()
            calls = took[swapping]
            start = time.perf_counter()
            while (now := time.perf_counter()) < start + _PERIOD:
                bank.forward()
                calls.append(time.perf_counter() - now)
            swapper.active.clear()
            active_seconds += swapping * (time.perf_counter() - start)
            time.sleep(2e-3)  # a swap that has begun ends before the next period
            progress((period + 1) / periods, "swaps on" if swapping else "swaps off")
        swaps = swapper.swaps
    rows: list[Row] = []
    for swapping, name in ((False, "without"), (True, f"{swaps / active_seconds:.0f} swaps a second")):
        p50, p90, p99 = (1e6 * float(q) for q in np.quantile(took[swapping], [0.5, 0.9, 0.99]))
        rows.append(
            {
                "": name,
                "calls": len(took[swapping]),
                "median": Microseconds(p50),
                "p90": Microseconds(p90),
                "p99": Microseconds(p99),
            }
        )
    ratios = [float(np.quantile(took[True], q) / np.quantile(took[False], q)) for q in (0.5, 0.9, 0.99)]
    rows.append({"": "as long", **dict(zip(("median", "p90", "p99"), map(Factor, ratios), strict=True))})
    return Table(title, rows, bank.wrong(), {}, others.share())


def _loading(case: Case, settings: Settings, progress: Progress) -> Table:
    progress(0.0, "setting up")
    bank = Bank(case, settings)
    title = f"Loading weights, {case.num_models} × {'-'.join(map(str, case.sizes))}"
    if wrong := bank.wrong():
        return Table(title, [], wrong)
    others = machine.OtherLoad()
    nbytes = sum(array.nbytes for array in bank.stacked.values())
    copies = {name: np.array(array) for name, array in bank.stacked.items()}

    def load_all() -> None:
        bank.models.weights.load_stacked(bank.stacked)

    def copy_all() -> None:
        for name, array in bank.stacked.items():
            np.copyto(copies[name], array)

    one, many = _LOADS
    swaps = iter(np.random.default_rng(4).integers(0, case.num_models, one).tolist())
    settle()
    timed: dict[str, tuple[float, int]] = {}  # seconds, bytes
    with _no_gc():
        timed["one model"] = _median(lambda: bank.swap(next(swaps)), one), nbytes // case.num_models
        progress(0.3, "all models")
        load_all()  # twice as much memory as one generation takes: from now on it is used again
        alternating: list[list[float]] = [[], []]
        for _ in range(many):
            for samples, function in zip(alternating, (load_all, copy_all), strict=True):
                samples.append(_seconds(function))
        timed["all models (load_stacked)"] = float(np.median(alternating[0])), nbytes
        progress(0.6, "all models beside a reader")
        with _reader(bank):
            timed["all models, beside a thread that predicts"] = _median(load_all, many), nbytes
        timed["memory copy of as much, by NumPy"] = float(np.median(alternating[1])), nbytes
    rows: list[Row] = [
        {
            "": name,
            "median": Microseconds(1e6 * seconds),
            "weights": GigabytesPerSecond(size / seconds / 1e9),
            "of the copy's speed": Factor(size / seconds / (nbytes / float(np.median(alternating[1])))),
        }
        for name, (seconds, size) in timed.items()
    ]
    return Table(title, rows, bank.wrong(), {}, others.share())


@contextmanager
def _reader(bank: Bank) -> Iterator[None]:
    """Let another thread call forward all the time."""
    stop = threading.Event()
    y = np.empty_like(bank.y)

    def read() -> None:
        while not stop.is_set():
            bank.models.forward(bank.x, out=y)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _no_gc() -> Iterator[None]:
    """Keep Python's garbage collector from being timed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _median(function: Callable[[], Any], count: int) -> float:
    return float(np.median([_seconds(function) for _ in range(count)]))


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
