"""Load on examples/service: with and without MicroBatcher, and beside it the same service over torch modules.

python benchmarks/service_load.py [--seconds 1] [--repeats 5]      # needs mlpbank[serving], matplotlib, torch

One uvicorn process answers; this process asks, over connections that are kept open, each asking again as soon as it has
its answer. Prints the table of docs/serving.md and draws the plot. Answers are compared before anything is timed. Each
figure is that of the repeat with the highest throughput: on a shared machine the others measure the neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(ROOT / "examples" / "service")]

from bank_source import flights_bank_file  # noqa: E402
from http_client import Connection, Service, running  # noqa: E402
from microbatcher import make_bank  # noqa: E402
from mlpbank import Bank  # noqa: E402

# Command and environment of each service.
SERVICES: dict[str, tuple[str, dict[str, str]]] = {
    "MicroBatcher": ("app:app", {"SINGLE_ROWS": "batcher"}),
    "blocking predict": ("app:app", {"SINGLE_ROWS": "blocking"}),
    "torch modules": ("torch_service:app", {"SINGLE_ROWS": "blocking"}),
}
WORKLOADS = ((1, 64), (100, 16))  # rows of a request, connections


@dataclass(frozen=True)
class Result:
    """Of one service under one load."""

    bank: str
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
            "rows": rng.standard_normal((rows, bank.architecture.input_size)).astype(np.float32).tolist(),
        }
        for _ in range(count)
    ]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def compare(server: Service, bank: Bank, asked: list[dict[str, Any]]) -> None:
    """Check that a service answers what the bank does."""
    connection = Connection(server.port)
    for question in asked:
        status, answer = await connection.request("POST", "/predict", question)
        expected = bank.predict(question["keys"], np.array(question["rows"], np.float32))
        assert status == 200
        assert np.allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-4)
    await connection.close()


async def load(server: Service, bodies: list[bytes], connections: int, seconds: float) -> tuple[float, ...]:
    """Return requests per second, median and 99th percentile of how long they took, and CPU time of each."""
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


def measure(name: str, path: Path, seconds: float, repeats: int) -> list[Result]:
    """Return the results of all services over one bank file."""
    bank = Bank.open(path)
    results = []
    for service, (target, variables) in SERVICES.items():
        command = ("uvicorn", target, "--port", "{port}", "--app-dir", str(ROOT / "benchmarks"), "--no-access-log")
        # The client needs the other core.
        environment = {**variables, "BANK_FILE": str(path), "MLPBANK_NUM_THREADS": "1"}
        with tempfile.TemporaryDirectory() as folder, running(*command, folder=Path(folder), **environment) as server:
            for rows, connections in WORKLOADS:
                if rows > 1 and service == "MicroBatcher":
                    continue  # that is for single rows
                asked = questions(bank, rows)
                asyncio.run(compare(server, bank, asked[:50]))
                bodies = [json.dumps(question).encode() for question in asked]
                figures = max(asyncio.run(load(server, bodies, connections, seconds)) for _ in range(repeats))
                results.append(Result(name, rows, connections, service, *figures))
                print(results[-1], file=sys.stderr, flush=True)
    return results


def table(results: list[Result]) -> str:
    """Return the results in Markdown."""
    lines = [
        "| bank | rows per request, connections | service | requests/s | p50, ms | p99, ms | CPU per request, ms |",
        "|---" * 7 + "|",
    ]
    for r in sorted(results, key=lambda r: (r.rows, r.bank)):
        lines.append(
            f"| {r.bank} | {r.rows}, {r.connections} | {r.service} | {r.per_second:.0f} | "
            f"{r.p50 * 1e3:.1f} | {r.p99 * 1e3:.1f} | {r.cpu * 1e3:.2f} |"
        )
    return "\n".join(lines)


def plot(results: list[Result], path: Path) -> None:
    """Draw requests per second, latencies and CPU time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    loads = sorted({(r.rows, r.connections, r.bank) for r in results})
    titles = ("Requests per second", "Latency, ms: p99, and p50 as a dot", "CPU time of the server per request, ms")
    figure, panels = plt.subplots(3, 1, figsize=(8, 8.5), sharex=True, layout="constrained")
    width = 0.8 / len(SERVICES)
    for i, service in enumerate(SERVICES):
        found = [r for r in results if r.service == service]
        places = [loads.index((r.rows, r.connections, r.bank)) + (i - 1) * width for r in found]
        figures = [(r.per_second, r.p99 * 1e3, r.cpu * 1e3) for r in found]
        for axes, values in zip(panels, zip(*figures, strict=True), strict=True):
            labels = [f"{value:.0f}" if value >= 10 else f"{value:.2f}" for value in values]
            axes.bar_label(axes.bar(places, values, width, label=service), labels, fontsize=7)
        panels[1].scatter(places, [r.p50 * 1e3 for r in found], color="black", s=12, zorder=3)
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        names = [f"{bank}\nrows per request: {rows}\n{connections} connections" for rows, connections, bank in loads]
        axes.set_xticks(range(len(loads)), names, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "service-load.png")
    options = parser.parse_args()
    results = measure("2603 × 10-8-1 (flights)", flights_bank_file(), options.seconds, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.mlpbank"
        make_bank((32, 64, 64, 1), 10_000).save(path)
        results += measure("10000 × 32-64-64-1", path, options.seconds, options.repeats)
    print(table(results))
    plot(results, options.plot)


if __name__ == "__main__":
    main()
