"""A bank that is predicted with, changed, saved and forked at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bank_stress import ARCH, Stress, weights_of
from cases import RunProgram, raises
from mlpbank import Architecture, Bank, UnknownModelError

pytestmark = pytest.mark.threads

X = np.ones((1, 2), np.float32)


def answer(code: int) -> float:
    return 9.0 * code * code + code


@pytest.mark.parametrize("opened", [False, True], ids=["made", "opened"])
def test_no_answer_is_of_another_key_or_of_no_revision(
    tmp_path: Path, layout: str, opened: bool
) -> None:
    stress = Stress(layout, tmp_path, opened)
    # Until everything has happened, however busy the machine is.
    counts = stress.run(
        enough=lambda c: c["loads"] > 2000 and c["removals"] > 600 and min(c.values()) > 0
    )
    assert min(counts.values()) > 0, counts


def test_places_are_used_again_and_their_old_handles_are_not(layout: str) -> None:
    bank = Bank(ARCH, layout=layout)
    stale = []
    for i in range(2000):
        key = f"key {i}"
        bank[key] = weights_of(i % 1000)
        assert bank.predict(key, X[0])[0] == answer(i % 1000)
        stale.append(bank.handles([key]))
        del bank[key]
    assert len(bank) == 0
    assert bank.nbytes < 200_000
    bank["last"] = weights_of(5)
    for handles in stale:
        with pytest.raises(UnknownModelError):
            bank.predict_handles(handles, X)
    assert bank.predict_handles(bank.handles(["last"]), X)[0, 0] == answer(5)


def slot_of(bank: Bank, key: str) -> int:
    return bank._slot_map.slot(key)


def test_a_slot_whose_handles_are_used_up_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 2^31 models in one slot; here after 4."""
    from mlpbank._columns import ModelColumns
    from mlpbank.bank import _slot_map

    assert _slot_map.MOST_REUSES << 32 < 2**63
    bank = Bank(ARCH)
    bank._state.slot_map = _slot_map.SlotMap(bank._weights, ModelColumns.new(None), most_reuses=4)
    seen = set()
    for i in range(20):
        bank["a"] = weights_of(i)
        (number,) = bank.handles(["a"]).tolist()
        assert number >= 0
        assert number not in seen
        seen.add(number)
        assert bank.predict_handles([number], X)[0, 0] == answer(i)
        del bank["a"]
        for old in seen:
            with pytest.raises(UnknownModelError):
                bank.predict_handles([old], X)
    assert {number % 2**32 for number in seen} == set(range(5))


def test_a_slot_is_not_given_away_while_a_prediction_may_use_it() -> None:
    """A prediction that lasts: what is deleted meanwhile comes back only when it has ended."""
    bank = Bank(ARCH)
    bank["old"] = weights_of(1)
    slot = slot_of(bank, "old")
    reader = bank._slot_map.core.enter()
    del bank["old"]
    for i in range(40):
        bank[f"new {i}"] = weights_of(2)
        assert slot_of(bank, f"new {i}") != slot
    reader.leave()
    reader.leave()  # once is enough, and twice no harm
    bank["after"] = weights_of(3)
    assert slot_of(bank, "after") == slot


def test_slots_are_used_again_in_the_order_of_their_removal() -> None:
    bank = Bank(ARCH)
    for i in range(6):
        bank[f"key {i}"] = weights_of(i)
    for i in (4, 1, 3):
        del bank[f"key {i}"]
    for i in (4, 1, 3, 6):
        bank[f"new {i}"] = weights_of(i)
        assert slot_of(bank, f"new {i}") == i


def test_numbers_that_never_were_handles() -> None:
    bank = Bank(ARCH)
    bank["a"], bank["b"] = weights_of(1), weights_of(2)
    del bank["a"]
    for handles in ([-1], [1, -(2**63)], [1, 1, 1000]):
        last = len(handles) - 1
        with raises(
            IndexError, f"handles[{last}]: expected one of Bank.handles, got {handles[last]}"
        ):
            bank.predict_handles(handles, np.ones((len(handles), 2)))
    with pytest.raises(UnknownModelError, match=r"^no such model: 0 \(1 of 2 handles\)$"):
        bank.predict_handles([1, 0], np.ones((2, 2)))
    bank["c"] = weights_of(3)
    room = bank._weights.num_models
    assert room > len(bank)
    bank.fallback = "b"
    for missing, handles in (
        ("error", [1, room - 1]),
        ("nan", [0, room - 1]),
        (None, [0, room - 1]),
    ):
        with raises(IndexError, f"handles[1]: expected one of Bank.handles, got {room - 1}"):
            bank.predict_handles(handles, np.ones((2, 2)), missing=missing)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["keys", "handles"])
