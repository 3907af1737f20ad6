"""What a contender is: something that computes a problem's outputs, ready to be called again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from mlpbank.bench.cases import Problem
from mlpbank.errors import MlpbankError


@dataclass(frozen=True)
class Settings:
    """What all contenders of a run share.

    Parameters
    ----------
    threads : int
        Every contender may use so many.
    isa : str, optional
        mlpbank's instruction set.
    layout : str
        mlpbank's layout of the weights.
    dtype : str
        Precision of mlpbank's weights; the others have float32.
    """

    threads: int
    isa: str | None = None
    layout: str = "auto"
    dtype: str = "float32"


@dataclass(frozen=True)
class Contender:
    """One library with its own copy of a problem.

    Parameters
    ----------
    name : str
        As the user names it.
    run : callable
        Computes all outputs once; this is what is timed.
    output : callable
        Returns what the last `run` computed, as an array of the size of (num_models, rows, output_size).
    detail : str
        Which of several ways of using the library this is.
    """

    name: str
    run: Callable[[], object]
    output: Callable[[], npt.ArrayLike]
    detail: str = ""


Builder = Callable[[Problem, Settings], Contender]


class UnavailableError(MlpbankError, RuntimeError):
    """A peer cannot take part; the message says why."""


def activation(table: dict[str, Any], name: str, peer: str) -> Any:
    """Return the entry of `table` for the activation `name`.

    Raises
    ------
    UnavailableError
        There is none.
    """
    if name not in table:
        raise UnavailableError(f"{peer} is not set up for {name}")
    return table[name]


def fastest(contenders: Sequence[Contender], *, tries: int = 7) -> Contender:
    """Return the contender whose best call is the fastest. They take turns; one that is hopeless is tried once."""
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
