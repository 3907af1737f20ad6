"""A BatchedInference as an argument of a pool's workers: pool_of_processes.py METHOD."""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np

from mlpbank import Architecture, BatchedInference


def main(method: str) -> None:
    inference = BatchedInference(500, Architecture.mlp(32, 64, 1))
    rng = np.random.default_rng(0)
    inference.weights.load_stacked(
        {
            "layer_0": rng.standard_normal((500, 32 * 64)),
            "layer_1": rng.standard_normal((500, 64)),
        }
    )
    x = rng.standard_normal((500, 4, 32))
    y = inference.forward(x)
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.starmap_async(BatchedInference.forward, [(inference, x)] * 4).get(60)
    assert len(results) == 4
    assert all(np.array_equal(result, y) for result in results)


if __name__ == "__main__":
    main(sys.argv[1])
