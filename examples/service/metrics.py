"""Metrics for Prometheus.

They cover all worker processes of one gunicorn if PROMETHEUS_MULTIPROC_DIR names their folder.
"""

from __future__ import annotations

import os
import time
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from mlpbank.serving import MicroBatcher

REQUESTS = Counter("http_requests", "Requests answered.", ["method", "route", "status"])
SECONDS = Histogram(
    "http_request_seconds",
    "From the arrival of a request to the end of its answer.",
    ["route"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
ROWS = Counter("predicted_rows", "Rows predicted.")
BATCHES = Counter("batches", "Calls that the micro-batcher made.")
MODELS = Gauge("models", "Models in the bank.", multiprocess_mode="max")
RELOADS = Gauge(
    "bank_reloads",
    "How often a new bank file took the place of an older one.",
    multiprocess_mode="max",
)


class CountBatches:
    """Carries what a batcher counted over into `BATCHES`."""

    def __init__(self, batcher: MicroBatcher) -> None:
        self._batcher = batcher
        self._counted = 0

    def update(self) -> None:
        """Add what is new since the last time."""
        BATCHES.inc(self._batcher.batches - self._counted)
        self._counted = self._batcher.batches


def exposition() -> bytes:
    """Return everything in Prometheus' text form."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class MeasureRequests:
    """ASGI middleware that counts requests by route, not by path: there are too many keys."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def count(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self.app(scope, receive, count)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            REQUESTS.labels(scope["method"], route, status).inc()
            SECONDS.labels(route).observe(time.perf_counter() - began)
