"""Verify, then time: all contenders in turns, the machine's limits between them."""

from __future__ import annotations

import gc
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank.bench import machine
from mlpbank.bench.cases import Case, Problem, make_problem, stored
from mlpbank.bench.contender import Builder, Contender, Settings, UnavailableError
from mlpbank.engine import Engine

SAMPLE_SECONDS = 1e-3  # one sample repeats the call for so long
# Calls before a contender's samples wake its threads and bring its weights back into cache after the others' turns:
# 25 MB took 5 calls until they were as fast as before, 69 MB took 17. A big cache does not keep what it sees once.
_WARM_CALLS = 20
_WARM_SECONDS = (5e-3, 60e-3)  # at least, at most
_TURN_SECONDS = 5e-3  # samples in one turn, at most _TURN_SAMPLES of them
_TURN_SAMPLES = 5
_ROUNDS = (11, 301)  # at least, at most, where the time suffices
_ENOUGH_ROUNDS = 3  # whatever the time
_LIMIT_ROUNDS = 7  # rounds in which the limits are measured as well
_LIMIT_REPEATS = 5

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Timing:
    """One contender's samples, in microseconds per call."""

    name: str
    detail: str
    median_us: float
    p10_us: float
    p90_us: float
    min_us: float
    samples: int
    calls_per_sample: int
    speedup: float  # of mlpbank over this contender: its median / mlpbank's median


@dataclass(frozen=True)
class Limits:
    """What the machine can do, and how long a case takes at least."""

    read_gb_per_s: float  # over a buffer of the size of the parameters
    fma_gflop_per_s: dict[str, float]  # by instruction set
    read_us: float
    fma_us: float
    binding: str  # "read" or "fma", whichever takes longer
    share: float  # that time / mlpbank's median


