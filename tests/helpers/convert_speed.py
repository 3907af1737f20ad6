"""How long importing PyTorch modules takes: python tests/helpers/convert_speed.py [MODULES]."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import nn

from mlpbank import convert


class Custom(nn.Module):  # type: ignore[misc]
    """The same network with a forward of its own, which is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 1)

    def forward(self, x: Any) -> Any:
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def sequential() -> Any:
    """Return a network of 32-64-64-1."""
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


def main() -> None:
    """Print seconds for each kind of module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="?", type=int, default=10_000)
    count = parser.parse_args().modules
    for name, make in (("nn.Sequential", sequential), ("a forward of its own", Custom)):
        models = {str(i): make() for i in range(count)}
        times, cpu = [], []
        for _ in range(3):
            start, busy = time.perf_counter(), time.process_time()
            convert.stack(models)
            times.append(time.perf_counter() - start)
            cpu.append(time.process_time() - busy)
        print(f"{count} modules of 32-64-64-1, {name}: {min(times):.2f} s, {min(cpu):.2f} s of CPU time")


if __name__ == "__main__":
    main()
