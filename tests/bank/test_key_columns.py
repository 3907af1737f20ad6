"""Columns of keys that the core reads as they are: text of NumPy, categories, and many keys."""

from __future__ import annotations

import warnings
from threading import Thread
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, UnknownModelError
from mlpbank._core import Table
from mlpbank._key_columns import as_keys

ARCH = Architecture.mlp(1, 1)
TEXTS = ["", "a", "äöü", "\u20ac", "\U0001f600", "a\0b", "seven..", "eight...", "x" * 300, "\uffff"]


def make(keys: Any) -> Bank:
    return Bank.from_stacked(keys, ARCH, {"layer_0": np.zeros((len(keys), 1, 1))})


def slots(bank: Bank, keys: Any) -> list[int]:
    """Return the slots of keys, -1 for unknown ones."""
    found, unknown = bank._slot_map.find(as_keys(keys))
    assert unknown == int((found < 0).sum())
    return found.tolist()


def as_chararray(array: Any) -> Any:
    """Return a view of a class that NumPy calls deprecated since 2.5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return array.view(np.char.chararray)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3], [t for t in TEXTS if t.isascii()]])
def test_arrays_of_text(texts: list[str]) -> None:
    bank = make(TEXTS)
    expected = [TEXTS.index(text) for text in texts]
    array = np.array(texts)
    unaligned = np.frombuffer(b"?" + array.tobytes(), np.uint8)[1:].view(array.dtype)
    for given in (
        array,
        array.astype(array.dtype.newbyteorder()),
        unaligned,
        np.repeat(array, 3)[1::3],
        np.stack([array, array[::-1]], axis=1)[:, 0],
        as_chararray(array),
    ):
        assert slots(bank, given) == expected
    assert slots(bank, array[::-1]) == expected[::-1]
    assert slots(bank, np.broadcast_to(array[:1], 5)) == [expected[0]] * 5


@pytest.mark.parametrize(
    "odd", ["\x7f", "\x80", "\xff", "\u0800", "\u8041", "\uffff", "\U00010041"]
)
def test_one_odd_character_at_each_place(odd: str) -> None:
    """Characters are read eight at a time; those of a longer text are not its neighbour's."""
    texts = ["x" * before + odd + "x" * after for before in range(18) for after in range(18)]
    bank = make(texts)
    for width in range(1, 36):
        part = [text for text in texts if len(text) <= width]
        expected = [texts.index(text) for text in part]
        assert slots(bank, np.array(part, f"U{width}")) == expected
        plain = ["y" * (i % width) for i in range(len(part))]
        beside = np.array([part, plain], f"U{width}").T.ravel()
        assert slots(bank, beside) == [slot for known in expected for slot in (known, -1)]


@pytest.mark.parametrize("bits", [0x80, 0x8041, 0xFF41, 0x110041, 0x80000041, 0xFFFFFF41])
def test_numbers_that_are_no_character(bits: int) -> None:
    bank = make(["A" * size for size in range(1, 20)] + ["\x80"])
    for size in (1, 7, 8, 9, 16, 19):
        for place in range(size):
            array = np.array(["A" * size, "A"])
            array.view(np.uint32)[place] = bits
            known = size == 1 and bits == 0x80
            assert slots(bank, array) == [19 if known else -1, 0]


def test_texts_of_an_array_that_are_no_keys() -> None:
    bank = make(["a", "b"])
    array = np.array(["a", "\ud800", "b", "a\0", "aa"])
    assert slots(bank, array) == [0, -1, 1, 0, -1]  # NumPy drops zeros at the end
    with pytest.raises(UnknownModelError, match=r"'\\ud800', 'aa' \(2 of 5 keys\)"):
        bank.handles(array)
    array.view(np.uint32)[0] = 0x110061  # no character, and in the lower bits an "a"
    assert slots(bank, array)[0] == -1
    with pytest.raises(TypeError, match="keys: expected int like the bank's, got 'a'"):
        make([1, 2]).handles(np.array(["a", "b"]))
    assert slots(make([1, 2]), np.array([], "U3")) == []
    assert slots(make([1]), np.array(["", ""])[:0]) == []


