"""Children that get a BatchedInference as an argument: children_by_method.py METHOD."""

from __future__ import annotations

import multiprocessing
import signal
import sys

import numpy as np
from children import run_all
from network import Network

from mlpbank import BatchedInference


def predict(inference: BatchedInference, x: np.ndarray, expected: np.ndarray) -> None:
    signal.alarm(60)
    for _ in range(3):
        assert np.array_equal(inference.forward(x), expected)
    signal.alarm(0)


def main(method: str) -> None:
    network = Network("auto")
    arguments = (network.inference, network.x, network.expected)
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["__main__", "mlpbank"])
    start = context.Process  # type: ignore[attr-defined]
    for _ in range(50):
        run_all([start(target=predict, args=arguments) for _ in range(2)])


if __name__ == "__main__":
    main(sys.argv[1])
