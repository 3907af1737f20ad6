"""Columns of keys in Arrow memory: every type of text and integers, dictionaries, gaps, tuples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrow_tables import Batch, Table, random_bank, sum_bank
from mlpbank import Architecture, Bank, InvalidTypeError, InvalidValueError, UnknownModelError

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

LONG = "a key of more than the twelve bytes that a view holds"
INTEGERS = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
)


def frame(keys: Any) -> Any:
    return pa.table({"k": keys, "p": np.ones(len(keys)), "q": np.zeros(len(keys))})


def predicted(bank: Any, keys: Any, **options: Any) -> list[float]:
    """Return predictions for a column of keys, after all ways to them have given the same."""
    table = frame(keys)
    columns = {"key": "k", "features": ["p", "q"], **options}
    found: list[float] = bank.predict_frame(table, **columns).to_pylist()
    np.testing.assert_array_equal(bank.predict_frame(Table(table), **columns), found)
    for batch in table.to_batches()[:1]:
        y = bank.predict_frame(Batch(batch), **columns)
        np.testing.assert_array_equal(y, found[: len(y)])
    x = np.stack([table["p"], table["q"]], 1)
    np.testing.assert_array_equal(bank.predict(keys, x, **options)[:, 0], found)
    return found


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_text_of_every_type(kind: Any) -> None:
    bank = sum_bank("a", LONG, "", "ä€😀")
    keys = pa.array(["ä€😀", None, LONG, "other", "", "a", LONG + "!"], kind)
    expected = [4, np.nan, 2, np.nan, 3, 1, np.nan]
    np.testing.assert_array_equal(predicted(bank, keys, missing="nan"), expected)
    np.testing.assert_array_equal(predicted(bank, keys[2:6], missing="nan"), expected[2:6])
    with pytest.raises(UnknownModelError, match=r"no such model: None, 'other', .*missing key at"):
        predicted(bank, keys)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_integers_of_every_width(kind: Any) -> None:
    bank = sum_bank(7, 100)
    keys = pa.array([100, 7, None, 8], kind)
    assert predicted(bank, keys[:2]) == [2, 1]
    np.testing.assert_array_equal(predicted(bank, keys, missing="nan"), [2, 1, np.nan, np.nan])


def test_integers_that_no_key_can_be() -> None:
    keys = pa.array([7, 2**63], pa.uint64())
    message = r"^keys.*expected an int of 64 bits, got 9223372036854775808; use str\(key\)"
    with pytest.raises(InvalidValueError, match=message):
        predicted(sum_bank(7), keys)


@pytest.mark.parametrize("index", INTEGERS, ids=str)
@pytest.mark.parametrize("values", [["a", "b", None, "other"], [7, 8, None, 9]])
def test_dictionaries_with_indices_of_every_width(index: Any, values: list[Any]) -> None:
    bank = sum_bank(*values[:2])
    keys = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1, 2, 3], index), pa.array(values))
    expected = [2, 1, np.nan, 2, np.nan, np.nan]
    np.testing.assert_array_equal(predicted(bank, keys, missing="nan"), expected)
    assert predicted(bank, keys[:2]) == [2, 1]  # entries of no row do not matter


def test_dictionaries_of_dictionaries_and_views() -> None:
    words = pa.array(["a", "b"], pa.string_view())
    for values in (words, pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), words)):
        keys = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int16()), values)
        y = sum_bank("a", "b").predict(keys, [[1, 0]] * 3)
        assert y[:, 0].tolist() == [2, 1, 2]


def test_chunks_with_dictionaries_of_their_own() -> None:
    chunks = [pa.array(part).dictionary_encode() for part in (["b", "a"], ["a"], ["b", "b"])]
    assert predicted(sum_bank("a", "b"), pa.chunked_array(chunks)) == [2, 1, 1, 2, 2]
    shared = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1, 1]), ["a", "b"])
    assert predicted(sum_bank("a", "b"), pa.chunked_array([shared[:1], shared[1:]])) == [2, 1, 2, 2]


def test_many_chunks_gaps_and_offsets() -> None:
    bank = random_bank(300, 2, 1)
    rng = np.random.default_rng(0)
    names = [None if i % 7 == 0 else f"key-{i}" for i in rng.integers(0, 330, 5000).tolist()]
    whole = pa.array(names)
    cuts = sorted(rng.integers(0, 5000, 40).tolist())
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, 5000], strict=True)]
    x = rng.standard_normal((5000, 2)).astype(np.float32)
    expected = bank.predict(names, x, missing="nan")
    for keys in (whole, pa.chunked_array(chunks), pa.chunked_array(chunks).dictionary_encode()):
        np.testing.assert_array_equal(bank.predict(keys, x, missing="nan"), expected)
    frame = pl.DataFrame({"k": names})
    parts = pl.concat([frame[:1111], frame[1111:2000], frame[2000:]], rechunk=False)["k"]
    for keys in (parts, parts.cast(pl.Categorical)):
        np.testing.assert_array_equal(bank.predict(keys, x, missing="nan"), expected)


def test_tuples_of_columns() -> None:
    bank = sum_bank(("a", 1), ("b", 2), (LONG, -1))
    parts = {
        "s": pa.array([LONG, "a", None, "b", "b"]).dictionary_encode(),
        "i": pa.array([-1, 1, 1, 2, None], pa.int16()),
    }
    table = pa.table({**parts, "p": np.ones(5), "q": np.zeros(5)})
    expected = [3, 1, np.nan, 2, np.nan]
    for way in (table, Table(table), pl.DataFrame(table)):
        y = bank.predict_frame(way, key=["s", "i"], features=["p", "q"], missing="nan")
        np.testing.assert_array_equal(np.asarray(y), expected)
    unknown = pa.table({"s": ["a", None], "i": [-5, 1], "p": [1, 1], "q": [0, 0]})
    with pytest.raises(UnknownModelError, match=r"no such model: \('a', -5\), None \(2 of 2"):
        bank.predict_frame(unknown, key=["s", "i"], features=["p", "q"])
    with pytest.raises(InvalidTypeError, match=r"expected tuple\[str, int\] like the bank's"):
        bank.predict_frame(unknown, key=["i", "s"], features=["p", "q"])


def test_floats_and_nothing_are_keys_as_in_lists() -> None:
    bank = sum_bank(1, 2)
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        keys = pa.array(np.array([2, np.nan], kind.to_pandas_dtype()))
        np.testing.assert_array_equal(predicted(bank, keys, missing="nan"), [2, np.nan])
    assert np.isnan(predicted(bank, pa.nulls(2), missing="nan")).all()
    with pytest.raises(InvalidTypeError, match=r"keys\[0\]: expected a str or an int, got 1\.5"):
        bank.predict_frame(Table(frame(pa.array([1.5]))), key="k", features=["p", "q"])


@pytest.mark.parametrize(
    "keys",
    [pa.array([True]), pa.array([1], pa.date32()), pa.array([b"a"]), pa.array([["a"]])],
    ids=["bool", "date32", "binary", "list"],
)
def test_columns_that_are_no_keys_are_refused(keys: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"^keys.*expected .*here and in the bank"):
        predicted(sum_bank("a"), keys)
    with pytest.raises(InvalidTypeError, match=r"got an Arrow column of .*; cast it to text"):
        sum_bank("a").predict_frame(Table(frame(keys)), key="k", features=["p", "q"])


def test_columns_of_another_kind_than_the_banks() -> None:
    with pytest.raises(InvalidTypeError, match="expected int like the bank's, got 'a'"):
        predicted(sum_bank(1), pa.array([None, "a"]))
    with pytest.raises(InvalidTypeError, match="expected str like the bank's, got 5"):
        predicted(sum_bank("a"), pa.array([5]))
    nothing = pa.array([None, None], pa.string())
    assert np.isnan(predicted(sum_bank(1), nothing, missing="nan")).all()
    assert predicted(sum_bank(1), nothing[:0]) == []


def test_handles_and_sources_take_columns() -> None:
    bank = sum_bank("a", "b")
    keys = pa.array(["b", "a"])
    assert bank.handles(keys).tolist() == bank.handles(["b", "a"]).tolist()
    bank.pop("a")
    assert bank.sources(keys).tolist() == ["model", "missing"]
    bank["a"] = {"layer_0": [5, 5]}
    assert bank.handles(keys).tolist() == bank.handles(["b", "a"]).tolist()
    with pytest.raises(UnknownModelError, match="no such model: 'c'"):
        bank.handles(pl.Series(["a", "c"]))


@pytest.mark.parametrize("kind", [*INTEGERS, pa.string(), pa.string_view()], ids=str)
def test_banks_are_made_of_columns(kind: Any) -> None:
    weights = {"layer_0": np.zeros((2, 1, 1), np.float32)}
    plain = [7, 100] if pa.types.is_integer(kind) else ["7", LONG]
    column = pa.array(plain, kind)
    for keys in (column, pa.chunked_array([column[:1], column[1:]]), pl.Series(column)):
        assert list(Bank.from_stacked(keys, Architecture.mlp(1, 1), weights)) == plain
    with pytest.raises(InvalidValueError, match="expected different ones"):
        Bank.from_stacked(pa.array(plain[:1] * 2, kind), Architecture.mlp(1, 1), weights)
    gaps = pa.array([plain[0], None], kind)
    with pytest.raises(InvalidTypeError, match=r"keys\[1\]: .* got None, a missing key"):
        Bank.from_stacked(gaps, Architecture.mlp(1, 1), weights)


def test_banks_are_made_of_dictionaries_and_tables() -> None:
    weights = {"layer_0": np.zeros((2, 1, 1), np.float32)}
    column = pa.array(["a", "b"]).dictionary_encode()
    for keys in (column, pl.Series(["a", "b"], dtype=pl.Enum("ab"))):
        assert list(Bank.from_stacked(keys, Architecture.mlp(1, 1), weights)) == ["a", "b"]
    parts = pa.table({"s": ["a", "b"], "i": [1, 2]})
    for table in (parts, pl.DataFrame(parts), parts.to_pandas(types_mapper=pd.ArrowDtype)):
        bank = Bank.from_stacked(table, Architecture.mlp(1, 1), weights)
        assert list(bank) == [("a", 1), ("b", 2)]


def test_text_that_is_not_utf8_becomes_no_key() -> None:
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff")])
    weights = {"layer_0": np.zeros((2, 1, 1), np.float32)}
    for keys in (texts, pa.table({"s": texts, "i": [1, 2]})):
        with pytest.raises(InvalidValueError, match=r"keys: expected text in UTF-8, got b'\\xff'"):
            Bank.from_stacked(keys, Architecture.mlp(1, 1), weights)
    bank = sum_bank(("a", 1), ("\ufffd", 2))
    x = np.ones((2, 2))
    parts = pd.DataFrame({"s": pd.Series(texts, dtype=pd.ArrowDtype(pa.string())), "i": [1, 2]})
    with pytest.raises(InvalidValueError, match="keys: expected text in UTF-8"):
        bank.predict(parts, x)
    for table in (
        pa.table({"s": texts, "i": [1, 2]}),
        pl.DataFrame({"s": ["a", "b"], "i": [1, 2]}),
    ):
        assert bank.sources(table).tolist() == ["model", "missing"]
