"""Micro-batching: many small requests of asyncio tasks, computed in one call."""

from mlpbank.serving._batcher import MicroBatcher, QueueFullError
from mlpbank.serving._statistics import Quantiles, Statistics

__all__ = ["MicroBatcher", "Quantiles", "QueueFullError", "Statistics"]
