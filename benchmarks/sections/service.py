"""Load on examples/service: with and without MicroBatcher, and over torch modules.

One uvicorn process answers. This process asks over connections that are kept open, each again as
soon as it has its answer. Answers are compared before anything is timed. Each figure is that of the
repeat with the highest throughput: on a shared machine the others measure the neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sections.microbatcher import make_bank
from benchmarks.step import Step
from benchmarks.table import Milliseconds, PerSecond, Row, Table
from mlpbank import Bank
from mlpbank.bench.measure import Progress

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT / "examples" / "service")]

from bank_source import flights_bank_file  # noqa: E402
from http_client import Connection, Service, running  # noqa: E402

TORCH = "torch modules"
# Command and environment of each service.
SERVICES: dict[str, tuple[str, dict[str, str]]] = {
    "MicroBatcher": ("app:app", {"SINGLE_ROWS": "batcher"}),
    "blocking predict": ("app:app", {"SINGLE_ROWS": "blocking"}),
    TORCH: ("torch_service:app", {"SINGLE_ROWS": "blocking"}),
}
WORKLOADS = ((1, 64), (100, 16))  # rows of a request, connections


@dataclass(frozen=True)
class Result:
    """How one service did under one load."""

    rows: int
    connections: int
    service: str
    per_second: float
    p50: float  # seconds
    p99: float
    cpu: float  # seconds of the server's CPU time for each request


def questions(bank: Bank, rows: int, count: int = 500) -> list[dict[str, Any]]:
    """Return requests for random rows of random models."""
    rng = np.random.default_rng(2)
    keys = list(bank)
    return [
        {
            "keys": [keys[i] for i in rng.integers(len(keys), size=rows)],
            "rows": rng.standard_normal((rows, bank.architecture.input_size))
            .astype(np.float32)
            .tolist(),
        }
        for _ in range(count)
    ]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def find_error(server: Service, bank: Bank, asked: list[dict[str, Any]]) -> str | None:
    """Return where a service answers otherwise than the bank, None if nowhere."""
    connection = Connection(server.port)
    try:
        for i, question in enumerate(asked):
            status, answer = await connection.request("POST", "/predict", question)
            expected = bank.predict(question["keys"], np.array(question["rows"], np.float32))
            if status != 200:
                return f"request {i}: expected status 200, got {status}"
            if not np.allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-4):
                return f"request {i}: other predictions than the bank's"
    finally:
        await connection.close()
    return None


async def load(
    server: Service, bodies: list[bytes], connections: int, seconds: float
) -> tuple[float, ...]:
    """Return requests per second, median and 99th percentile of their time, CPU time of each."""
    latencies: list[float] = []
    links = [Connection(server.port) for _ in range(connections)]
    began, cpu = time.perf_counter(), cpu_seconds(server.process.pid)

    async def client(link: Connection, i: int) -> None:
        while (asked := time.perf_counter()) < began + seconds:
            await link.begin("POST", "/predict", bodies[i % len(bodies)])
            status, _ = await link.end()
            assert status == 200
            latencies.append(time.perf_counter() - asked)
            i += connections
        await link.close()

    await asyncio.gather(*(client(link, i) for i, link in enumerate(links)))
    elapsed, cpu = time.perf_counter() - began, cpu_seconds(server.process.pid) - cpu
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
    return len(latencies) / elapsed, p50, p99, cpu / len(latencies)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="draw docs/service-load.png, for example")
    parser.set_defaults(seconds="1")


def _made(sizes: tuple[int, ...], models: int) -> Callable[[Path], Path]:
    """Return what saves a bank of random models in a folder."""

    def save(folder: Path) -> Path:
        make_bank(sizes, models).save(folder / "bank.mlpbank")
        return folder / "bank.mlpbank"

    return save


BANKS: dict[str, Callable[[Path], Path]] = {  # by name, what returns the file
    "2065 × 8-8-1 (flights)": lambda folder: flights_bank_file(),
    "10000 × 32-64-64-1": _made((32, 64, 64, 1), 10_000),
}


def steps(args: argparse.Namespace) -> list[Step]:
    """Return a step for each bank. The last one draws the picture, if it was asked for."""
    found: dict[str, list[Result]] = {}
    return [Step(name, partial(_bank, name, args, found)) for name in BANKS]


def _bank(
    name: str, args: argparse.Namespace, found: dict[str, list[Result]], progress: Progress
) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        path = BANKS[name](Path(folder))
        found[name], wrong = measure(path, args.seconds, args.repeats, progress)
    if args.plot and len(found) == len(BANKS):
        plot(found, args.plot)
    rows: list[Row] = [
        {
            "": f"{r.service}, rows per request: {r.rows}",
            "connections": r.connections,
            "requests": PerSecond(r.per_second),
            "p50": Milliseconds(r.p50 * 1e3),
            "p99": Milliseconds(r.p99 * 1e3),
            "CPU per request": Milliseconds(r.cpu * 1e3),
        }
        for r in sorted(found[name], key=lambda r: r.rows)
    ]
    failed = any(service != TORCH for service in wrong)
    return Table(f"Load on the service, {name}", rows, wrong, failed=failed)


def measure(
    path: Path, seconds: float, repeats: int, progress: Progress
) -> tuple[list[Result], dict[str, str]]:
    """Return the results of all services over one bank file, and what is wrong with others."""
    bank = Bank.open(path)
    results = []
    wrong: dict[str, str] = {}
    folder_of_app = ("--app-dir", str(ROOT / "benchmarks"))
    for i, (service, (target, variables)) in enumerate(SERVICES.items()):
        progress(i / len(SERVICES), service)
        command = ("uvicorn", target, "--port", "{port}", *folder_of_app, "--no-access-log")
        # The client needs the other core.
        environment = {**variables, "BANK_FILE": str(path), "MLPBANK_NUM_THREADS": "1"}
        with (
            tempfile.TemporaryDirectory() as folder,
            running(*command, folder=Path(folder), **environment) as server,
        ):
            for rows, connections in WORKLOADS:
                if rows > 1 and service == "MicroBatcher":
                    continue  # that is for single rows
                asked = questions(bank, rows)
                if error := asyncio.run(find_error(server, bank, asked[:50])):
                    wrong[service] = error
                    continue
                bodies = [json.dumps(question).encode() for question in asked]
                repeated = [
                    asyncio.run(load(server, bodies, connections, seconds)) for _ in range(repeats)
                ]
                results.append(Result(rows, connections, service, *max(repeated)))
    return results, wrong


def plot(results: dict[str, list[Result]], path: Path) -> None:
    """Draw requests per second, latencies and CPU time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    loads = sorted({(r.rows, r.connections, b) for b, own in results.items() for r in own})
    titles = (
        "Requests per second",
        "Latency, ms: p99, and p50 as a dot",
        "CPU time of the server per request, ms",
    )
    figure, panels = plt.subplots(3, 1, figsize=(8, 8.5), sharex=True, layout="constrained")
    width = 0.8 / len(SERVICES)
    for i, service in enumerate(SERVICES):
        found = [(b, r) for b, own in results.items() for r in own if r.service == service]
        at = [loads.index((r.rows, r.connections, b)) + (i - 1) * width for b, r in found]
        figures = [(r.per_second, r.p99 * 1e3, r.cpu * 1e3) for _, r in found]
        for axes, values in zip(panels, zip(*figures, strict=True), strict=True):
            labels = [f"{value:.0f}" if value >= 10 else f"{value:.2f}" for value in values]
            axes.bar_label(axes.bar(at, values, width, label=service), labels, fontsize=7)
        panels[1].scatter(at, [r.p50 * 1e3 for _, r in found], color="black", s=12, zorder=3)
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        names = [
            f"{bank}\nrows per request: {rows}\n{connections} connections"
            for rows, connections, bank in loads
        ]
        axes.set_xticks(range(len(loads)), names, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
