"""What refusals of keys, frames and scales say: the likely cause, and the way out."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlpbank import Architecture, Bank, InvalidTypeError, MlpbankError, UnknownModelError

NAN = float("nan")
X = np.ones((1, 2), np.float32)


def bank_of(*keys: Any, **options: Any) -> Bank:
    weights = {"layer_0": np.ones((len(keys), 2, 1))}
    return Bank.from_stacked(list(keys), Architecture.mlp(2, 1), weights, **options)


@pytest.mark.parametrize(
    ("bank", "keys", "way"),
    [
        (bank_of("7"), [7], "use str(key), for a column astype(str)"),
        (bank_of("7"), np.array([7]), "use str(key), for a column astype(str)"),
        (bank_of("7"), pd.Series([7.0]), "these are floats, whose text ends with .0"),
        (bank_of("7"), pd.Series([7.0, NAN]), "these are floats, whose text ends with .0"),
        (bank_of("7"), [("a", 7)], "the bank's keys are no tuples"),
        (bank_of(7), ["7"], "use int(key), for a column astype(int)"),
        (bank_of(7), ["a7"], "key is no integer, as it is in the other keys"),
        (bank_of(("x", 3)), [(3, "x")], "another order than the bank has them, as in ('x', 3)"),
        (bank_of(("x", 3)), [("x", "3")], "use int(key[1])"),
        (bank_of(("x", 3)), [(2, 3)], "use str(key[0])"),
        (bank_of(("x", 3)), [("x", "y")], "key[1] is no integer, as it is in the other keys"),
        (bank_of(("x", 3)), [("x", 3, 1)], "give 2 parts"),
        (bank_of(("x", 3)), ["x"], "give all parts of a key"),
        (bank_of(("x", "y", 3)), [("x", 3, "y")], "its parts are in another order"),
    ],
)
def test_keys_of_another_type(bank: Bank, keys: Any, way: str) -> None:
    with pytest.raises(InvalidTypeError) as refused:
        bank.predict(keys, np.ones((len(keys), 2)))
    assert way in str(refused.value)
    one = keys[0]
    if isinstance(one, (str, int, tuple)):
        for call in (bank.__getitem__, bank.info, bank.__delitem__):
            with pytest.raises(UnknownModelError) as unknown:
                call(one)
            assert way in str(unknown.value)
        with pytest.raises(InvalidTypeError) as refused:
            bank[one] = {"layer_0": [1, 1]}
        assert way in str(refused.value)


def test_integers_beyond_64_bits_in_tuples() -> None:
    bank = bank_of((1, "a"))
    expected = (
        r"keys\[1\]\[0\]: expected an int of 64 bits, got 9223372036854775808; use str\(key\)"
    )
    with pytest.raises(MlpbankError, match=expected):
        bank.predict([(1, "a"), (2**63, "a")], np.ones((2, 2)))


@pytest.mark.parametrize(
    ("key", "asked"),
    [("7", "7.0"), ("a", "a "), ("North", "north"), ("7", "007"), (("a", 7), ("A ", 7))],
)
def test_a_key_that_is_spelled_otherwise_is_named(key: Any, asked: Any) -> None:
    bank = bank_of(key)
    with pytest.raises(UnknownModelError) as unknown:
        bank.predict([asked], X)
    assert str(unknown.value).endswith(f"; instead of {asked!r} there is {key!r}")
    assert str(pickle.loads(pickle.dumps(unknown.value))) == str(unknown.value)
    with pytest.raises(UnknownModelError, match=r"keys\)$"):
        bank_of("b").predict(["c"], X)


def test_the_key_of_rows_without_one_is_no_key_of_a_model() -> None:
    frame = pd.DataFrame({"shop": ["a", None], "x": [1.0, 2.0]})
    models = {shop: {"layer_0": [1, 1]} for shop, _ in frame.groupby("shop", dropna=False)}
    with pytest.raises(InvalidTypeError, match=r"groupby\(dropna=False\) has one; leave it out"):
        Bank.from_models(models, Architecture.mlp(2, 1))


def test_a_fallback_that_is_asked_for_and_not_there() -> None:
    with pytest.raises(UnknownModelError, match=r"needs a fallback, set bank\.fallback"):
        bank_of("a").predict(["b"], X, missing="fallback")
    with pytest.raises(UnknownModelError, match="the fallback 'q' has no model itself"):
        bank_of("a", fallback="q").predict(["b"], X)


FRAME = pd.DataFrame({"shop": ["a"], "item": [3], "u": [1.0], "v": [2.0]})


@pytest.mark.parametrize(
    ("frame", "key", "way"),
    [
        (FRAME, ("shop", "item"), "several columns are a list, ['shop', 'item']"),
        (FRAME.set_index("shop"), "shop", "in its index, which df.reset_index() makes columns"),
        (FRAME.set_index(["shop", "item"]), ["shop", "item"], "df.reset_index()"),
        (FRAME.rename(columns={"shop": " Shop"}), "shop", "there is ' Shop', spelled otherwise"),
        (FRAME, FRAME["shop"], "expected the name of a column, got a Series"),
    ],
)
def test_keys_of_a_frame(frame: Any, key: Any, way: str) -> None:
    bank = bank_of(("a", 3), feature_names=["u", "v"])
    with pytest.raises(MlpbankError) as refused:
        bank.predict_frame(frame, key=key)
    assert way in refused.value.args[0]


def test_features_of_rows_are_named() -> None:
    bank = bank_of("a", feature_names=["u", "v"])
    with pytest.raises(MlpbankError, match=r"got 3; the bank's features are \['u', 'v'\]"):
        bank.predict(["a"], np.ones((1, 3)))
    with pytest.raises(MlpbankError, match="leave it out if it is no input"):
        bank_of("a").predict(["a"], FRAME[["shop", "u"]])


TIME, WARM = (1.7e9, 1e4), (20.0, 5.0)


@pytest.mark.parametrize(
    ("figures", "way"),
    [
        ((WARM, TIME), "As feature 'v' (number 1) it would fit"),
        (((1.8e9, 1.0), WARM), "scale 1 to a feature that is constant"),
        (((1.8e9, 1e4), WARM), "Make a bank of its own"),
    ],
)
def test_scales_that_are_too_far_apart(figures: Any, way: str) -> None:
    bank = Bank(Architecture.mlp(2, 1), feature_names=["u", "v"])
    network = {"layer_0": np.ones((2, 1))}
    bank.add("a", network, input_scaler=tuple(zip(TIME, WARM, strict=True)))
    with pytest.raises(MlpbankError) as refused:
        bank.add("b", network, input_scaler=tuple(zip(*figures, strict=True)))
    message = str(refused.value)
    assert "input feature 'u' (number 0) has mean" in message
    assert way in message
