"""Make bank_v2.mlpbank, live_v1_panel and live_v1_lane.

Run it only for a new version of a format, under a new name.

python tests/data/make_golden.py bank_v2.mlpbank
python tests/data/make_golden.py live_v1_panel panel
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from mlpbank import Architecture, Bank, LayerSpec, LiveBank

ARCHITECTURE = Architecture([LayerSpec(2, 2, "relu"), LayerSpec(2, 1)])


def weights(scale: float) -> dict[str, list[float]]:
    return {
        "layer_0": [scale, -scale, 2 * scale, 0.5 * scale],
        "layer_0.bias": [0.25, 0],
        "layer_1": [1, 4],
        "layer_1.bias": [scale],
    }


@contextmanager
def nothing_by_chance() -> Iterator[None]:
    with (
        mock.patch("time.time", return_value=1_700_000_000.0),
        mock.patch("os.urandom", return_value=bytes(range(16))),
        mock.patch("secrets.token_hex", return_value=bytes(range(16)).hex()),
    ):
        yield


def make(path: Path) -> None:
    """Write the file that test_format.py knows."""
    with nothing_by_chance():
        bank = Bank(ARCHITECTURE, layout="panel", fallback="one")
        bank.metadata = {"golden": [1, None]}
        bank.add("one", weights(1), version="2026-11")
        bank["zwei \u2461"] = weights(7)
        bank["zwei \u2461"] = weights(2)
        bank.add("", weights(-1), version="ü")
        bank.save(path)


def make_live(folder: Path, layout: Any) -> None:
    """Write the folder that test_live_format.py knows: a base with vacant slots, and changes."""
    small = mock.patch("mlpbank.files._live_folder._LEAST_SEGMENT", 4096)
    with nothing_by_chance(), small:
        bank = Bank(ARCHITECTURE, layout=layout, fallback="one")
        bank.metadata = {"golden": [1, None]}
        bank.add("one", weights(1), version="2026-11")
        bank["zwei \u2461"] = weights(2)
        bank.add("", weights(3), version="ü")
        bank["gone"] = bank["old"] = weights(-1)
        bank.save(folder, live=True)
        live = Bank.open(folder, writable=True)
        assert isinstance(live, LiveBank)
        with live:
            del live["old"]
            live["short"] = weights(-2)  # in the slot of "old"
            del live["short"], live["gone"]
            live.compact()
            live.update({"later": weights(4), "again": weights(6)})
            live["zwei \u2461"] = weights(5)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        make(Path(sys.argv[1]))
    else:
        make_live(Path(sys.argv[1]), sys.argv[2])
