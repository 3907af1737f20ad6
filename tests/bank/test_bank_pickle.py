"""Pickles of banks: a reference to a mapped file that still is the bank, all bytes otherwise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, BankFileError, Engine
from mlpbank.files._mapped import aligned_empty

ARCHITECTURE = Architecture.mlp(5, 7, 2)
KEYS = [f"shop {i}" for i in range(200)]
X = np.random.default_rng(1).normal(size=(len(KEYS), 5)).astype(np.float32)


def make_bank(seed: int = 0) -> Bank:
    rng = np.random.default_rng(seed)
    weights = {"layer_0": rng.normal(size=(200, 5, 7)), "layer_1": rng.normal(size=(200, 7, 2))}
    return Bank.from_stacked(KEYS, ARCHITECTURE, weights, fallback="shop 7")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shops.mlpbank"
    bank = make_bank()
    bank.metadata = {"unit": "minutes"}
    bank.save(path)
    return path


def test_a_mapped_bank_goes_as_a_reference(path: Path) -> None:
    bank = Bank.open(path, engine=Engine(num_threads=1))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(bank, protocol)
        assert len(data) < 1000
        other = pickle.loads(data)
        assert (other.metadata, other.fallback) == ({"unit": "minutes"}, "shop 7")
        assert other.engine.num_threads == 1
        np.testing.assert_array_equal(other.predict(KEYS, X), bank.predict(KEYS, X))
    assert len(pickle.dumps(pickle.loads(data))) < 1000


def change_weights(bank: Bank) -> None:
    bank["shop 3"] = bank["shop 4"]


def change_metadata(bank: Bank) -> None:
    bank.metadata["unit"] = "hours"


def change_fallback(bank: Bank) -> None:
    bank.fallback = "shop 8"


def remove(bank: Bank) -> None:
    del bank["shop 3"]


@pytest.mark.parametrize("change", [change_weights, change_metadata, change_fallback, remove])
def test_a_bank_that_was_changed_since_goes_as_a_whole(
    path: Path, change: Callable[[Bank], None]
) -> None:
    bank = Bank.open(path)
    change(bank)
    other = pickle.loads(pickle.dumps(bank))
    path.unlink()
    assert (other.metadata, other.fallback) == (bank.metadata, bank.fallback)
    assert sorted(other) == sorted(bank)
    np.testing.assert_array_equal(other.predict(KEYS, X), bank.predict(KEYS, X))


@pytest.mark.parametrize("goes", ["replaced", "removed", "not mapped"])
def test_a_bank_whose_file_is_another_one_goes_as_a_whole(path: Path, goes: str) -> None:
    bank = Bank.open(path, mmap=goes != "not mapped")
    expected = bank.predict(KEYS, X)
    if goes == "replaced":
        make_bank(1).save(path)
    elif goes == "removed":
        path.unlink()
    data = pickle.dumps(bank)
    assert len(data) > bank.nbytes
    np.testing.assert_array_equal(pickle.loads(data).predict(KEYS, X), expected)


def test_a_reference_does_not_open_another_file(path: Path) -> None:
    data = pickle.dumps(Bank.open(path))
    make_bank(1).save(path)
    with pytest.raises(BankFileError, match="when its bank was pickled, got another one"):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"shops\.mlpbank"):
        pickle.loads(data)


def test_a_reference_does_not_depend_on_the_working_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    data = pickle.dumps(Bank.open(path.name))
    monkeypatch.chdir("/")
    assert len(pickle.loads(data)) == 200


def aligned(data: Any, skip: int) -> memoryview:
    """Return a read-only copy of bytes that starts `skip` bytes behind a multiple of 64."""
    memory = aligned_empty(len(data) + skip)[skip:]
    memory[:] = np.frombuffer(data, np.uint8)
    return memory.data.toreadonly()


@pytest.mark.parametrize("skip", [0, 4, 16, 63])
def test_buffers_of_protocol_5_are_used_where_they_lie(skip: int) -> None:
    bank = make_bank()
    bank["more"] = bank["shop 0"]
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(bank, 5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert len(buffers) == 1
    stored = aligned(buffers[0].raw(), skip)
    begin = np.frombuffer(stored, np.uint8).ctypes.data
    other = pickle.loads(data, buffers=[stored])
    address = other._weights._core.address
    assert (begin <= address < begin + len(stored)) == (skip == 0)
    np.testing.assert_array_equal(other.predict(KEYS, X), bank.predict(KEYS, X))
    other["shop 0"] = other["shop 1"]  # the buffer is only read
    again = pickle.loads(data, buffers=[stored])
    np.testing.assert_array_equal(again.predict(KEYS, X), bank.predict(KEYS, X))


def test_copies_of_mapped_banks_change_apart(path: Path) -> None:
    bank = Bank.open(path)
    other = copy.deepcopy(bank)
    other["shop 0"] = other["shop 1"]
    np.testing.assert_array_equal(bank.predict(KEYS, X), make_bank().predict(KEYS, X))
    assert not np.array_equal(other.predict("shop 0", X[0]), bank.predict("shop 0", X[0]))
