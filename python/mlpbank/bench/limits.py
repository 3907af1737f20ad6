"""The limits of the machine: how fast it reads memory and computes multiply-adds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mlpbank import _core
from mlpbank.engine import Engine

_READ_REPEATS = 5  # passes of each way to read in one measurement


@dataclass(frozen=True)
class Limits:
    """The limits of the machine, and the least time of a case. Speeds are the best measured."""

    read_gb_per_s: float  # of a buffer of the size of the parameters
    fma_gflop_per_s: dict[str, float]  # by instruction set
    read_us: float  # to read the parameters once
    fma_us: float  # for all multiply-adds
    binding: str  # "read" or "fma", the one that takes longer
    share: float  # that time / the median of mlpbank
    measured: int  # number of measurements

    @property
    def disturbed(self) -> bool:
        """Whether mlpbank was faster than the limit, which was then measured too low."""
        return self.share > 1


class LimitProbes:
    """Measures the limits repeatedly for work of `nbytes` bytes and `flops` operations.

    Other load makes a measured limit lower, never higher. So the best measurement counts.
    """

    def __init__(
        self, nbytes: int, flops: int, engine: Engine, isas: Sequence[str] | None = None
    ) -> None:
        self._nbytes = nbytes
        self._flops = flops
        self._engine = engine
        self._read = 0.0
        self._fma = dict.fromkeys(isas or [engine.isa], 0.0)
        self._measured = 0

    def measure(self) -> None:
        threads = self._engine.num_threads
        settle()
        for isa, best in self._fma.items():
            self._fma[isa] = max(best, _core.fma_peak(isa, threads))
        read = _core.read_bandwidth(self._nbytes, threads, _READ_REPEATS)
        self._read = max(self._read, read)
        self._measured += 1

    def limits(self, median_us: float, isa: str | None = None) -> Limits:
        """Return the limits of `isa` (default: the engine's), and the share a median reaches."""
        read_us = self._nbytes / self._read / 1e3
        fma_us = self._flops / self._fma[isa or self._engine.isa] / 1e3
        binding = "read" if read_us >= fma_us else "fma"
        share = max(read_us, fma_us) / median_us
        return Limits(self._read, dict(self._fma), read_us, fma_us, binding, share, self._measured)


def settle() -> None:
    """Wait until the threads of this process sleep. Some thread pools spin for milliseconds."""
    give_up = time.perf_counter() + 0.2
    while time.perf_counter() < give_up:
        before = time.process_time()
        time.sleep(2e-3)
        if time.process_time() - before < 0.4e-3:
            return
