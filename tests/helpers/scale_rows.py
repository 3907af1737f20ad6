"""Rows for tests of Spark and Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlpbank import Bank


def rows_of(path: Path, columns: list[str], count: int, seed: int = 0) -> Any:
    """Return a pandas data frame of rows with keys of the bank."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    keys = np.array(list(Bank.open(path)))
    frame = pd.DataFrame(rng.normal(size=(count, len(columns))).astype(np.float32), columns=columns)
    frame.insert(0, "flight", keys[rng.integers(0, len(keys), count)])
    frame.insert(1, "row", np.arange(count))
    return frame
