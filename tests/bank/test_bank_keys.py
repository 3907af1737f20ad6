"""Keys: columns, subclasses, odd strings, numbers at their limits, and what is no key."""

from __future__ import annotations

import contextlib
import enum
import gc
from typing import Any

import numpy as np
import pytest

from cases import raises
from mlpbank import Architecture, Bank, UnknownModelError

ARCH = Architecture.mlp(1, 1)
X = np.ones((1, 1), np.float32)
BIG = 2**63
ONE = "expected a str, an int or a tuple of them"
MANY = "expected a list, tuple, array or column of str, int or tuples of them"
INT = "use int(key), for a column astype(int)"
STR = "use str(key), here and in the bank"
BOTH = "here and in the bank"


def make(keys: list[Any]) -> Bank:
    """Return a bank whose model i answers i; the first half from the table, the others added."""
    half = len(keys) // 2
    weights = {"layer_0": np.zeros((half, 1, 1)), "layer_0.bias": np.arange(half).reshape(half, 1)}
    bank = Bank.from_stacked(keys[:half], ARCH, weights)
    for i in range(half, len(keys)):
        bank[keys[i]] = {"layer_0": [0], "layer_0.bias": [i]}
    return bank


def answers(bank: Bank, keys: Any, **options: str) -> list[float]:
    found: list[float] = bank.predict(keys, np.ones((len(keys), 1)), **options)[:, 0].tolist()
    return found


def test_odd_strings_are_keys_like_any_other() -> None:
    keys = [
        "",
        " ",
        "\0",
        "a",
        "a\0",
        "a\0b",
        "A",
        "é",
        "e\u0301",
        "\U0001f6eb",
        "x" * 5_000_000,
        "x" * 5_000_001,
    ]
    bank = make(keys)
    assert answers(bank, keys) == list(range(len(keys)))
    assert list(bank) == keys
    for i, key in enumerate(keys):
        assert key in bank
        assert bank.predict(key, [1.0]).tolist() == [i]
        assert bank.info(key).key == key
    with pytest.raises(UnknownModelError) as caught:
        bank.predict(["y" * 5_000_000], X)
    assert len(str(caught.value)) < 200, "a long key is not shown in full"
    assert caught.value.keys == ["y" * 5_000_000]


def test_a_lone_surrogate_is_a_key_of_no_model() -> None:
    bank = make(["a", "b", "c"])
    assert "\ud800" not in bank
    for key in ("\ud800", "a\udfff"):
        with pytest.raises(UnknownModelError):
            bank.predict(["a", key], np.ones((2, 1)))
        with pytest.raises(UnknownModelError):
            bank[key]
        with pytest.raises(UnknownModelError):
            del bank[key]
        with pytest.raises(ValueError, match=r"^key: expected a str that UTF-8 can hold, got "):
            bank[key] = bank["a"]
    assert np.isnan(answers(bank, ["a", "\ud800"], missing="nan")).tolist() == [False, True]


def test_finalizers_that_change_the_list_of_keys() -> None:
    """Python's collector runs them where it likes, but not while the core reads the list."""
    bank = make(["a", "b", "c"])

    class Clears:
        def __init__(self, keys: list[str]) -> None:
            self.keys, self.itself = keys, self

        def __del__(self) -> None:
            self.keys.clear()

    before = gc.get_threshold()
    gc.freeze()  # or each collection would look at all that tests have made
    try:
        for objects in range(2, 60):
            keys = ["\ud800"] * 100 + ["a"] * 400
            x = np.ones((len(keys), 1), np.float32)
            gc.collect()
            Clears(keys)
            gc.set_threshold(objects, 1000, 1000)
            with contextlib.suppress(ValueError):  # x then has more rows than there are keys
                y = bank.predict(keys, x, missing="nan")
                assert np.isnan(y[:100]).all()
                assert (y[100:] == 0).all()
            gc.set_threshold(*before)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class Name(str, enum.Enum):
    """Has a hash and a text of its own."""

    B = "b"
    NEW = "new"


class Number(enum.IntEnum):
    TWO = 2
    NINE = 9


def test_subclasses_of_str_and_int_are_what_they_hold() -> None:
    bank = make(["a", "b", "c", "d"])
    for b in (Name.B, np.str_("b")):
        assert answers(bank, ["a", b]) == [0, 1]
        assert b in bank
        bank[b] = {"layer_0": [0], "layer_0.bias": [10]}
        assert answers(bank, ["b", b]) == [10, 10]
        del bank[b]
        assert "b" not in bank
        assert b not in bank
        bank["b"] = {"layer_0": [0], "layer_0.bias": [1]}
    bank[Name.NEW] = bank["a"]
    bank[np.str_("newer")] = bank["a"]
    assert sorted(bank) == ["a", "b", "c", "d", "new", "newer"]
    assert {type(key) for key in bank} == {str}

    numbers = make([1, 2, 3, 4])
    numbers[Number.NINE] = numbers[Number.TWO]
    numbers[np.uint8(10)] = numbers[np.int16(2)]
    assert answers(numbers, [Number.TWO, Number.NINE, np.int8(10)]) == [1, 1, 1]
    assert list(numbers) == [1, 2, 3, 4, 9, 10]
    assert {type(key) for key in numbers} == {int}


