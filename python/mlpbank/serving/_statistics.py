"""Statistics of a MicroBatcher, in memory of constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlpbank.typing import Float64Array

_SAMPLES = 8192  # the latest ones, from which quantiles are taken
_LATEST = 64  # batches that are measured together, which takes a twentieth of the time


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the latest samples. All are 0 if there are none.

    Attributes
    ----------
    p50, p90, p99, max : float
    """

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True)
class Statistics:
    """What a batcher did so far. Quantiles cover the latest thousands of requests and batches.

    Attributes
    ----------
    requests, rows, batches : int
        Computed so far, including requests that failed alone.
    failed, cancelled, refused : int
        Requests that got an error; that were cancelled while they waited; that `QueueFullError`
        refused.
    waiting : int
        Rows that wait now.
    batch_rows : Quantiles
        Rows of a batch.
    queue_seconds : Quantiles
        Seconds from a request to the start of its batch.
    latency_seconds : Quantiles
        Seconds from a request to its answer.
    compute_seconds : Quantiles
        Seconds from the start of a batch to its answers.
    """

    requests: int
    rows: int
    batches: int
    failed: int
    cancelled: int
    refused: int
    waiting: int
    batch_rows: Quantiles
    queue_seconds: Quantiles
    latency_seconds: Quantiles
    compute_seconds: Quantiles


class Window:
    """The latest samples of one quantity."""

    def __init__(self) -> None:
        self._samples = np.zeros(_SAMPLES)
        self._count = 0

    def add(self, values: Any) -> None:
        """Add a list or array of samples, of one dimension."""
        values = values[-_SAMPLES:]
        begin = self._count % _SAMPLES
        fitting = min(len(values), _SAMPLES - begin)
        self._samples[begin : begin + fitting] = values[:fitting]
        self._samples[: len(values) - fitting] = values[fitting:]
        self._count += len(values)

    def quantiles(self) -> Quantiles:
        """Return the quantiles of the samples."""
        if self._count == 0:
            return Quantiles(0.0, 0.0, 0.0, 0.0)
        samples = self._samples[: self._count]
        p50, p90, p99, greatest = np.quantile(samples, (0.5, 0.9, 0.99, 1.0)).tolist()
        return Quantiles(p50, p90, p99, greatest)


class Counts:
    """What is counted and measured at the end of each batch."""

    def __init__(self) -> None:
        self.batches = 0
        self._requests = self._rows = self._failed = 0
        self._batch_rows, self._queue_seconds, self._latency, self._compute = (
            Window() for _ in range(4)
        )
        # Arrivals, rows, beginning and end of the latest batches, which are not in the windows yet.
        self._latest: list[tuple[Float64Array, int, float, float]] = []

    def add(
        self, arrived: Float64Array, rows: int, failed: int, began: float, ended: float
    ) -> None:
        """Count a batch of `len(arrived)` requests."""
        self._failed += failed
        self._requests += len(arrived)
        self._rows += rows
        self.batches += 1
        self._latest.append((arrived, rows, began, ended))
        if len(self._latest) >= _LATEST:
            self._measure()

    def _measure(self) -> None:
        latest, self._latest = self._latest, []
        if not latest:
            return
        arrived, rows, began, ended = zip(*latest, strict=True)
        requests = [len(times) for times in arrived]
        came = np.concatenate(arrived)
        self._batch_rows.add(rows)
        self._queue_seconds.add(np.repeat(began, requests) - came)
        self._latency.add(np.repeat(ended, requests) - came)
        self._compute.add(np.subtract(ended, began))

    def statistics(self, cancelled: int, refused: int, waiting: int) -> Statistics:
        """Return what was counted, with what others count."""
        self._measure()
        return Statistics(
            requests=self._requests,
            rows=self._rows,
            batches=self.batches,
            failed=self._failed,
            cancelled=cancelled,
            refused=refused,
            waiting=waiting,
            batch_rows=self._batch_rows.quantiles(),
            queue_seconds=self._queue_seconds.quantiles(),
            latency_seconds=self._latency.quantiles(),
            compute_seconds=self._compute.quantiles(),
        )
