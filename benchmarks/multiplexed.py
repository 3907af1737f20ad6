"""Ray Serve with `@serve.multiplexed`, as its pages show it, beside `BankDeployment`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.by_hand import Models
from benchmarks.step import table_of
from benchmarks.table import Factor, Milliseconds, PerSecond, Row, Table
from mlpbank import Bank
from mlpbank.bench.measure import Progress

CALLERS, KEPT = 64, 3


def multiplexed(folder: Path) -> Any:
    """Return the deployment: a file for each model, of which a replica keeps the last few."""
    import torch
    from ray import serve

    @serve.deployment(max_ongoing_requests=CALLERS)
    class Multiplexed:
        @serve.multiplexed(max_num_models_per_replica=KEPT)
        async def model(self, key: str) -> Any:
            return torch.load(folder / f"{key}.pt", weights_only=False)

        async def predict(self, x: Any) -> Any:
            module = await self.model(serve.get_multiplexed_model_id())
            with torch.inference_mode():
                return module(torch.from_numpy(x)[None])[0].numpy()

    return Multiplexed


def compare_services(path: str, folder: Path, seconds: float, progress: Progress) -> Table:
    """Ask both services for rows of random keys, one after the other, each with one replica."""
    import torch
    from ray import serve

    from mlpbank.ray import BankDeployment

    models = Models(path)
    for key in models.index:
        torch.save(models.torch(key), folder / f"{key}.pt")
    bank = Bank.open(path)
    options = {"max_ongoing_requests": CALLERS}
    serve.start(proxy_location="Disabled")
    services = {
        "BankDeployment": serve.deployment(BankDeployment).options(**options).bind(path),
        f"@serve.multiplexed, the last {KEPT}": multiplexed(folder).bind(),
    }
    rows: list[Row] = []
    wrong: dict[str, str] = {}
    for i, (name, service) in enumerate(services.items()):
        progress(i / len(services), name)
        handle = serve.run(service, name=f"service-{i}", route_prefix=None)
        asyncio.run(_load(handle, i > 0, bank, min(2.0, seconds)))
        before = _cpu_seconds(f"service-{i}")
        took, largest = asyncio.run(_load(handle, i > 0, bank, seconds))
        cpu = _cpu_seconds(f"service-{i}") - before
        if largest > 1e-4:
            wrong[name] = f"off by {largest}"
        row: dict[str, Any] = {
            "": name,
            "requests": PerSecond(len(took) / seconds),
            "p50": Milliseconds(1e3 * np.percentile(took, 50)),
            "p99": Milliseconds(1e3 * np.percentile(took, 99)),
            "CPU of the replica": Milliseconds(1e3 * cpu / len(took)),
        }
        first = rows[0]["requests"] if rows else row["requests"]
        row["of the first"] = Factor(row["requests"] / float(first))
        rows.append(row)
        serve.delete(f"service-{i}")
    serve.shutdown()
    title = f"Ray Serve, one replica, {CALLERS} callers, {len(bank)} models"
    table = table_of(title, rows)
    table.wrong.update(wrong)
    return table


async def _load(handle: Any, by_id: bool, bank: Bank, seconds: float) -> tuple[list[float], float]:
    """Return how long each request took, and the largest error."""
    rng = np.random.default_rng(0)
    keys = list(bank)
    took: list[float] = []
    largest = 0.0
    end = time.perf_counter() + seconds

    async def ask() -> None:
        nonlocal largest
        while (start := time.perf_counter()) < end:
            key = keys[rng.integers(len(keys))]
            x = rng.normal(size=bank.architecture.input_size).astype(np.float32)
            if by_id:
                y = await handle.options(multiplexed_model_id=key).predict.remote(x)
            else:
                y = await handle.predict.remote(key, x)
            took.append(time.perf_counter() - start)
            if len(took) % 50 == 0:
                largest = max(largest, float(np.abs(y - bank.predict(key, x)).max()))

    await asyncio.gather(*(ask() for _ in range(CALLERS)))
    return took, largest


def _cpu_seconds(name: str) -> float:
    """Return the CPU time that the replica of a service has used."""
    total = 0.0
    for folder in Path("/proc").iterdir():
        try:
            if (folder / "cmdline").read_bytes().startswith(f"ray::ServeReplica:{name}".encode()):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return total
