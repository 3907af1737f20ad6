"""Statistics of a MicroBatcher, in memory of constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_SAMPLES = 8192  # the latest ones, from which quantiles are taken


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
