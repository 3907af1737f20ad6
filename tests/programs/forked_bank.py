"""Fork while other threads predict, change and save a bank: forked_bank.py FOLDER LAYOUT.

The child's bank works in every respect.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from busy_threads import busy
from children import fork, wait

from bank_stress import ARCH, weights_of
from mlpbank import Bank, UnknownModelError
from mlpbank.files import _mapped

folder = Path(sys.argv[1])
layout: Any = sys.argv[2]
X = np.ones((20, 2), np.float32)
KEYS = [f"key {i}" for i in range(20)]
CHANGED, CONSTANT = KEYS[:5], KEYS[5:]
EXPECTED = [9.0 * i * i + i for i in range(5, 20)]

first = Bank(ARCH, layout=layout)
for i, key in enumerate(KEYS):
    first[key] = weights_of(i)
first.save(folder / "bank")
bank = Bank.open(folder / "bank")


def change() -> None:
    for key in CHANGED:
        del bank[key]
        bank[key] = weights_of(3)


def swap() -> None:
    bank["other"] = weights_of(1)


def predict() -> None:
    assert bank.predict(CONSTANT, X[5:])[:, 0].tolist() == EXPECTED


def save() -> None:
    bank.save(folder / "saved")


def check_changes(turn: int) -> None:
    for key in CHANGED:
        bank[key] = weights_of(turn)
        assert bank.predict(key, X[0])[0] == 9.0 * turn * turn + turn
        handles = bank.handles([key])
        del bank[key]
        for other in ("x", "y", "z"):
            bank[other] = weights_of(9)
            assert bank.predict(other, X[0])[0] == 9.0 * 81 + 9
            del bank[other]
        with pytest.raises(UnknownModelError):
            bank.predict_handles(handles, X[:1])


def child() -> None:
    for turn in range(3):
        predict()
        check_changes(turn)
    assert sorted(set(bank) - {"other"}) == sorted(CONSTANT)
    before = bank._weights.num_models
    # Readers of the parent do not exist here and must not keep slots.
    for i in range(200):
        bank[f"turn {i}"] = weights_of(i)
        del bank[f"turn {i}"]
    assert bank._weights.num_models == before
    path = folder / f"child{os.getpid()}"
    bank.save(path)
    _mapped.verify(_mapped.open_file(path, map_file=True))
    assert Bank.open(path).predict(CONSTANT, X[5:])[:, 0].tolist() == EXPECTED


with busy(change, swap, predict, predict, save):
    for _ in range(15):
        wait(fork(child, seconds=60))
predict()
