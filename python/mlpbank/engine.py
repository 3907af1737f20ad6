"""Engine: the instruction set and the threads that compute, and how many threads there may be."""

from __future__ import annotations

from dataclasses import dataclass

from mlpbank import _core
from mlpbank.architecture import positive_int
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Isa


@dataclass(frozen=True)
class CpuBudget:
    """A number of threads, and what it comes from; made by `cpu_budget`. ``int()`` gives the number.

    Attributes
    ----------
    threads : int
        The most threads that mlpbank uses in one call, and for all calls together beside the
        threads that call.
    limits : dict of str to int, float or None
        Every limit that was looked at, None where there is none: ``"MLPBANK_NUM_THREADS"`` and
        ``"OMP_NUM_THREADS"``, the variables; ``"affinity"``, the CPUs this process may run on;
        ``"cgroup"``, the least CPU quota of its cgroups, in CPUs, which counts rounded up.
    reason : str
        The name of the limit that is the least.
    """

    threads: int
    limits: dict[str, int | float | None]
    reason: str

    def __index__(self) -> int:
        return self.threads


def cpu_budget() -> CpuBudget:
    """Return how many threads mlpbank may use in this process, as things are now.

    It is the least of four limits: the environment variables MLPBANK_NUM_THREADS and
    OMP_NUM_THREADS (of a list such as ``"4,2"`` the first number), the CPUs this process may run
    on, and the CPU quota of its cgroup and of all above it (version 1 and 2). An `Engine` made now
    gets as many threads, or fewer if it is asked to.

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
    """Return the budget as the files below `root` tell it: "" for this machine's own, else a test's."""
    budget = _core.cpu_budget(root)
    limits: dict[str, int | float | None] = {
        "MLPBANK_NUM_THREADS": budget.own_variable or None,
        "OMP_NUM_THREADS": budget.openmp_variable or None,
        "affinity": budget.affinity,
        "cgroup": budget.cgroup or None,
    }
    return CpuBudget(budget.threads, limits, budget.reason)


def available_isas() -> list[str]:
    """Return the instruction sets this machine can run, the fastest first: some of avx512, avx2, portable."""
    return _core.available_isas()


class Engine:
    """What all arithmetic goes through: an instruction set and a number of threads.

    Parameters
    ----------
    num_threads : int, optional
        At most this many threads in one call. The default, and the upper bound, is the CPU budget:
        the least of MLPBANK_NUM_THREADS, OMP_NUM_THREADS, the CPUs this process may run on and its
        cgroup's quota.
    isa : {"avx512", "avx2", "portable"}, optional
        The default is the fastest that this machine has. The environment variable MLPBANK_ISA
        lowers it.

    Raises
    ------
    TypeError, ValueError
        `num_threads` is not a positive integer; `isa`, or MLPBANK_ISA, is unknown or not available
        here.
    """

    def __init__(self, num_threads: int | None = None, isa: Isa | None = None) -> None:
        threads = (
            0 if num_threads is None else min(positive_int(num_threads, "num_threads"), 2**31 - 1)
        )
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
        """The most threads one call uses."""
        return self._core.num_threads

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._core.isa

    def __reduce__(self) -> tuple[type[Engine], tuple[int | None, str | None]]:
        # By what was asked for, not by what came of it: another process may have another budget.
        return Engine, self._arguments

    def __repr__(self) -> str:
        return f"Engine(num_threads={self.num_threads}, isa={self.isa!r})"
