"""Make bank_v2.mlpbank. Run it only for a new version of the format, under a new name.

python tests/data/make_golden.py bank_v2.mlpbank
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

from mlpbank import Architecture, Bank, LayerSpec


def make(path: Path) -> None:
    """Write the file that test_format.py knows."""

    def weights(scale: float) -> dict[str, list[float]]:
        return {
            "layer_0": [scale, -scale, 2 * scale, 0.5 * scale],
            "layer_0.bias": [0.25, 0],
            "layer_1": [1, 4],
            "layer_1.bias": [scale],
        }

    time = mock.patch("time.time", return_value=1_700_000_000.0)
    with time, mock.patch("os.urandom", return_value=bytes(range(16))):
        bank = Bank(
            Architecture([LayerSpec(2, 2, "relu"), LayerSpec(2, 1)]), layout="panel", fallback="one"
        )
        bank.metadata = {"golden": [1, None]}
        bank.add("one", weights(1), version="2026-11")
        bank["zwei \u2461"] = weights(7)
        bank["zwei \u2461"] = weights(2)
        bank.add("", weights(-1), version="ü")
        bank.save(path)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
