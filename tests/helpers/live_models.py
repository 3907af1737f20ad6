"""Live banks whose models tell who they are, and a page on which processes say what they did.

Models come in groups of 16 keys. A transaction changes all models of a group, and its number
decides which of them are there. An output on a row of ones shows the key and the transaction of the
model that computed it; a mixture of two models shows none. So one look at a group tells whether a
transaction was seen whole.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from live_folders import forget_recent
from mlpbank import Architecture, Bank, LiveBank

ARCH = Architecture.mlp(2, 3, 4, activation="none")
GROUP = 16
_DIGIT = 1024  # products of two digits, nine times, are exact in float32
KINDS = ("str", "int", "tuple")
# How many times as much the slow tests of tests/live do.
TIMES = int(os.environ.get("MLPBANK_LIVE_TIMES", "1"))

Int64Array = npt.NDArray[np.int64]


def key_of(kind: str, group: int, i: int) -> Any:
    """Return the key of model i of a group."""
    number = group * GROUP + i
    return {"str": f"model {number}", "int": number - 5, "tuple": (f"group {group}", i)}[kind]


def keys_of(kind: str, group: int) -> list[Any]:
    """Return the keys of a group."""
    return [key_of(kind, group, i) for i in range(GROUP)]


def there(group: int, turn: int) -> npt.NDArray[np.bool_]:
    """Return which models of a group are there after transaction number `turn`."""
    models = np.arange(GROUP)
    is_there: npt.NDArray[np.bool_] = (models == 0) | ((models * 7 + group + turn) % 5 != 0)
    return is_there


def weights_of(group: int, i: int, turn: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return weights in which every number belongs to this model of this transaction."""
    high, low = divmod(turn, _DIGIT)
    assert high < _DIGIT
    columns = np.array([group * GROUP + i, high, low, 1], np.float32)
    return {
        "layer_0": np.full((2, 3), low + 1, np.float32),
        "layer_0.bias": np.full(3, low + 1, np.float32),
        "layer_1": np.tile(columns, (3, 1)),
        "layer_1.bias": columns,
    }


def outputs_of(group: int, turn: int) -> npt.NDArray[np.float32]:
    """Return what the models of a group answer, NaN for those that are not there."""
    high, low = divmod(turn, _DIGIT)
    columns = np.empty((GROUP, 4), np.float32)
    columns[:, 0] = group * GROUP + np.arange(GROUP)
    columns[:, 1:] = high, low, 1
    y = (9 * (low + 1) + 1) * columns
    y[~there(group, turn)] = np.nan
    return y


def turn_of(group: int, y: npt.NDArray[np.float32]) -> int:
    """Return the transaction of which all of these outputs of a group are."""
    turn = turn_of_0(group, y[0])
    if not np.array_equal(y, outputs_of(group, turn), equal_nan=True):
        raise AssertionError(f"group {group}: not of one transaction: {y}, {turn} of model 0")
    return turn


def turn_of_0(group: int, y: npt.NDArray[np.float32]) -> int:
    """Return the transaction of which the outputs of a group's model 0 are, which is always there.

    Raises where they are not one model's, or those of another model.
    """
    factor = float(y[3])
    low = round((factor - 1) / 9) - 1 if factor > 1 else -1
    high = round(float(y[1]) / factor) if factor > 1 else -1
    expected = np.array([group * GROUP, high, low, 1], np.float32) * np.float32(9 * (low + 1) + 1)
    if min(high, low) < 0 or not np.array_equal(y, expected):
        raise AssertionError(f"group {group}: not a model of it: {y}")
    return high * _DIGIT + low


ONES = np.ones((GROUP, 2), np.float32)


def look(bank: Bank, kind: str, group: int) -> int:
    """Return the transaction that a group is at."""
    return turn_of(group, bank.predict(keys_of(kind, group), ONES, missing="nan"))


def change(bank: LiveBank, kind: str, group: int, turn: int) -> None:
    """Bring a group to a transaction."""
    with bank.transaction() as changes:
        for i, is_there in enumerate(there(group, turn).tolist()):
            key = key_of(kind, group, i)
            if is_there:
                changes.add(key, weights_of(group, i, turn), version=str(turn))
            elif key in changes:
                del changes[key]


def check_all(bank: LiveBank, kind: str, groups: int) -> list[int]:
    """Check all that a bank says of its groups, and return the transactions that they are at."""
    turns = [look(bank, kind, group) for group in range(groups)]
    known = set(bank)
    for group, turn in enumerate(turns):
        for i, is_there in enumerate(there(group, turn).tolist()):
            key = key_of(kind, group, i)
            assert (key in known) == is_there, key
            if is_there:
                assert bank.info(key).version == str(turn), (key, bank.info(key), turn)
                bias = bank[key]["layer_1.bias"]
                assert np.array_equal(bias, weights_of(group, i, turn)["layer_1.bias"]), key
    assert len(bank) == len(known) == sum(int(there(g, t).sum()) for g, t in enumerate(turns))
    return turns


def make_folder(path: Path, layout: Any, kind: str, groups: int) -> Path:
    """Make a live folder with all groups at transaction 0.

    Where keys are ints its head has no room for recent changes: all are read in the index.
    """
    bank = Bank(ARCH, layout=layout)
    for group in range(groups):
        for i in np.flatnonzero(there(group, 0)).tolist():
            bank.add(key_of(kind, group, i), weights_of(group, i, 0), version="0")
    bank.save(path, live=True)
    if kind == "int":
        forget_recent(path)
    return path


def opened(path: Path, **how: Any) -> LiveBank:
    """Return `Bank.open` of a live folder."""
    bank = Bank.open(path, **how)
    assert isinstance(bank, LiveBank)
    return bank


class Marks:
    """Numbers in a page that processes share and that stays when one is killed.

    Attributes
    ----------
    begun, done : int64 array (groups,)
        Of each group, the last transaction that began and the last that returned. One process
        writes an item at a time.
    counts : int64 array (numbers,)
        For the user.
    """

    def __init__(self, path: Path, groups: int, numbers: int = 0) -> None:
        size = 8 * (2 * groups + numbers)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(file, size)
        page = np.frombuffer(mmap.mmap(file, size), np.int64)
        os.close(file)
        self.begun, self.done, self.counts = np.split(page, [groups, 2 * groups])

    def change(self, bank: LiveBank, kind: str, group: int) -> None:
        """Bring a group to its next transaction, and tell of it before and after."""
        turn = int(self.begun[group]) + 1
        self.begun[group] = turn
        change(bank, kind, group, turn)
        self.done[group] = turn

    def look(self, bank: Bank, kind: str, group: int) -> int:
        """Look at a group that may be changing, and return the transaction it is seen at."""
        least = int(self.done[group])
        turn = look(bank, kind, group)
        most = int(self.begun[group])
        assert least <= turn <= most, f"group {group}: saw {turn}, not {least} to {most}"
        return turn

    def settle(self, bank: LiveBank, kind: str) -> None:
        """Check a bank that nothing changes any more; what did not return is done or not."""
        turns = check_all(bank, kind, len(self.done))
        for group, turn in enumerate(turns):
            assert self.done[group] <= turn <= self.begun[group], (
                f"group {group}: {turn}, with {self.done[group]} done and {self.begun[group]} begun"
            )
        self.begun[:] = self.done[:] = turns