def test_ints_up_to_their_limits() -> None:
    keys = [0, BIG - 1, -1, -BIG, 1, 2**53 + 1]
    bank = make(keys)
    assert answers(bank, keys) == list(range(6))
    assert answers(bank, np.array(keys)) == list(range(6))
    for column in (np.array([1, 0], dtype) for dtype in ("u1", "i2", ">i4", "u8", "i8")):
        assert answers(bank, column) == [4, 0]
    assert answers(bank, np.array([9, 1, 9, 0, 9])[1::2]) == [4, 0]
    for beyond in (BIG, -BIG - 1, 10**30):
        assert beyond not in bank
        with pytest.raises(UnknownModelError):
            bank[beyond]
        with raises(ValueError, f"keys[1]: expected an int of 64 bits, got {beyond}; {STR}"):
            bank.predict([1, beyond], np.ones((2, 1)))
        with raises(ValueError, f"key: expected an int of 64 bits, got {beyond}; {STR}"):
            bank[beyond] = bank[0]
    with raises(ValueError, f"keys[1]: expected an int of 64 bits, got {BIG}; {STR}"):
        bank.predict(np.array([1, BIG], np.uint64), np.ones((2, 1)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, True], f"keys[1]: {ONE}, got True; use str(key) or int(key), {BOTH}"),
        ([1, "2"], f"keys[1]: expected an int, like the keys before, got '2'; {INT}"),
        ([1, [2]], f"keys[1]: {ONE}, got [2]; use tuple(key), {BOTH}"),
        ([True, 1], f"keys[0]: {ONE}, got True; use str(key) or int(key), {BOTH}"),
        ([[1], [2]], f"keys[0]: {ONE}, got [1]; use tuple(key), {BOTH}"),
        (["1", "2"], f"keys: expected int like the bank's, got '1'; {INT}"),
        (np.array([True, False]), f"keys[0]: {ONE}, got True; use str(key) or int(key), {BOTH}"),
        ({1, 2}, f"keys: {MANY}, got {{1, 2}}; use list(keys)"),
        (b"12", f"keys: {MANY}, got b'12'; use key.decode(), {BOTH}"),
    ],
)
def test_what_is_no_list_of_ints(keys: Any, message: str) -> None:
    bank = make([1, 2])
    for call in (lambda: bank.predict(keys, np.ones((2, 1))), lambda: bank.handles(keys)):
        with raises(TypeError, message):
            call()
    if "like the bank's" not in message:
        with raises(TypeError, message):
            Bank.from_stacked(keys, ARCH, {"layer_0": np.ones((2, 1, 1))})


def test_what_is_no_key() -> None:
    numbers, names = make([1, 2]), make(["a", "b"])
    for wrong in (1.0, 1.5, True, None, b"a", [1], ("a",), {}, np.float64(1), np.bool_(True)):
        for bank in (numbers, names):
            assert wrong not in bank
            with pytest.raises(UnknownModelError):
                bank[wrong]  # type: ignore[index]
            with pytest.raises(UnknownModelError):
                del bank[wrong]  # type: ignore[arg-type]
            with pytest.raises(UnknownModelError):
                bank.info(wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"^key: expected (a str, an int or|str|int)"):
                bank[wrong] = {"layer_0": [1]}  # type: ignore[index]
            assert len(bank) == 2


def test_pairs_of_key_and_model_have_different_keys() -> None:
    pairs = [("a", {"layer_0": [[1.0]]}), ("b", {"layer_0": [[2.0]]})]
    assert list(Bank.from_models(iter(pairs), ARCH)) == ["a", "b"]
    with raises(ValueError, "models: expected different keys, got 'a' twice"):
        Bank.from_models([*pairs, pairs[0]], ARCH)


def test_generators_and_iterators_are_lists() -> None:
    bank = make(["a", "b"])
    assert bank.predict((key for key in ("b", "a")), np.ones((2, 1)))[:, 0].tolist() == [1, 0]
    assert bank.predict({"b": 1, "a": 2}.keys(), np.ones((2, 1)))[:, 0].tolist() == [1, 0]
    assert bank.handles(iter(["b"])).tolist() == [1]


def test_versions_that_could_not_be_saved_are_refused() -> None:
    bank = make(["a", "b"])
    for wrong, error in ((3, TypeError), (b"1", TypeError), ("\ud800", ValueError)):
        with pytest.raises(error, match=r"^version: expected a str"):
            bank.add("a", bank["b"], version=wrong)  # type: ignore[arg-type]
        with pytest.raises(error, match=r"^version: expected a str"):
            Bank.from_stacked(["x"], ARCH, {"layer_0": np.ones((1, 1, 1))}, version=wrong)  # type: ignore[arg-type]
    bank.add("a", bank["b"], version="")
    assert (bank.info("a").version, bank.info("a").revision) == (None, 2)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns(library: str) -> None:
    frames = pytest.importorskip(library)
    names, numbers = make(["a", "b"]), make([1, 2])
    assert answers(names, frames.Series(["b", "a", "b"])) == [1, 0, 1]
    assert answers(numbers, frames.Series([2, 1, 2])) == [1, 0, 1]
    assert answers(numbers, frames.Series(np.array([2, 1], np.uint8))) == [1, 0]
    kinds: list[Any] = (
        [frames.Series(["b", "a"], dtype=frames.Categorical)] if library == "polars" else []
    )
    if library == "pandas":
        kinds = [
            frames.Series(["b", "a"], dtype=dtype) for dtype in ("object", "string", "category")
        ]
        kinds += [frames.Index(["b", "a"]), frames.Series(["b", "a"], index=[7, 3])]
        assert answers(numbers, frames.Series([2, 1], dtype="Int64")) == [1, 0]
    for column in kinds:
        assert answers(names, column) == [1, 0]
    frame = frames.DataFrame({"who": ["b", "a"], "x": [1.0, 2.0]})
    with raises(
        TypeError, "keys: expected str like the bank's, got ('b', 1); the bank's keys are no tuples"
    ):
        names.predict(frame, np.ones((2, 1)))
