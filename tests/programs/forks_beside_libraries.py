"""A hundred children beside a library that has threads: forks_beside_libraries.py LIBRARY BUSY.

BUSY threads of the parent predict all the time.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys

import numpy as np
from busy_threads import busy
from children import fork, run_all, wait
from network import Network


def start_threads_of(library: str) -> None:
    rng = np.random.default_rng(0)
    if library == "numpy":
        square = rng.standard_normal((700, 700))
        square @ square
    elif library == "sklearn":
        from sklearn.cluster import KMeans

        KMeans(8, n_init=1).fit(rng.standard_normal((20000, 8)))
    else:
        import torch

        ones = torch.ones(700, 700)
        ones @ ones
        torch.nn.functional.relu(torch.ones(2_000_000)).sum()


def main(library: str, busy_threads: int) -> None:
    network = Network("auto")
    start_threads_of(library)

    def few_forwards() -> None:
        signal.alarm(60)
        for _ in range(3):
            assert np.array_equal(network.inference.forward(network.x), network.expected)
        signal.alarm(0)

    context = multiprocessing.get_context("fork")
    with busy(*[network.predict] * busy_threads):
        for _ in range(25):
            for pid in [fork(few_forwards) for _ in range(2)]:
                wait(pid)
        for _ in range(25):
            run_all([context.Process(target=few_forwards) for _ in range(2)])
    network.check()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
