"""What a MicroBatcher tells about itself, in memory that does not grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_SAMPLES = 8192  # that quantiles are taken from


@dataclass(frozen=True)
class Quantiles:
    """Of the latest samples; all zero if there are none.

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
    """What a batcher did so far. Quantiles are those of the latest requests and batches, some thousands.

    Attributes
    ----------
    requests, rows, batches : int
        That were computed; a request that failed alone is among them.
    failed, cancelled, refused : int
        Requests that got an error, that were cancelled while they waited, and that `QueueFullError`
        refused.
    waiting : int
        Rows that wait now.
    batch_rows : Quantiles
        Rows of a batch.
    queue_seconds : Quantiles
        From a request to the start of its batch.
    latency_seconds : Quantiles
        From a request to its answer.
    compute_seconds : Quantiles
        From the start of a batch to its answers.
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
    """The latest samples of something."""

    def __init__(self) -> None:
        self._samples = np.zeros(_SAMPLES)
        self._count = 0

    def add(self, values: Any) -> None:
        """Add samples, as an array of one dimension."""
        values = values[-_SAMPLES:]
        begin = self._count % _SAMPLES
        fitting = min(len(values), _SAMPLES - begin)
        self._samples[begin : begin + fitting] = values[:fitting]
        self._samples[: len(values) - fitting] = values[fitting:]
        self._count += len(values)

    def quantiles(self) -> Quantiles:
        """Return the quantiles of what is there."""
        if self._count == 0:
            return Quantiles(0.0, 0.0, 0.0, 0.0)
        samples = self._samples[: self._count]
        p50, p90, p99, greatest = np.quantile(samples, (0.5, 0.9, 0.99, 1.0)).tolist()
        return Quantiles(p50, p90, p99, greatest)
