"""Import libraries in an order and put each to work: import_order.py LIBRARY..."""

from __future__ import annotations

import sys

import numpy as np


def use(library: str) -> None:
    if library == "torch":
        import torch

        square = torch.ones(500, 500)
        assert float((square @ square)[0, 0]) == 500
    elif library == "sklearn":
        from sklearn.cluster import KMeans

        rows = np.random.default_rng(0).standard_normal((5000, 8))
        KMeans(4, n_init=1, random_state=0).fit(rows)
    elif library == "onnxruntime":
        import onnxruntime

        onnxruntime.get_available_providers()
    else:
        import thread_models  # noqa: F401


for name in sys.argv[1:]:
    use(name)

from thread_models import BUDGET, is_right, tasks  # noqa: E402

for _ in range(5):
    assert is_right()
assert tasks() >= BUDGET
