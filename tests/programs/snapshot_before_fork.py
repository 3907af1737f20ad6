"""A snapshot made before a fork is refused in the child."""

from __future__ import annotations

import numpy as np
import pytest
from children import fork, wait

from mlpbank import Architecture, Bank, InvalidStateError, _core

bank = Bank(Architecture.mlp(2, 3))
bank["a"] = {"layer_0": np.ones((2, 3))}
snapshot = bank._slot_map.core.freeze(True).weights
size = _core.block_of(bank.architecture._core, bank.layout, bank.dtype).bytes


def copy() -> None:
    with pytest.raises(InvalidStateError, match=r"^snapshot: made before a fork"):
        snapshot.copy(np.zeros(1, np.int64), np.zeros(size, np.uint8))


wait(fork(copy))
