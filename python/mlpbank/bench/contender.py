"""A contender: one way to compute the outputs of a problem, ready to be called repeatedly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from mlpbank.bench.cases import Problem
from mlpbank.errors import MlpbankError
from mlpbank.typing import DtypeName, Isa, Layout


@dataclass(frozen=True)
class Settings:
    """The settings of a run. All but `threads` are for mlpbank only."""

    threads: int
    isa: Isa | None = None
    layout: Layout = "auto"
    dtype: DtypeName = "float32"


@dataclass(frozen=True)
class Contender:
    """One library with its own copy of a problem."""

    name: str
    run: Callable[[], object]  # computes all outputs once; this is timed
    output: Callable[[], npt.ArrayLike]  # returns the outputs of the last run
    detail: str = ""  # names one of several ways to use the library
    ours: bool = False  # whether it is mlpbank: wrong outputs then fail the whole run


Builder = Callable[[Problem, Settings], Contender]


class UnavailableError(MlpbankError, RuntimeError):
    """A peer cannot take part. The message says why."""


def activation(table: Mapping[str, Any], name: str, peer: str) -> Any:
    """Return the entry of `table` for the activation `name`, or raise UnavailableError."""
    if name not in table:
        raise UnavailableError(f"{peer} is not set up for {name}")
    return table[name]


def fastest(contenders: Sequence[Contender], *, tries: int = 7) -> Contender:
    """Return the contender with the fastest single call. They take turns; slow ones drop out."""
    for contender in contenders:
        contender.run()
    best = [_call_seconds(contender) for contender in contenders]
    hopeful = [i for i, seconds in enumerate(best) if seconds < 5 * min(best)]
    for _ in range(tries - 1):
        for i in hopeful:
            best[i] = min(best[i], _call_seconds(contenders[i]))
    return contenders[best.index(min(best))]


def _call_seconds(contender: Contender) -> float:
    start = time.perf_counter()
    contender.run()
    return time.perf_counter() - start
