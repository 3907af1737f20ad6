"""How many threads mlpbank may use here, and why."""

from __future__ import annotations

from dataclasses import dataclass

from mlpbank import _core


@dataclass(frozen=True)
class CpuBudget:
    """A number of threads, and what it comes from; made by `cpu_budget`. ``int()`` gives the number.

    Attributes
    ----------
    threads : int
        The most threads that mlpbank uses in one call, and for all calls together beside the threads that call.
    limits : dict of str to int, float or None
        Every limit that was looked at, None where there is none: ``"MLPBANK_NUM_THREADS"`` and ``"OMP_NUM_THREADS"``,
        the variables; ``"affinity"``, the CPUs this process may run on; ``"cgroup"``, the least CPU quota of its
        cgroups, in CPUs, which counts rounded up.
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

    It is the least of four limits: the environment variables MLPBANK_NUM_THREADS and OMP_NUM_THREADS (of a list such as
    ``"4,2"`` the first number), the CPUs this process may run on, and the CPU quota of its cgroup and of all above it
    (version 1 and 2). An `Engine` made now gets as many threads, or fewer if it is asked to.

    Raises
    ------
    ValueError
        MLPBANK_NUM_THREADS is not a positive integer.

    Examples
    --------
    >>> cpu_budget()  # doctest: +SKIP
    CpuBudget(threads=2, limits={'MLPBANK_NUM_THREADS': None, 'OMP_NUM_THREADS': None, 'affinity': 8, 'cgroup': 1.5},
    reason='cgroup')
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
