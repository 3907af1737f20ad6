"""Keys that are missing, ints that became float, and what is no key, in every kind of column."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import uuid
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, UnknownModelError
from mlpbank.serving import MicroBatcher

ARCH = Architecture.mlp(1, 1)
X = np.ones((3, 1), np.float32)


def make(*keys: Any) -> Bank:
    """Return a bank whose models answer 0, 1, ..."""
    bank = Bank(ARCH)
    for i, key in enumerate(keys):
        bank[key] = {"layer_0": [0], "layer_0.bias": [i]}
    return bank


def columns_with_gaps() -> list[tuple[Any, Any]]:
    """Return columns of the keys 7, a gap, 8 and of "a", a gap, "b", with their banks' keys."""
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    ints: list[Any] = [
        [7, None, 8],
        (7, float("nan"), 8),
        [7, pd.NA, np.int64(8)],
        [7.0, pd.NaT, 8.0],
        np.array([7.0, np.nan, 8.0]),
        np.array([7.0, np.nan, 8.0], np.float32),
        np.array([7, None, 8], object),
        np.ma.masked_array([7, 9, 8], [False, True, False]),
        pd.Series([7, None, 8]),
        pd.Series([7, None, 8], dtype="Int64"),
        pd.Series([7, None, 8], dtype="Float64"),
        pd.Series([7, None, 8], dtype="category"),
        pd.Series([7, None, 8], dtype="int64[pyarrow]"),
        pd.Index([7.0, np.nan, 8.0]),
        pl.Series([7, None, 8]),
        pl.Series([7.0, float("nan"), 8.0]),
        pa.array([7, None, 8]),
        pa.chunked_array([[7, None], [8]]),
        [pa.scalar(7), pa.scalar(None), pa.scalar(8)],
    ]
    texts: list[Any] = [
        ["a", None, "b"],
        [np.str_("a"), np.nan, "b"],
        np.array(["a", None, "b"], object),
        pd.Series(["a", None, "b"]),
        pd.Series(["a", None, "b"], dtype="string"),
        pd.Series(["a", None, "b"], dtype="category"),
        pl.Series(["a", None, "b"]),
        pl.Series(["a", None, "b"], dtype=pl.Categorical),
        pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a"])),
        pa.array(["a", None, "b"]),
        pa.array(["a", None, "b"]).dictionary_encode(),
    ]
    return [(column, (8, 7)) for column in ints] + [(column, ("b", "a")) for column in texts]


def test_missing_decides_about_gaps_in_every_kind_of_column() -> None:
    for column, keys in columns_with_gaps():
        bank = make(*keys)
        found = bank.predict(column, X, missing="nan")[:, 0]
        np.testing.assert_equal(found, [1, np.nan, 0], repr(column))
        for call in (lambda: bank.predict(column, X), lambda: bank.handles(column)):  # noqa: B023
            with pytest.raises(UnknownModelError, match=r"missing key at row 1") as caught:
                call()
            assert caught.value.keys == [None]
        bank.fallback = keys[0]
        assert bank.predict(column, X)[:, 0].tolist() == [1, 0, 0], repr(column)


def test_a_column_of_gaps_alone_fits_every_bank() -> None:
    for bank in (make(1, 2), make("a", "b"), make(("a", 1)), Bank(ARCH)):
        for column in ([None] * 3, np.full(3, np.nan)):
            assert np.isnan(bank.predict(column, X, missing="nan")).all()


def test_one_key_may_be_missing() -> None:
    bank = make(1, 2)
    for key in (None, float("nan"), np.float32("nan")):
        assert np.isnan(bank.predict(key, [1.0], missing="nan"))
        with pytest.raises(UnknownModelError, match="missing key"):
            bank.predict(key, [1.0])
    assert bank.predict(2.0, [1.0]) == 1


def test_the_batcher_takes_missing_keys() -> None:
    async def ask(bank: Bank, keys: list[Any], missing: Any) -> list[Any]:
        async with MicroBatcher(bank) as batcher:
            tasks = (batcher.predict(key, [1.0], missing=missing) for key in keys)
            return await asyncio.gather(*tasks, return_exceptions=True)

    for bank, keys in (
        (make("a", "b"), ["b", None, "a"]),
        (make(1, 2), [np.float64(2), np.nan, 1]),
        (make(("a", 1), ("b", 2)), [("b", 2), ("b", None), ("a", np.int64(1))]),
    ):
        found = asyncio.run(ask(bank, keys, "nan"))
        np.testing.assert_equal(np.concatenate(found), [1, np.nan, 0])
        first, second, third = asyncio.run(ask(bank, keys, "error"))
        assert (first, third) == (1, 0)
        assert isinstance(second, UnknownModelError)
        assert "missing key" in str(second)