@pytest.mark.parametrize("kind", ["str", "int", "tuple"])
def test_many_keys_are_found_like_few(kind: str) -> None:
    """Ten thousand are looked up without the GIL, and more than a chunk at a time."""
    rng = np.random.default_rng(1)
    numbers = rng.choice(10**12, 3000, replace=False).tolist()
    keys: list[Any] = {
        "str": [f"key {n}" for n in numbers],
        "int": numbers,
        "tuple": [(f"{n % 7}", n) for n in numbers],
    }[kind]
    bank = make(keys[:2000])
    for i, key in enumerate(keys):
        if i >= 2000:
            bank[key] = {"layer_0": [0]}
        elif i % 3 == 0:
            del bank[key]
    expected = {key: slots(bank, [key])[0] for key in keys}
    assert sum(slot < 0 for slot in expected.values()) == 667
    for count in (1, 255, 257, 4095, 10_000):
        asked = [keys[i] for i in rng.integers(0, 3000, count)]
        assert slots(bank, asked) == [expected[key] for key in asked]
        handles = bank.handles([key for key in asked if expected[key] >= 0] or keys[1:2])
        assert len(handles) > 0
        if kind != "tuple":
            assert slots(bank, np.array(asked)) == [expected[key] for key in asked]


def test_categories_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pd = pytest.importorskip("pandas")
    for keys in (["a", "b", "c"], [10, 20, 30], [("a", 1), ("b", 2), ("c", 3)]):
        bank = make(keys)
        asked = [keys[2], None, keys[0], keys[2], keys[1]]
        categories = pd.Index(keys, tupleize_cols=False)
        plain = pd.Categorical.from_codes([2, -1, 0, 2, 1], categories)
        for column in (plain, pd.Series(plain), pd.CategoricalIndex(plain)):
            given = as_keys(column)
            assert (len(given), given.to_list(), [given[i] for i in range(5)]) == (5, asked, asked)
            assert given.codes is not None
            assert slots(bank, column) == [2, -1, 0, 2, 1]
            with pytest.raises(UnknownModelError, match=r"None \(1 of 5 keys\)") as caught:
                bank.handles(column)
            assert caught.value.keys == [None]


def test_categories_that_do_not_occur_need_not_be_keys() -> None:
    pd = pytest.importorskip("pandas")
    bank = make(["a", "b"])
    for categories in (["a", 1], ["a", 2.5], ["a", b"b"], ["a", *map(str, range(100))]):
        column = pd.Categorical.from_codes([0, 0, -1], pd.Index(categories, dtype=object))
        assert slots(bank, column) == [0, 0, -1]
    with pytest.raises(TypeError, match=r"keys\[1\]: expected a str, like the keys before, got 1"):
        bank.handles(pd.Categorical.from_codes([0, 1], pd.Index(["a", 1], dtype=object)))
    numbers = pd.Categorical.from_codes([-1, -1], [1, 2])
    assert slots(bank, numbers) == [-1, -1]
    with pytest.raises(TypeError, match="keys: expected str like the bank's, got 2"):
        bank.handles(pd.Categorical.from_codes([-1, 1], [1, 2]))


def test_a_list_may_change_while_its_keys_are_looked_up() -> None:
    bank = make([f"key {i}" for i in range(1000)])
    keys = [f"key {i % 1000}" for i in range(20_000)]
    stop = False

    def change() -> None:
        i = 0
        while not stop:
            i += 1
            keys[i * 7919 % 20_000] = "".join(["key ", str(i % 1000)])
            keys.append("key 1")
            keys.pop()

    thread = Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            found, unknown = bank._slot_map.find(as_keys(keys))
            assert unknown == 0
            assert len(found) in (20_000, 20_001)
    finally:
        stop = True
        thread.join()


def test_a_table_is_found_like_its_bank() -> None:
    table = make([f"key {i}" for i in range(5000)])._slot_map.freeze()[2].table
    assert isinstance(table, Table)
    found, unknown = table.find(np.array([f"key {i}" for i in range(4999, -2, -1)]))
    assert (found.tolist(), unknown) == ([*range(4999, -1, -1), -1], 1)
