"""Verify contenders, then time them in turns, and measure the machine's limits in between."""

from __future__ import annotations

import gc
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from mlpbank.bench import machine
from mlpbank.bench.cases import Case, Problem, make_problem, stored
from mlpbank.bench.contender import Builder, Contender, Settings, UnavailableError
from mlpbank.bench.limits import LimitProbes, Limits, settle
from mlpbank.engine import Engine

SAMPLE_SECONDS = 1e-3  # duration of a sample, which repeats the call
# Warm-up calls wake a contender's threads and bring its weights back into cache after the turns
# of others. With 69 MB of weights, 17 calls were needed.
_WARM_CALLS = 20
_WARM_SECONDS = (5e-3, 60e-3)  # at least, at most
_TURN_SECONDS = 5e-3  # of samples in one turn
_TURN_SAMPLES = 5  # at most, in one turn
_ROUNDS = (11, 301)  # at least, at most, if the time suffices
ENOUGH_ROUNDS = 3  # at least, however long they take
_LIMIT_ROUNDS = 5  # number of rounds that begin with a measurement of the limits
# If mlpbank was faster than a limit: how often all is repeated, for which part of the time, and
# how often the limits are measured before.
_REPEATS, _REPEAT_PART, _REPEAT_PROBES = 2, 0.25, 5

Progress = Callable[[float, str], None]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """The samples of one contender, in microseconds per call."""

    name: str
    detail: str
    median_us: float
    p10_us: float
    p90_us: float
    min_us: float
    samples: int
    calls_per_sample: int
    speedup: float  # of the first contender over this one, by their medians


@dataclass(frozen=True)
class Comparison:
    """The results of contenders, in the order of their names in the call."""

    timings: list[Timing]
    wrong: dict[str, str] = field(default_factory=dict)  # by name, what is wrong with outputs
    left_out: dict[str, str] = field(default_factory=dict)  # by name, why it was not timed
    failed: bool = False  # whether a wrong one is mlpbank
    other_load: float | None = None  # share of all CPUs that other processes used

    @property
    def best_peer(self) -> Timing | None:
        """The fastest contender beside the first, if any was timed."""
        return min(self.timings[1:], key=lambda t: t.median_us, default=None)

    def us(self, name: str) -> float:
        """Return a contender's median in microseconds; NaN where it was not timed."""
        return next((t.median_us for t in self.timings if t.name == name), math.nan)


@dataclass(frozen=True, kw_only=True)
class CaseResult(Comparison):
    """The results of one case. `timings` starts with mlpbank, or is empty."""

    case: Case
    isa: str
    nbytes: int
    flops: int
    limits: Limits | None = None


def find_difference(
    contender: Contender, expected: Float64s, tolerance: Float64s, first_axis: str = "model"
) -> str | None:
    """Return the place of the largest error beyond `tolerance` in words, None if there is none.

    The axes of `expected` are `first_axis`, rows, outputs.
    """
    contender.run()
    y = np.asarray(contender.output())
    if y.size != expected.size:
        return f"expected {expected.size} outputs, got {y.size}"
    y = y.reshape(expected.shape)
    distance = np.abs(y - expected) / tolerance
    if (distance <= 1).all():  # False if there is a NaN
        return None
    bad = np.unravel_index(int(np.argmax(np.nan_to_num(distance, nan=math.inf))), distance.shape)
    first, row, output = map(int, bad)
    where = f"{first_axis} {first}, row {row}, output {output}"
    return f"{where}: expected {expected[bad]:.7g}, got {float(y[bad]):.7g}"


def find_error(contender: Contender, problem: Problem) -> str | None:
    """Return what is wrong with the contender's outputs for `problem`, None if nothing."""
    return find_difference(contender, problem.expected, problem.tolerance)


def compare(
    builders: Mapping[str, Callable[[], Contender]],
    verify: Callable[[Contender], str | None],
    *,
    seconds: float,
    progress: Progress = lambda fraction, doing: None,
    probes: LimitProbes | None = None,
) -> Comparison:
    """Build and verify contenders, and time those that are right in turns for `seconds`.

    Nothing is timed if the first is wrong or missing. `verify` returns what is wrong with a
    contender, or None. `probes` are measured before, between and after the turns. If the first
    contender beats its limit, all is measured again, a bounded number of times.
    """
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    wrong: dict[str, str] = {}
    failed = False
    for i, (name, build) in enumerate(builders.items()):
        progress(0.4 * i / len(builders), f"setting up and verifying {name}")
        try:
            contender = build()
        except (ImportError, UnavailableError) as error:
            why = (
                f"not installed ({error.name or error})"
                if isinstance(error, ImportError)
                else error
            )
            left_out[name] = str(why)
            continue
        if error_found := verify(contender):
            wrong[name] = error_found
            failed |= contender.ours
        else:
            contenders.append(contender)
    others = machine.OtherLoad()
    timings: list[Timing] = []
    if contenders and contenders[0].name == next(iter(builders)):
        timings = _time_all(
            contenders, probes, seconds, lambda part, doing: progress(0.4 + 0.6 * part, doing)
        )
    return Comparison(timings, wrong, left_out, failed, others.share())


