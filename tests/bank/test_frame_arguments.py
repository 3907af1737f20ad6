"""What predict_frame and predict_stream take beside the table: columns and names."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from arrow_tables import Table, sum_bank
from mlpbank import Architecture, Bank, InvalidTypeError, InvalidValueError, UnknownKeyError

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")

DATA = {"k": ["b", "a"], "p": [1.0, 2.0], "q": [3.0, 4.0]}
RIGHT = [62, 42]
TABLES = [pd.DataFrame(DATA), pl.DataFrame(DATA), pa.table(DATA), Table(pa.table(DATA))]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: type(table).__module__)
def test_columns_of_inputs_in_any_sequence(table: Any) -> None:
    bank = sum_bank("a", "b")
    for features in (
        ("p", "q"),
        np.array(["p", "q"]),
        pd.Index(["p", "q"]),
        pl.Series(["p", "q"]),
        {"p": 0, "q": 1}.keys(),
        (name for name in "pq"),
    ):
        assert np.asarray(bank.predict_frame(table, key="k", features=features)).tolist() == RIGHT


def test_names_in_a_set_have_no_order() -> None:
    order = "expected them in their order, got a (frozen)?set, which has none; use a list"
    for names in ({"p", "q"}, frozenset("pq")):
        with pytest.raises(InvalidTypeError, match=f"features: {order}"):
            sum_bank("a", "b").predict_frame(TABLES[0], key="k", features=names)  # type: ignore[arg-type]
        with pytest.raises(InvalidTypeError, match=f"feature_names: {order}"):
            Bank(Architecture.mlp(2, 1), feature_names=names)  # type: ignore[arg-type]
        with pytest.raises(InvalidTypeError, match=f"classes: {order}"):
            Bank(Architecture.mlp(2, 2), classes=names)  # type: ignore[arg-type]


def test_lists_that_change_while_tables_come_do_not_matter() -> None:
    bank = sum_bank(("a", "x"), ("b", "x"))
    features, key = ["p", "q"], ["k", "s"]
    results = bank.predict_stream([TABLES[0].assign(s="x")] * 4, key=key, features=features)
    assert next(results).tolist() == RIGHT
    features.reverse()
    key.reverse()
    assert [result.tolist() for result in results] == [RIGHT] * 3


@pytest.mark.parametrize("table", TABLES, ids=lambda table: type(table).__module__)
def test_one_column_may_be_several_parts_of_keys(table: Any) -> None:
    bank = sum_bank(("a", "a"), ("b", "b"))
    y = bank.predict_frame(table, key=["k", "k"], features=["p", "q"])
    assert np.asarray(y).tolist() == RIGHT


@pytest.mark.parametrize("table", TABLES, ids=lambda table: type(table).__module__)
def test_what_names_no_column(table: Any) -> None:
    bank = sum_bank("a", "b")
    expected = "expected the name of a column, got a .*; columns themselves are for predict"
    for wrong in (pl.col("k"), pytest.importorskip("pyarrow.compute").field("k"), ["k"]):
        with pytest.raises(InvalidTypeError, match=f"features: {expected}"):
            bank.predict_frame(table, key="k", features=["p", wrong])
        if not isinstance(wrong, list):
            with pytest.raises(InvalidTypeError, match=f"key: {expected}"):
                bank.predict_frame(table, key=wrong, features=["p", "q"])
    with pytest.raises(UnknownKeyError, match="key: expected one column None in df, got none"):
        bank.predict_frame(table, key=None, features=["p", "q"])  # type: ignore[arg-type]


def test_names_of_results_are_text_of_arrow() -> None:
    for table in TABLES:
        with pytest.raises(InvalidValueError, match="name: expected a str that UTF-8 can hold"):
            sum_bank("a", "b").predict_frame(table, key="k", features=["p", "q"], name="\ud800")
        with pytest.raises(InvalidValueError, match="name: expected a str without NUL"):
            sum_bank("a", "b").predict_frame(table, key="k", features=["p", "q"], name="a\0b")


def test_tables_that_are_not_in_memory_say_so_in_streams_too() -> None:
    lazy = TABLES[1].lazy()
    with pytest.raises(InvalidTypeError, match=r"got LazyFrame; call collect\(\) first"):
        sum_bank("a").predict_stream(lazy, key="k", features=["p", "q"])


def test_decimals_of_pandas_are_numbers() -> None:
    numbers = pa.array([decimal.Decimal("1.5"), None], pa.decimal128(9, 2))
    df = pd.DataFrame({"k": ["a", "a"], "q": [1, 1]})
    df["p"] = pd.Series(numbers, dtype=pd.ArrowDtype(numbers.type))
    y = sum_bank("a").predict_frame(df, key="k", features=["p", "q"])
    np.testing.assert_array_equal(y, [11.5, np.nan])
    df["p"] = pd.Series(
        numbers.dictionary_encode(), dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), numbers.type))
    )
    with pytest.raises(
        InvalidTypeError, match="features: expected numbers, got column 'p' of dict"
    ):
        sum_bank("a").predict_frame(df, key="k", features=["p", "q"])


def test_results_that_are_shared_cannot_be_overwritten() -> None:
    result = sum_bank("a", "b").predict_frame(TABLES[3], key="k", features=["p", "q"])
    shared = np.asarray(result)
    with pytest.raises(ValueError, match="read-only"):
        shared[0] = 5
    assert list(result) == pd.Series(result).tolist() == RIGHT
    own = np.array(result)
    own[0] = 5
    assert pa.array(result).to_pylist() == RIGHT
    assert np.asarray(result, np.float64).tolist() == RIGHT
    with pytest.raises(InvalidValueError, match="copy: expected True or None for float64"):
        np.asarray(result, np.float64, copy=False)
