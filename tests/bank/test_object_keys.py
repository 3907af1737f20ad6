"""Long columns of objects are looked up where they lie, and with the same results as lists."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from mlpbank import Architecture, Bank, MlpbankError, UnknownModelError
from mlpbank._key_columns import to_find

COUNT, MODELS = 10_000, 300
NAMES = [f"shop-{i}" for i in range(MODELS - 1)] + ["café"]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((COUNT, 3)).astype(np.float32)
PLAIN = [NAMES[i] for i in RNG.integers(0, MODELS - 1, COUNT)]


@pytest.fixture(scope="module")
def bank() -> Bank:
    weights = RNG.standard_normal((MODELS, 3, 2)).astype(np.float32)
    return Bank.from_stacked(NAMES, Architecture.mlp(3, 2), {"layer_0": weights})


class Text(str):
    """Text of a class of its own."""


def array(values: list[Any]) -> npt.NDArray[np.object_]:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def put(*values: Any) -> list[Any]:
    """Return plain keys with others in between, far from the start."""
    found: list[Any] = list(PLAIN)
    for i, value in enumerate(values):
        found[5000 + 700 * i] = value
    return found


LOOKED_UP = {
    "plain": PLAIN,
    "new objects": ["".join(key) for key in PLAIN],
    "not ASCII": put("café", "cafe\u0301", "\ud800"),
    "a class of its own": put(Text("shop-3"), np.str_("shop-4")),
    "missing": put(None, float("nan"), np.nan),
    "missing in other ways": put(pd.NA, pd.NaT, np.float64("nan")),
    "unknown": put("shop-3 ", "", "shop-1\0", "x" * 100_000),
}


def columns(values: list[Any]) -> dict[str, Any]:
    """Return columns of objects in their ways to lie in memory."""
    objects = array(values)
    two = np.empty((len(values), 2), object)
    two[:, 0], two[:, 1] = objects, "other"
    return {
        "array": objects,
        "Series": pd.Series(objects, dtype=object),
        "Index": pd.Index(objects, dtype=object),
        "every second": np.repeat(objects, 2)[::2],
        "backwards": array(values[::-1])[::-1],
        "of a table": two[:, 0],
    }


@pytest.mark.parametrize("name", LOOKED_UP)
def test_as_in_a_list(bank: Bank, name: str) -> None:
    values = LOOKED_UP[name]
    expected = bank.predict(values, X, missing="nan")
    for how, column in columns(values).items():
        assert isinstance(to_find(column).values, np.ndarray), how  # it is not made a list
        for threads in (1, 2):
            found = bank.predict(column, X, missing="nan", num_threads=threads)
            np.testing.assert_array_equal(found, expected, err_msg=how)


@pytest.mark.parametrize("name", LOOKED_UP)
def test_in_tables(bank: Bank, name: str) -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame["shop"] = pd.Series(array(LOOKED_UP[name]), dtype=object)
    found = bank.predict_frame(frame, key="shop", features=["a", "b", "c"], missing="nan")
    expected = bank.predict(LOOKED_UP[name], X, missing="nan")
    np.testing.assert_array_equal(found.to_numpy(), expected)


def test_handles(bank: Bank) -> None:
    np.testing.assert_array_equal(bank.handles(array(PLAIN)), bank.handles(PLAIN))


@pytest.mark.parametrize("name", ["unknown", "missing", "missing in other ways"])
def test_messages_are_those_of_lists(bank: Bank, name: str) -> None:
    messages = []
    for keys in (LOOKED_UP[name], *columns(LOOKED_UP[name]).values()):
        with pytest.raises(UnknownModelError) as caught:
            bank.predict(keys, X)
        messages.append(str(caught.value))
    assert len(set(messages)) == 1


@pytest.mark.parametrize(
    "wrong", [7, 7.5, b"shop-3", ("shop", 3), True, np.datetime64("2020-01-01")]
)
def test_other_objects_are_refused_like_in_lists(bank: Bank, wrong: Any) -> None:
    messages = []
    for keys in (put(wrong), array(put(wrong))):
        with pytest.raises((TypeError, ValueError)) as caught:
            bank.predict(keys, X)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_what_is_no_column_of_text(bank: Bank) -> None:
    rows = X[:2]
    for wrong in (pd.Timestamp("2020-01-01"), pd.Interval(0, 1), pd.DataFrame({"a": [["x"]]})):
        with pytest.raises((TypeError, ValueError)) as caught:
            bank.predict(wrong, rows)
        assert isinstance(caught.value, MlpbankError)
    masked = np.ma.masked_array(array(PLAIN), mask=np.arange(COUNT) % 2 == 0)
    expected = bank.predict([k if i % 2 else None for i, k in enumerate(PLAIN)], X, missing="nan")
    np.testing.assert_array_equal(bank.predict(masked, X, missing="nan"), expected)


def test_an_index_of_several_levels() -> None:
    keys = [(key, 1) for key in NAMES]
    own = Bank.from_stacked(keys, Architecture.mlp(3, 2), {"layer_0": np.ones((MODELS, 3, 2))})
    index = pd.MultiIndex.from_tuples([(key, 1) for key in PLAIN])
    assert not isinstance(to_find(index).values, np.ndarray)
    np.testing.assert_array_equal(own.predict(index, X), own.predict(index.tolist(), X))


def test_keys_of_another_type_are_refused() -> None:
    bank = Bank(Architecture.mlp(3, 2))
    bank[7] = {"layer_0": np.zeros((3, 2), np.float32)}
    with pytest.raises(TypeError, match="expected int like the bank's, got 'shop-"):
        bank.predict(array(PLAIN), X)


def test_a_fallback_and_changes(bank: Bank) -> None:
    other = Bank.from_stacked(*bank.to_stacked())
    other.fallback = "shop-0"
    del other["shop-5"]
    other["new"] = bank["shop-1"]
    keys = put("new", "shop-5", "shop-6")
    np.testing.assert_array_equal(other.predict(array(keys), X), other.predict(keys, X))


def test_an_array_that_changes_meanwhile(bank: Bank) -> None:
    """Each key is looked up as it was at some time."""
    keys = array(PLAIN)
    answers = {key: bank.predict(key, X[0]).tobytes() for key in ("shop-1", "shop-2")}
    running = True

    def change() -> None:
        turn = 0
        while running:
            turn += 1
            keys[:] = [f"shop-{1 + turn % 2}" for _ in range(COUNT)]  # the former ones are gone

    rows = np.repeat(X[:1], COUNT, axis=0)
    keys[:] = ["shop-1"] * COUNT
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            y = bank.predict(keys, rows)
            assert {row.tobytes() for row in y} <= set(answers.values())
    finally:
        running = False
        thread.join()