def test_a_model_deleted_between_lookup_and_computing(
    by: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot is not the next model's yet: the old key is unknown or has its own model."""
    bank = Bank(ARCH, layout=layout)
    bank["old"] = weights_of(1)
    handles = bank.handles(["old"])
    owner, name = bank._slot_map, "find" if by == "keys" else "slots_of"
    lookup = getattr(owner, name)

    def and_then(*args: object) -> object:
        found = lookup(*args)
        monkeypatch.undo()
        del bank["old"]
        bank["new"] = weights_of(2)
        return found

    monkeypatch.setattr(owner, name, and_then)
    x = X.astype(np.float64)  # else the whole call is one step of the core
    with pytest.raises(UnknownModelError):
        bank.predict(["old"], x) if by == "keys" else bank.predict_handles(handles, x)
    assert list(bank) == ["new"]


def test_an_add_that_fails_leaves_no_trace(layout: str) -> None:
    bank = Bank(ARCH, layout=layout)
    bank["a"] = weights_of(1)
    before = 0
    for i in range(1000):
        before = bank.nbytes if i == 10 else before
        with pytest.raises(KeyError, match="missing key 'layer_1'"):
            bank["b" if i % 2 else "a"] = {"layer_0": np.ones((2, 3))}
        with pytest.raises(ValueError, match="expected finite"):
            bank.add("b", weights_of(1) | {"layer_0": np.full((2, 3), np.nan)}, check_finite=True)
    assert bank.nbytes == before
    assert list(bank) == ["a"]
    assert bank.info("a").revision == 1
    assert bank.predict("a", X[0])[0] == answer(1)
    bank["b"] = weights_of(2)
    assert slot_of(bank, "b") == 1


def test_the_first_key_of_a_bank_decides_even_if_many_come_first() -> None:
    for _ in range(50):
        bank = Bank(ARCH)
        barrier = threading.Barrier(4)
        refused = []

        def add(
            key: object,
            bank: Bank = bank,
            barrier: threading.Barrier = barrier,
            refused: list = refused,
        ) -> None:
            barrier.wait()
            try:
                bank[key] = weights_of(3)  # type: ignore[index]
            except TypeError:
                refused.append(key)

        threads = [threading.Thread(target=add, args=(key,)) for key in ("a", 1, "b", 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, refused)) in (["1", "2"], ["a", "b"])
        assert len(bank) == 2
        assert all(type(key) is type(next(iter(bank))) for key in bank)


def test_keys_of_a_bank_that_changes_are_those_of_one_moment() -> None:
    bank = Bank(ARCH)
    for i in range(50):
        bank[f"key {i}"] = weights_of(1)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            del bank["key 7"]
            bank["key 7"] = weights_of(1)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(2000):
            keys = list(bank)
            assert len(keys) in (49, 50)
            assert len(set(keys)) == len(keys)
            assert len(list(bank)) in (49, 50)
            assert 49 <= len(bank) <= 50
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("kind", ["str", "int"])
def test_unknown_keys_are_counted_once_however_often_a_look_up_is_repeated(kind: str) -> None:
    """A look-up holds the GIL, so only a change that has begun before can end during it."""
    arch = Architecture.mlp(300, 300)
    weights = {"layer_0": np.ones((300, 300), np.float32)}
    bank = Bank(arch)
    one, other = ("a", "b") if kind == "str" else (-1, -2)
    bank[other] = weights
    keys: Any = [other, *range(100_000)]
    keys = list(map(str, keys)) if kind == "str" else np.array(keys)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            bank[one] = weights
            del bank[one]

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(40):
            found, unknown = bank._slot_map.core.find(keys)
            assert np.flatnonzero(found >= 0).tolist() == [0]
            assert unknown == 100_000
    finally:
        stop.set()
        thread.join()


def test_forked_children_have_a_working_bank(
    tmp_path: Path, layout: str, run_program: RunProgram
) -> None:
    run_program("forked_bank", tmp_path, layout, timeout=600)