def run_case(
    case: Case,
    builders: Mapping[str, Builder],
    settings: Settings,
    *,
    seconds: float,
    progress: Progress = lambda fraction, doing: None,
) -> CaseResult:
    """Build, verify and time all contenders on one case, for about `seconds`; mlpbank is first."""
    problem = make_problem(
        case, progress=lambda part: progress(0.1 * part, "computing the reference")
    )
    own = stored(problem, settings.dtype)

    engine, nbytes = Engine(settings.threads, settings.isa), case.nbytes_as(settings.dtype)
    probes = LimitProbes(nbytes, case.flops, engine)
    found = compare(
        {name: partial(build, problem, settings) for name, build in builders.items()},
        lambda contender: find_error(contender, own if contender.ours else problem),
        seconds=seconds,
        progress=lambda part, doing: progress(0.1 + 0.9 * part, doing),
        probes=probes,
    )
    limits = probes.limits(found.timings[0].median_us) if found.timings else None
    return CaseResult(
        **vars(found), case=case, isa=engine.isa, nbytes=nbytes, flops=case.flops, limits=limits
    )


def _time_all(
    contenders: Sequence[Contender],
    probes: LimitProbes | None,
    seconds: float,
    progress: Progress,
) -> list[Timing]:
    limits = probes.measure if probes else lambda: None
    samples, calls = take_turns(contenders, seconds=seconds, progress=progress, between=limits)
    limits()
    for _ in range(_REPEATS if probes else 0):
        if not probes or not probes.limits(1e6 * float(np.median(samples[0]))).disturbed:
            break
        for _ in range(_REPEAT_PROBES):
            limits()
        again, _ = take_turns(contenders, seconds=_REPEAT_PART * seconds, progress=progress)
        limits()
        for own, new in zip(samples, again, strict=True):
            own.extend(new)
    return summarise(contenders, samples, calls)


@contextmanager
def no_gc() -> Iterator[None]:
    """Switch Python's garbage collector off, so that no sample includes it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _time(contender: Contender, calls: int) -> float:
    """Return the mean duration of `calls` calls in seconds."""
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
    *,
    seconds: float,
    progress: Progress = lambda fraction, doing: None,
    between: Callable[[], None] = lambda: None,
) -> tuple[list[list[float]], list[int]]:
    """Return the samples of each contender, in seconds per call, and its calls per sample.

    Each contender has a turn in every round, in random order, so that other load affects all of
    them alike. No round starts after `seconds`, warm-up included, except the first three. `between`
    is called before the first round and before some others.
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
    pauses = {round(i * rounds / _LIMIT_ROUNDS) for i in range(_LIMIT_ROUNDS)}

    samples: list[list[float]] = [[] for _ in contenders]
    order = list(range(len(contenders)))
    shuffle = random.Random(0).shuffle
    with no_gc():
        for turn in range(rounds):
            if turn in pauses:
                between()
            shuffle(order)
            for i in order:
                settle()
                _warm_up(contenders[i])
                samples[i].extend(_time(contenders[i], calls[i]) for _ in range(per_turn[i]))
            progress((turn + 1) / rounds, "taking turns")
            if turn + 1 >= ENOUGH_ROUNDS and time.perf_counter() - begin >= seconds:
                break
    return samples, calls


def summarise(
    contenders: Sequence[Contender], samples: Sequence[Sequence[float]], calls: Sequence[int]
) -> list[Timing]:
    """Return medians, quantiles, and how many times faster the first contender is than each."""
    medians = [float(np.median(s)) for s in samples]
    timings = []
    for contender, own, median, n in zip(contenders, samples, medians, calls, strict=True):
        p10, p90 = (1e6 * float(q) for q in np.quantile(own, [0.1, 0.9]))
        times = (1e6 * median, p10, p90, 1e6 * min(own))
        ratio = median / medians[0]
        timings.append(Timing(contender.name, contender.detail, *times, len(own), n, ratio))
    return timings
