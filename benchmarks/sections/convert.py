"""How long reading PyTorch modules takes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.step import Step
from benchmarks.table import Row, Seconds, Table
from mlpbank import Bank
from mlpbank.bench.measure import Progress

REPEATS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--modules", type=int, default=10_000)


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the one step."""
    return [Step("convert", partial(_convert, args.modules))]


def _makers() -> dict[str, Callable[[], Any]]:
    """Return what makes a network of 32-64-64-1, by the kind of module."""
    import torch
    from torch import nn

    class Custom(nn.Module):  # type: ignore[misc]
        """The same network with a forward of its own, which is traced."""

        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 1)

        def forward(self, x: Any) -> Any:
            return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))

    def sequential() -> Any:
        layers = [nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)]
        return nn.Sequential(*layers)

    return {"nn.Sequential": sequential, "a forward of its own": Custom}


def _convert(count: int, progress: Progress) -> Table:
    import torch

    rows: list[Row] = []
    wrong: dict[str, str] = {}
    for name, make in _makers().items():
        modules: dict[str | int, Any] = {str(i): make() for i in range(count)}
        times, cpu = [], []
        for repeat in range(REPEATS):
            progress(repeat / REPEATS, name)
            start, busy = time.perf_counter(), time.process_time()
            bank = Bank.from_models(modules)
            times.append(time.perf_counter() - start)
            cpu.append(time.process_time() - busy)
        x = np.ones((1, 32), np.float32)
        key = str(count - 1)
        expected = modules[key](torch.from_numpy(x)).detach().numpy()
        if not np.allclose(bank.predict([key], x), expected, rtol=1e-4, atol=1e-4):
            wrong[name] = f"model {key} answers otherwise than its module"
            continue
        rows.append({"": name, "time": Seconds(min(times)), "CPU time": Seconds(min(cpu))})
    title = f"Bank.from_models of {count} modules of 32-64-64-1"
    return Table(title, rows, wrong, failed=bool(wrong))