def test_floats_are_keys_where_they_are_whole_numbers() -> None:
    bank = make(1, 2)
    for column in ([2.0, 1, np.float32(2)], np.array([2.0, 1.0, 2.0]), np.float16([2, 1, 2])):
        assert bank.predict(column, X)[:, 0].tolist() == [1, 0, 1]
    for column, got in (
        ([1, 1.5, 2], "keys[1]: expected a str, an int or a tuple of them, got 1.5, a float"),
        (np.array([1, 1.5, np.nan]), "keys[1]: expected a str or an int, got 1.5, a float"),
        (np.array([1, 2.0**53, 2]), "keys[1]: expected a str or an int, got 9007199254740992.0"),
        (np.float32([1, 2.0**24, 2]), "keys[1]: expected a str or an int, got 16777216.0"),
        ([1, float("inf"), 2], "keys[1]: expected a str, an int or a tuple of them, got inf"),
    ):
        for missing in ("nan", "error"):
            with pytest.raises(TypeError) as caught:
                bank.predict(column, X, missing=missing)  # type: ignore[arg-type]
            assert str(caught.value).startswith(got)
    with pytest.raises(TypeError, match=r"keys: expected str like the bank's, got 1"):
        make("1", "2").predict(np.array([1.0, np.nan, 2.0]), X)


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("key", "way"),
    [
        (b"a", "key.decode()"),
        (uuid.UUID(int=5), "str(key)"),
        (datetime.date(2024, 1, 2), "key.isoformat()"),
        (datetime.datetime(2024, 1, 2), "key.isoformat()"),
        (np.datetime64("2024-01-02"), "str(key)"),
        (decimal.Decimal(3), "str(key)"),
        (Colour.RED, "key.value or key.name"),
        (True, "str(key) or int(key)"),
        (np.bool_(False), "str(key) or int(key)"),
        (1j, "str(key)"),
        (["A", 1], "tuple(key)"),
        ({"a": 1}, "tuple(key.values())"),
        (2**63, "str(key)"),
        (np.uint64(2**63), "str(key)"),
    ],
)
def test_what_is_no_key_says_what_to_do(key: Any, way: str) -> None:
    for bank in (make("a", "b"), make(1, 2), make(("a", 1)), Bank(ARCH)):
        for call in (
            lambda: bank.add(key, {"layer_0": [1]}),  # noqa: B023
            lambda: bank.predict([key] * 3, X, missing="nan"),  # noqa: B023
            lambda: bank.handles([key]),  # noqa: B023
            lambda: Bank.from_stacked([key], ARCH, {"layer_0": np.ones((1, 1, 1))}),
            lambda: Bank.from_models([(key, object())], ARCH),
        ):
            with pytest.raises((TypeError, ValueError)) as caught:
                call()
            assert f"; use {way}" in str(caught.value) or "keys of str, int or" in str(caught.value)


def test_columns_of_dates_never_become_ints() -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    days = np.array(["2024-01-02", "NaT", "2024-01-03"], "datetime64[ns]")
    bank = make(int(days[0].astype("i8")), int(days[2].astype("i8")))
    for column in (
        days,
        days.astype("datetime64[D]"),
        days - days[0],
        pd.Series(days),
        pd.DatetimeIndex(days),
        pd.Series(days).dt.tz_localize("UTC"),
        pl.Series(days),
        pa.array(days),
        list(days),
    ):
        with pytest.raises(TypeError, match=r"; use .*here and in the bank"):
            bank.predict(column, X, missing="nan")


def test_missing_keys_are_never_stored() -> None:
    for key in (None, float("nan"), ("a", None)):
        with pytest.raises(TypeError, match="a missing key"):
            make("a")[key] = {"layer_0": [1]}
        with pytest.raises(TypeError, match="a missing key"):
            Bank.from_stacked(["a", key], ARCH, {"layer_0": np.ones((2, 1, 1))})
        with pytest.raises(TypeError, match="a missing key"):
            Bank.from_models({"a": object(), key: object()}, ARCH)
    with pytest.raises(TypeError, match=r"keys: expected str, int or tuples of them, got float64"):
        Bank.from_stacked(np.array([1.0, 2.0]), ARCH, {"layer_0": np.ones((2, 1, 1))})


def test_an_unknown_key_of_a_missing_one_can_be_told() -> None:
    with pytest.raises(UnknownModelError) as caught:
        make("a").predict(["b", None, "a"], X)
    assert caught.value.keys == ["b", None]
    assert str(caught.value) == (
        "no such model: 'b', None (2 of 3 keys); missing key at row 1: there is None, NaN or NA"
    )


