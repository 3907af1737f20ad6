"""Sixteen threads that make every public call of live banks at once.

They share a writer and a follower of one folder, in which all models stay, and a writer of another,
in which they come and go.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bank_stress import ARCH, weights_of
from every_call import KEYS, MODELS, Caller, Calls, X, is_answer, is_answer_or_nan, look_up_all_ways
from mlpbank import Bank, InvalidStateError, LiveBank, Transaction, UnknownKeyError

pd: Any
try:
    import pandas as pd
except ImportError:  # not every CPython without a GIL has wheels of it
    pd = None

pytestmark = pytest.mark.threads

CALLS = Calls()


def open_live(folder: Path, **options: Any) -> LiveBank:
    bank = Bank.open(folder, **options)
    assert isinstance(bank, LiveBank)
    return bank


class World:
    """What all threads share. Its models may be loaded again, with the same weights."""

    def __init__(self, layout: Any, folder: Path) -> None:
        self.folder = folder
        self.layout = layout
        models = {key: weights_of(i + 1) for i, key in enumerate(KEYS)}
        bank = Bank.from_models(
            models, ARCH, layout=layout, fallback=KEYS[0], classes=["first", "second"]
        )
        bank.save(folder / "kept", live=True)
        bank.save(folder / "loose", live=True)
        # What is tried is not the disk: a change waits for it only where the bank is described.
        self.writer = open_live(folder / "kept", writable=True, sync="off")
        self.follower = open_live(folder / "kept")
        self.loose = open_live(folder / "loose", writable=True, sync="off")

    def close(self) -> None:
        for bank in (self.writer, self.follower, self.loose):
            bank.close()


def reader(caller: Caller) -> LiveBank:
    bank: LiveBank = caller.random.choice((caller.world.writer, caller.world.follower))
    return bank


@CALLS.by("LiveBank.predict", "LiveBank.handles", "LiveBank.predict_handles")
def look_up(caller: Caller) -> None:
    look_up_all_ways(reader(caller), caller.random.choices(range(MODELS), k=MODELS))


@CALLS.by("LiveBank.apredict", "LiveBank.predict_class")
def look_up_otherwise(caller: Caller) -> None:
    is_answer(asyncio.run(reader(caller).apredict(KEYS, X)), slice(None))
    assert set(reader(caller).predict_class(KEYS, X)) == {"first"}


@CALLS.by("LiveBank.predict_frame", "LiveBank.predict_stream")
def look_up_tables(caller: Caller) -> None:
    if pd is None:
        return
    frame = pd.DataFrame({"k": KEYS, "p": X[:, 0], "q": X[:, 1]})
    names: Any = {"key": "k", "features": ["p", "q"]}
    is_answer(reader(caller).predict_frame(frame, **names), slice(None))
    for part in reader(caller).predict_stream([frame, frame], **names):
        is_answer(part, slice(None))


@CALLS.by("LiveBank.__setitem__", "LiveBank.add", "LiveBank.info", "LiveBank.sources")
def load_again(caller: Caller) -> None:
    writer, i = caller.world.writer, caller.pick()
    before = reader(caller).info(KEYS[i]).revision
    writer[KEYS[i]] = weights_of(i + 1)
    writer.add(KEYS[i], weights_of(i + 1), version=caller.name)
    assert reader(caller).info(KEYS[i]).revision >= before + 2
    assert set(reader(caller).sources([*KEYS, "nobody"])[:MODELS]) == {"model"}


@CALLS.by(
    *("LiveBank.__contains__", "LiveBank.__delitem__", "LiveBank.__getitem__"),
    *("LiveBank.__iter__", "LiveBank.__len__", "LiveBank.pop"),
)
def come_and_go(caller: Caller) -> None:
    """A change that has returned is seen by all."""
    writer, i = caller.world.writer, caller.pick()
    writer[caller.name] = weights_of(i + 1)
    assert caller.name in reader(caller)
    assert caller.name in set(reader(caller))
    is_answer(reader(caller).predict([caller.name], X[:1]), [i])
    assert np.all(reader(caller)[caller.name]["layer_0"] == i + 1)
    if caller.random.random() < 0.5:
        del writer[caller.name]
    else:
        assert np.all(writer.pop(caller.name)["layer_1"] == i + 1)
    assert caller.name not in reader(caller)
    assert len(reader(caller)) >= MODELS


@CALLS.by("LiveBank.update", "LiveBank.clear", "LiveBank.popitem")
def change_all(caller: Caller) -> None:
    bank, i = caller.world.loose, caller.pick()
    bank.update({KEYS[i]: weights_of(i + 1), KEYS[0]: weights_of(1)})
    is_answer_or_nan(bank.predict(KEYS, X, missing="nan"), slice(None))
    with suppress(UnknownKeyError, KeyError):
        key, weights = bank.popitem()
        assert np.all(weights["layer_0"] == KEYS.index(key) + 1)
    if caller.random.random() < 0.2:
        bank.clear()


@CALLS.by(
    *("LiveBank.transaction", "LiveBank.sequence", "LiveBank.refresh"),
    *(f"Transaction.{name}" for name in ("__enter__", "__exit__", "__len__", "__contains__")),
    *(f"Transaction.{name}" for name in ("__setitem__", "__delitem__", "add", "update")),
)
def change_together(caller: Caller) -> None:
    """Models that one transaction brings and another takes are there together or not at all."""
    writer, i = caller.world.writer, caller.pick()
    names = [f"{caller.name}, model {number}" for number in range(4)]
    with writer.transaction() as changes:
        changes[names[0]] = weights_of(i + 1)
        changes.add(names[1], weights_of(i + 1), version="together")
        changes.update({name: weights_of(i + 1) for name in names[2:]})
        changes[KEYS[0]] = weights_of(1)
        assert (len(changes), names[0] in changes, names[0] in writer) == (5, True, False)
    assert changes.sequence is not None
    bank = reader(caller)
    assert bank.refresh() >= changes.sequence
    assert bank.sequence >= changes.sequence
    is_answer(bank.predict(names, X[:4]), [i] * 4)
    with suppress(ZeroDivisionError), writer.transaction() as undone:
        del undone[names[0]]
        raise ZeroDivisionError
    assert names[0] in reader(caller)
    with writer.transaction() as changes:
        for name in names:
            del changes[name]
    assert not any(name in reader(caller) for name in names)


@CALLS.by("LiveBank.compact")
def compact(caller: Caller) -> None:
    bank = caller.random.choice((caller.world.writer, caller.world.loose))
    if caller.random.random() < 0.3:
        bank.compact()


@CALLS.by("LiveBank.save", "LiveBank.to_safetensors", "LiveBank.to_stacked")
def save(caller: Caller) -> None:
    path = caller.folder / "bank"
    reader(caller).save(path)
    is_answer(Bank.open(path).predict(KEYS, X), slice(None))
    reader(caller).to_safetensors(path)
    is_answer(Bank.from_safetensors(path).predict(KEYS, X), slice(None))
    again = Bank.from_stacked(*reader(caller).to_stacked())
    is_answer(again.predict(KEYS, X), slice(None))


@CALLS.by(
    *("LiveBank.open", "LiveBank.close", "LiveBank.__enter__", "LiveBank.__exit__"),
    *("LiveBank.__reduce_ex__", "LiveBank.identity"),
)
def open_and_close(caller: Caller) -> None:
    with open_live(caller.world.folder / "kept", writable=caller.random.random() < 0.5) as own:
        assert own.identity == caller.world.writer.identity
        is_answer(own.predict(KEYS, X), slice(None))
    with pytest.raises(InvalidStateError):
        own.predict(KEYS, X)
    with pickle.loads(pickle.dumps(reader(caller))) as copied:
        is_answer(copied.predict(KEYS, X), slice(None))


@CALLS.by(
    *("LiveBank.architecture", "LiveBank.classes", "LiveBank.dtype", "LiveBank.engine"),
    *("LiveBank.fallback", "LiveBank.feature_names", "LiveBank.input_shift", "LiveBank.key_type"),
    *("LiveBank.layout", "LiveBank.metadata", "LiveBank.nbytes"),
)
def ask(caller: Caller) -> None:
    bank = reader(caller)
    assert (bank.architecture, bank.classes, bank.dtype) == (ARCH, ("first", "second"), "float32")
    assert (bank.feature_names, bank.input_shift) == (None, None)
    assert (bank.fallback, bank.key_type, bank.layout) == (KEYS[0], str, caller.world.layout)
    assert (bank.engine.num_threads >= 1, bank.nbytes > 0) == (True, True)
    caller.world.writer.metadata = {"by": caller.name}
    assert reader(caller).metadata["by"].startswith("thread ")
    caller.world.writer.fallback = KEYS[0]


@CALLS.by("LiveBank.from_models", "LiveBank.from_stacked", "LiveBank.from_safetensors")
def make_none(caller: Caller) -> None:
    """They make banks in memory, and a file holds one."""
    path = caller.folder / "file"
    bank = Bank.from_models({KEYS[0]: weights_of(1)}, ARCH)
    bank.save(path)
    makers: list[Callable[[], object]] = [
        lambda: LiveBank.from_models(bank, ARCH),
        lambda: LiveBank.from_stacked(*bank.to_stacked()),
        lambda: LiveBank.open(path),
    ]
    for make in makers:
        with pytest.raises(InvalidStateError, match=r"save\(live=True\) makes one"):
            make()
    bank.to_safetensors(path)
    with pytest.raises(InvalidStateError):
        LiveBank.from_safetensors(path)


def test_all_calls_are_made() -> None:
    assert {"LiveBank.predict", "Transaction.add"} <= set(CALLS)
    assert CALLS.missing(LiveBank, Transaction) == set(), "add them to this file"


def test_sixteen_threads_make_every_call(layout: str, tmp_path: Path) -> None:
    world = World(layout, tmp_path)
    CALLS.make(world)
    for bank in (world.writer, world.follower):
        is_answer(bank.predict(KEYS, X), slice(None))
        assert sorted(bank) == KEYS
    world.close()
