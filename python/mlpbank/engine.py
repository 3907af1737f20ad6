"""Engine: the instruction set and the threads that compute. CpuBudget: how many there may be."""

from __future__ import annotations

from dataclasses import dataclass

from mlpbank import _core
from mlpbank.architecture import positive_int
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Isa


@dataclass(frozen=True)
class CpuBudget:
    """How many threads mlpbank may use, and why. `cpu_budget` makes it; ``int()`` is the number.

    Attributes
    ----------
    threads : int
        The most threads of one call. All calls together start at most as many helper threads.
    limits : dict of str to int, float or None
        Every limit by name, None where it does not apply. ``"MLPBANK_NUM_THREADS"`` and
        ``"OMP_NUM_THREADS"`` are the environment variables. ``"affinity"`` is the number of CPUs
        that this process may run on. ``"cgroup"`` is the smallest CPU quota of its cgroups, in
        CPUs; it is rounded up for `threads`.
    reason : str
        The name of the smallest limit.
    """

    threads: int
    limits: dict[str, int | float | None]
    reason: str

    def __index__(self) -> int:
        return self.threads


def cpu_budget() -> CpuBudget:
    """Return how many threads mlpbank may use in this process now.

    The number is the smallest of four limits: the environment variable MLPBANK_NUM_THREADS;
    OMP_NUM_THREADS (the first number of a list such as ``"4,2"``); the CPUs that this process may
    run on; and the CPU quota of its cgroup and all cgroups above it (version 1 and 2). An `Engine`
    made now gets this many threads, unless it is asked for fewer.

    Returns
    -------
    CpuBudget

    Raises
    ------
    ValueError
        MLPBANK_NUM_THREADS is not a positive integer.

    Examples
    --------
    >>> cpu_budget()  # doctest: +SKIP
    CpuBudget(threads=2, limits={'MLPBANK_NUM_THREADS': None, 'OMP_NUM_THREADS': None, 'affinity':
    8, 'cgroup': 1.5}, reason='cgroup')
    """
    return _read("")


def _read(root: str) -> CpuBudget:
    """Return the budget by the system files below `root`, which is "" except in tests."""
    budget = _core.cpu_budget(root)
    limits: dict[str, int | float | None] = {
        "MLPBANK_NUM_THREADS": budget.own_variable or None,
        "OMP_NUM_THREADS": budget.openmp_variable or None,
        "affinity": budget.affinity,
        "cgroup": budget.cgroup or None,
    }
    return CpuBudget(budget.threads, limits, budget.reason)


def as_threads(num_threads: int | None) -> int:
    """Return a number of threads as the core takes it, 0 for its default."""
    return 0 if num_threads is None else min(positive_int(num_threads, "num_threads"), 2**31 - 1)


def available_isas() -> list[str]:
    """Return the instruction sets of this machine, fastest first: avx512, avx2, neon, portable."""
    return _core.available_isas()


class Engine:
    """An instruction set and a number of threads, which all arithmetic uses.

    Parameters
    ----------
    num_threads : int, optional
        The most threads of one call. The default is `cpu_budget`, which is also the upper bound.
    isa : {"avx512", "avx2", "neon", "portable"}, optional
        The default is the fastest instruction set of this machine. The environment variable
        MLPBANK_ISA lowers it.

    Raises
    ------
    TypeError, ValueError
        `num_threads` is not a positive integer, or `isa` or MLPBANK_ISA is unknown or not
        available on this machine.
    """

    def __init__(self, num_threads: int | None = None, isa: Isa | None = None) -> None:
        threads = as_threads(num_threads)
        if isa is not None and not isinstance(isa, str):
            raise InvalidTypeError(f"isa: expected a string, got {isa!r}")
        if isa is not None and not isa:
            raise InvalidValueError(
                f"isa: expected one of {', '.join(map(repr, available_isas()))}, got ''"
            )
        self._core = _core.Engine(threads, isa or "")
        self._arguments = (num_threads, isa)

    @property
    def num_threads(self) -> int:
        """The most threads that one call uses."""
        return self._core.num_threads

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._core.isa

    def __reduce__(self) -> tuple[type[Engine], tuple[int | None, str | None]]:
        # The arguments, not what they became: another process may have another budget.
        return Engine, self._arguments

    def __repr__(self) -> str:
        return f"Engine(num_threads={self.num_threads}, isa={self.isa!r})"