def _arrow(value: Any) -> Any:
    return pytest.importorskip("pyarrow").array(value)


def _encoded(value: Any) -> Any:
    return pytest.importorskip("pyarrow.compute").run_end_encode(_arrow(value))


def _pandas(value: Any, kind: Any = None) -> Any:
    return pytest.importorskip("pandas").Series(value, dtype=kind)


def _dictionary(value: Any) -> Any:
    """Not every Arrow encodes float16 as a dictionary by itself."""
    return pytest.importorskip("pyarrow").DictionaryArray.from_arrays([0], _arrow(value))


def _of_arrow(value: Any) -> Any:
    pd = pytest.importorskip("pandas")
    return pd.Series(pd.arrays.ArrowExtensionArray(_dictionary(value)))


# Ways from an array of float16 or float32 to a column whose list has Python's own floats, or not.
COLUMNS: dict[str, Callable[[Any], Any]] = {
    "polars": lambda value: pytest.importorskip("polars").Series(value),
    "pyarrow": _arrow,
    "dictionary": _dictionary,
    "run ends": _encoded,
    "scalar": lambda value: [value[0]],
    "arrow scalar": lambda value: [_arrow(value)[0]],
    "pandas": _pandas,
    "categories": lambda value: _pandas(value).astype("category"),
    "categories alone": lambda value: _pandas(value).astype("category").array,
    "sparse": lambda value: _pandas(value).astype(f"Sparse[{value.dtype}]"),
    "pandas of dictionaries": _of_arrow,
    "masked": lambda value: np.ma.array(value, mask=[False]),
    "big-endian": lambda value: np.ma.array(value.astype(value.dtype.newbyteorder())),
    "torch": lambda value: pytest.importorskip("torch").tensor(value),
    "buffer": memoryview,
}


@pytest.mark.parametrize("way", COLUMNS)
@pytest.mark.parametrize("few", [np.float16, np.float32])
def test_floats_of_few_digits_are_keys_only_where_they_are_exact(way: str, few: Any) -> None:
    if few is np.float16 and way.startswith("categories"):
        few = np.float32  # pandas has no index of float16
    beyond = 2 ** (np.finfo(few).nmant + 1)
    bank = make(beyond, beyond // 2)
    assert bank.predict(COLUMNS[way](few([beyond // 2])), X[:1]).item() == 1
    rounded = few([beyond + 1])  # to the key of another model
    assert rounded == beyond
    with pytest.raises(TypeError, match="a float"):
        bank.predict(COLUMNS[way](rounded), X[:1])


def test_floats_of_few_digits_as_parts_of_keys_and_in_other_columns() -> None:
    pd = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="a float"):
        make((2**24, "a")).predict([(np.float32(2**24 + 1), "a")], X[:1])
    for column in (array("f", [2**24 + 1]), pd.array([2**24 + 1], "Float32")):
        with pytest.raises(TypeError, match="a float"):
            make(2**24).predict(column, X[:1])


def test_floats_that_round_integers_of_a_few_digits_are_no_keys() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"dtype bfloat16, which rounds .*; use int"):
        make(256).predict(torch.tensor([257], dtype=torch.bfloat16), X[:1])
    with pytest.raises(TypeError, match="dtype float8_e5m2, which rounds"):
        make(16).predict(torch.tensor([17.0]).to(torch.float8_e5m2), X[:1])


def test_tensors_are_keys() -> None:
    torch = pytest.importorskip("torch")
    bank = make(7, 8)
    for kind in (torch.int16, torch.int64, torch.float64):
        assert bank.predict(torch.tensor([8, 7], dtype=kind), X[:2]).ravel().tolist() == [1, 0]
    with pytest.raises(TypeError, match="keys: expected values, got a tensor on the meta device"):
        bank.predict(torch.tensor([7], device="meta"), X[:1])


@pytest.mark.slow
def test_arrays_of_jax_are_keys() -> None:
    jnp = pytest.importorskip("jax.numpy")
    assert make(7, 8).predict(jnp.array([8, 7]), X[:2]).ravel().tolist() == [1, 0]
    with pytest.raises(TypeError, match="a float"):
        make(2**24).predict(jnp.array([2.0**24 + 1], jnp.float32), X[:1])
    with pytest.raises(TypeError, match="dtype bfloat16, which rounds"):
        make(256).predict(jnp.array([257], jnp.bfloat16), X[:1])


def test_one_key_where_several_are_expected() -> None:
    for bank, key in ((make("a"), "a"), (make(7), 7)):
        with pytest.raises(TypeError, match=r"; one key is \[key\]$"):
            bank.handles(key)