@dataclass(frozen=True)
class CaseResult:
    """What came out for one case. `timings` starts with mlpbank; `left_out` says why a contender was not timed."""

    case: Case
    isa: str
    nbytes: int
    flops: int
    timings: list[Timing]
    limits: Limits | None
    left_out: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    other_load: float | None = None  # share of all CPUs that other processes took while contenders took turns

    @property
    def best_peer(self) -> Timing | None:
        """The fastest contender beside mlpbank, if any was timed."""
        return min(self.timings[1:], key=lambda t: t.median_us, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times faster than the fastest peer mlpbank is."""
        return self.best_peer.speedup if self.best_peer else None


def gather(
    builders: Mapping[str, Callable[[], Contender]],
    verify: Callable[[Contender], str | None],
    *,
    progress: Progress = lambda fraction, doing: None,
) -> tuple[list[Contender], dict[str, str], dict[str, str]]:
    """Return the contenders whose numbers are right, why others cannot take part, and what is wrong with the rest."""
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for i, (name, build) in enumerate(builders.items()):
        progress(i / len(builders), f"setting up and verifying {name}")
        try:
            contender = build()
        except ImportError as error:
            left_out[name] = f"not installed ({error.name or error})"
        except UnavailableError as error:
            left_out[name] = str(error)
        else:
            error_found = verify(contender)
            if error_found is None:
                contenders.append(contender)
            else:
                wrong[name] = error_found
    return contenders, left_out, wrong


def find_error(contender: Contender, problem: Problem) -> str | None:
    """Return what is wrong with the contender's outputs, or None where they are right."""
    return find_difference(contender, problem.expected, problem.tolerance)


def find_difference(
    contender: Contender,
    expected: npt.NDArray[np.float64],
    tolerance: npt.NDArray[np.float64],
    first_axis: str = "model",
) -> str | None:
    """Return where the contender's outputs are farther than `tolerance` from (first axis, rows, outputs) expected."""
    contender.run()
    y = np.asarray(contender.output())
    if y.size != expected.size:
        return f"expected {expected.size} outputs, got {y.size}"
    distance = np.abs(y.reshape(expected.shape) - expected) / tolerance
    if (distance <= 1).all():  # a NaN is not
        return None
    bad = np.unravel_index(int(np.argmax(np.nan_to_num(distance, nan=math.inf))), distance.shape)
    first, row, output = map(int, bad)
    value = float(y.reshape(expected.shape)[bad])
    return f"{first_axis} {first}, row {row}, output {output}: expected {expected[bad]:.7g}, got {value:.7g}"


def run_case(
    case: Case,
    builders: Mapping[str, Builder],
    settings: Settings,
    *,
    seconds: float,
    progress: Progress = lambda fraction, doing: None,
) -> CaseResult:
    """Build, verify and time all contenders on one case.

    Parameters
    ----------
    case : Case
        The case.
    builders : mapping of str to Builder
        The contenders by name, mlpbank first.
    settings : Settings
        Threads and such.
    seconds : float
        About so long the contenders take turns.
    progress : callable
        Is told the fraction done, and what is being done.
    """
    problem = make_problem(case, progress=lambda part: progress(0.1 * part, "computing the reference"))
    own = stored(problem, settings.dtype)

    def verify(contender: Contender) -> str | None:
        return find_error(contender, own if contender.name == "mlpbank" else problem)

    contenders, left_out, wrong = gather(
        {name: partial(build, problem, settings) for name, build in builders.items()},
        verify,
        progress=lambda part, doing: progress(0.1 + 0.3 * part, doing),
    )
    engine = Engine(settings.threads, settings.isa)
    nbytes = case.nbytes_as(settings.dtype)
    probes = LimitProbes(nbytes, case.flops, engine)
    timings: list[Timing] = []
    limits = None
    others = machine.OtherLoad()
    if contenders and contenders[0].name == "mlpbank":  # no ratio without it
        samples, calls = take_turns(
            contenders, probes, seconds=seconds, progress=lambda part: progress(0.4 + 0.6 * part, "taking turns")
        )
        timings = summarise(contenders, samples, calls)
        limits = probes.limits(timings[0].median_us)
    return CaseResult(case, engine.isa, nbytes, case.flops, timings, limits, left_out, wrong, others.share())


class LimitProbes:
    """Measures what the machine can do, again and again, for work that reads so many bytes and does so many flops."""

    def __init__(self, nbytes: int, flops: int, engine: Engine) -> None:
        self._nbytes = nbytes
        self._flops = flops
        self._engine = engine
        isas = _core.available_isas()
        lesser = isas[isas.index(Engine().isa) :]  # MLPBANK_ISA may forbid the others
        self._read: list[float] = []
        self._fma: dict[str, list[float]] = {isa: [] for isa in lesser}

    def measure(self) -> None:
        threads = self._engine.num_threads
        settle()
        for isa, samples in self._fma.items():
            samples.append(_core.fma_peak(isa, threads))
        self._read.append(_core.read_bandwidth(self._nbytes, threads, _LIMIT_REPEATS))

    def limits(self, median_us: float, isa: str | None = None) -> Limits:
        """Return the limits, and the share that a median reaches of those of `isa` (the engine's by default)."""
        read = float(np.median(self._read))
        fma = {isa: float(np.median(samples)) for isa, samples in self._fma.items()}
        read_us = self._nbytes / read / 1e3
        fma_us = self._flops / fma[isa or self._engine.isa] / 1e3
        binding = "read" if read_us >= fma_us else "fma"
        return Limits(read, fma, read_us, fma_us, binding, max(read_us, fma_us) / median_us)


def settle() -> None:
    """Wait until this process's threads have gone to sleep: some pools spin for milliseconds after their last work."""
    give_up = time.perf_counter() + 0.2
    while time.perf_counter() < give_up:
        before = time.process_time()
        time.sleep(2e-3)
        if time.process_time() - before < 0.4e-3:
            return


def _time(contender: Contender, calls: int) -> float:
    """Return seconds per call, over `calls` calls."""
    run = contender.run
    start = time.perf_counter_ns()
    for _ in range(calls):
        run()
    return (time.perf_counter_ns() - start) / calls * 1e-9


def _warm_up(contender: Contender) -> None:
    start = time.perf_counter()
    for call in itertools.count(1):
        contender.run()
        spent = time.perf_counter() - start
        if spent >= _WARM_SECONDS[1] or (call >= _WARM_CALLS and spent >= _WARM_SECONDS[0]):
            return


def take_turns(
    contenders: Sequence[Contender],
    probes: LimitProbes | None,
    *,
    seconds: float,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[list[list[float]], list[int]]:
    """Return each contender's samples (seconds per call) and its calls per sample.

    In every round each contender has a turn, in an order that changes, so that whatever else happens on the machine
    happens to all of them. Warming up counts: no round starts after `seconds`, except the first three.
    """
    begin = time.perf_counter()
    calls: list[int] = []
    per_turn: list[int] = []
    round_seconds = 0.0
    for contender in contenders:
        settle()
        start = time.perf_counter()
        _warm_up(contender)
        n = 1
        while (took := _time(contender, n) * n) < SAMPLE_SECONDS:
            n = max(n + 1, math.ceil(1.2 * n * min(10.0, SAMPLE_SECONDS / took)))
        calls.append(n)
        per_turn.append(min(_TURN_SAMPLES, max(1, int(_TURN_SECONDS / took))))
        round_seconds += time.perf_counter() - start + per_turn[-1] * took
    rounds = min(max(_ROUNDS[0], int(seconds / round_seconds)), _ROUNDS[1])
    limit_rounds = {round(i * (rounds - 1) / (_LIMIT_ROUNDS - 1)) for i in range(_LIMIT_ROUNDS)}

    samples: list[list[float]] = [[] for _ in contenders]
    order = list(range(len(contenders)))
    shuffle = random.Random(0).shuffle
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            if probes is not None and turn in limit_rounds:
                probes.measure()
            shuffle(order)
            for i in order:
                settle()
                _warm_up(contenders[i])
                samples[i].extend(_time(contenders[i], calls[i]) for _ in range(per_turn[i]))
            progress((turn + 1) / rounds)
            if turn + 1 >= _ENOUGH_ROUNDS and time.perf_counter() - begin >= seconds:
                break
    finally:
        if was_enabled:
            gc.enable()
    return samples, calls


def summarise(
    contenders: Sequence[Contender], samples: Sequence[Sequence[float]], calls: Sequence[int]
) -> list[Timing]:
    """Return medians and quantiles, and how many times faster the first contender is than each."""
    medians = [float(np.median(s)) for s in samples]
    timings = []
    for contender, own, median, n in zip(contenders, samples, medians, calls, strict=True):
        p10, p90 = np.quantile(own, [0.1, 0.9])
        timings.append(
            Timing(
                contender.name,
                contender.detail,
                median_us=1e6 * median,
                p10_us=1e6 * float(p10),
                p90_us=1e6 * float(p90),
                min_us=1e6 * min(own),
                samples=len(own),
                calls_per_sample=n,
                speedup=median / medians[0],
            )
        )
    return timings
