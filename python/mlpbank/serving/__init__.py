"""Micro-batching: small requests of many asyncio tasks, computed together in few calls."""

from mlpbank.errors import QueueFullError
from mlpbank.serving._batcher import MicroBatcher
from mlpbank.serving._statistics import Quantiles, Statistics

__all__ = ["MicroBatcher", "Quantiles", "QueueFullError", "Statistics"]
