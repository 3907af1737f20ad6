"""Tables through the Arrow interface: rows of columns of every type, results, and producers."""

from __future__ import annotations

import signal
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from arrow_tables import Batch, Table, features, random_bank, sum_bank
from mlpbank import Bank, InvalidTypeError, InvalidValueError, _core

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")

COLUMNS: dict[str, Any] = {"key": "k", "features": ["p", "q"]}


def column_of(kind: Any) -> Any:
    if kind == pa.float16():
        return pa.array([np.float16(1), None, np.float16(3)], kind)
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(1), None, Decimal(3)], kind)
    return pa.array([1, None, 3], pa.int8()).cast(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()),
        *(pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
        *(pa.decimal128(20, 3), pa.decimal256(60, 3)),
    ],
    ids=str,
)
def test_numbers_of_every_type(kind: Any) -> None:
    table = pa.table({"k": ["a", "b", "a"], "p": column_of(kind), "q": [True, False, None]})
    for way in (table, table.slice(0, 3), Table(table), table.to_batches()[0]):
        y = np.asarray(sum_bank("a", "b").predict_frame(way, **COLUMNS))
        np.testing.assert_array_equal(y, [11, np.nan, np.nan])
    y = np.asarray(sum_bank("a").predict_frame(table.slice(2), key="k", features=["p", "p"]))
    assert y.tolist() == [33]


def test_booleans_of_a_byte_are_booleans() -> None:
    bytes_ = pa.array([0, 1, 5, -1, None], pa.int8())
    table = pa.table({"k": ["a"] * 5, "p": pa.ExtensionArray.from_storage(pa.bool8(), bytes_)})
    table = table.append_column("q", pa.array([0] * 5))
    for way in (table, Table(table), table.to_batches()[0]):
        y = np.asarray(sum_bank("a").predict_frame(way, **COLUMNS))
        np.testing.assert_array_equal(y, [0, 1, 1, 1, np.nan])
        with pytest.raises(InvalidTypeError, match="keys"):
            sum_bank(0, 1).predict_frame(way, key="p", features=["q", "q"])


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_large_integers_are_rounded_once(kind: Any) -> None:
    """Rounded to float64 first, the number before a tie would become the tie."""
    numbers = np.array([2**60 + 2**36 + 1, 2**60 + 2**36 - 1, 3], kind)
    assert (numbers.astype(np.float32) != numbers.astype(float).astype(np.float32)).any()
    table = pa.table({"k": ["a"] * 3, "p": numbers, "q": [0] * 3})
    for way in (table, table.to_pandas(), pl.DataFrame(table), Table(table)):
        y = np.asarray(sum_bank("a").predict_frame(way, **COLUMNS))
        np.testing.assert_array_equal(y, numbers.astype(np.float32))


def test_numbers_are_rounded_once_and_shifted_in_float64() -> None:
    rng = np.random.default_rng(1)
    times = 1.7e9 + rng.random(3000)
    plain = random_bank(40, 2, 3)
    bank = Bank(plain.architecture, input_shift=[1.7e9, 0.25])
    for i in range(40):
        bank[f"key-{i}"] = plain[f"key-{i}"]
    keys = [f"key-{i}" for i in rng.integers(0, 40, 3000)]
    x = np.stack([times, rng.random(3000)], 1)
    table = pa.table({"k": keys, "p": times, "q": x[:, 1]})
    for one in (bank, plain):
        expected = one.predict(keys, x)
        for way in (table, Table(table), pl.DataFrame(table), table.to_pandas()):
            result = one.predict_frame(way, **COLUMNS)
            if isinstance(way, Table):
                np.testing.assert_array_equal(np.asarray(result), expected)
            else:
                names = ["prediction_0", "prediction_1", "prediction_2"]
                got = np.stack([np.asarray(result[name]) for name in names], 1)
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("inputs", [1, 5, 32, 64])
@pytest.mark.parametrize("models", [3, 3000])
def test_rows_are_those_of_the_columns(inputs: int, models: int) -> None:
    """Sorted by model or not, in chunks that differ between columns, whatever the layout."""
    bank = random_bank(models, inputs, 2)
    for rows in (0, 1, 7, 1000, 40000):
        x = features(rows, inputs)
        keys = [f"key-{i * 7919 % models}" for i in range(rows)]
        names = [f"f{i}" for i in range(inputs)]
        expected = bank.predict(keys, x)
        columns = [pa.chunked_array([x[: rows // 3, i], x[rows // 3 :, i]]) for i in range(inputs)]
        table = pa.table([pa.array(keys, pa.string()), *columns], ["k", *names])
        by_rows = pd.DataFrame(x, columns=names)  # a matrix of rows
        by_columns = pd.DataFrame({name: x[:, i].copy() for i, name in enumerate(names)})
        frames = [
            (by_rows.assign(k=keys), names),
            (by_columns.assign(k=keys), names),
            (by_columns.assign(k=keys)[::-1], names),
            (pl.DataFrame(table), names),
            (Table(table), names),
        ]
        for number, (frame, chosen) in enumerate(frames):
            result = bank.predict_frame(frame, key="k", features=chosen)
            if isinstance(frame, Table):
                got = np.asarray(result)
            else:
                got = np.stack([np.asarray(result[f"prediction_{i}"]) for i in range(2)], 1)
            np.testing.assert_array_equal(got[::-1] if number == 2 else got, expected)


def test_rows_of_a_matrix_are_not_copied() -> None:
    x = features(100, 3)
    rows = _core.rows_of_columns([x[:, 0], x[:, 1], x[:, 2]], 100, None, None, 1)
    assert np.shares_memory(rows, x)
    np.testing.assert_array_equal(rows, x)
    others: tuple[Any, ...] = (
        [x[:, 1], x[:, 0], x[:, 2]],
        [x[:, 0], x[:, 1]],
        [x[::-1, i] for i in range(3)],
    )
    for columns in others:
        rows = _core.rows_of_columns(columns, 100, None, None, 1)
        assert not np.shares_memory(rows, x)
        np.testing.assert_array_equal(rows, np.stack(columns, 1))


def test_unknown_and_missing_keys() -> None:
    bank = random_bank(50, 2, 2, fallback="key-7")
    keys: list[Any] = [f"key-{i % 60}" for i in range(2000)]
    keys[13] = None
    x = features(2000, 2)
    table = pa.table({"k": keys, "p": x[:, 0], "q": x[:, 1]})
    for missing in ("nan", "fallback", None):
        expected = bank.predict(keys, x, missing=missing)
        result = bank.predict_frame(Table(table), missing=missing, **COLUMNS)
        np.testing.assert_array_equal(np.asarray(result), expected)
    with pytest.raises(KeyError, match=r"no such model: None, 'key-50', .*\(331 of 2000 keys\)"):
        bank.predict_frame(table, missing="error", **COLUMNS)
    few = table.slice(48, 4)  # too few to sort
    expected = bank.predict(keys[48:52], x[48:52], missing="nan")
    result = bank.predict_frame(Table(few), missing="nan", **COLUMNS)
    np.testing.assert_array_equal(np.asarray(result), expected)


def test_results_of_other_libraries_are_arrow() -> None:
    table = Table(pa.table({"k": ["b", "a"], "p": [1.0, 2.0], "q": [3, 4]}))
    result = sum_bank("a", "b").predict_frame(table, name="y", **COLUMNS)
    assert (len(result), result.names) == (2, ("y",))
    assert str(result) == "ArrowResult(y: float32, 2 rows)"
    assert result.to_numpy().dtype == np.float32
    assert pa.array(result).to_pylist() == [62, 42]
    assert pa.chunked_array(result).to_pylist() == [62, 42]
    assert pl.Series(result).to_list() == [62, 42]
    assert np.asarray(result, np.float64).tolist() == [62, 42]
    assert np.array(result, copy=True).tolist() == [62, 42]
    assert sum_bank("a").predict(["a", "a"], np.stack([result, result], 1)).shape == (2, 1)

    two = random_bank(2, 2, 2)
    rows = Batch(pa.record_batch({"k": ["key-1"], "p": [1.0], "q": [2.0]}))
    result = two.predict_frame(rows, name="y", **COLUMNS)
    expected = two.predict(["key-1"], [[1, 2]])
    np.testing.assert_array_equal(np.asarray(result), expected)
    struct = pa.array(result)
    assert str(struct.type) == "struct<y_0: float, y_1: float>"
    assert [list(row.values()) for row in struct.to_pylist()] == expected.tolist()
    assert pa.table(result).column_names == ["y_0", "y_1"]
    assert pl.DataFrame(result).columns == ["y_0", "y_1"]


def test_results_outlive_everything() -> None:
    array = pa.array(
        sum_bank("a").predict_frame(Table(pa.table({"k": ["a"], "p": [1.0], "q": [0]})), **COLUMNS)
    )
    assert array.to_pylist() == [1]


def test_record_batch_readers_are_read() -> None:
    table = pa.table({"k": ["b", "a"], "p": [1.0, 2.0], "q": [3, 4]})
    result = sum_bank("a", "b").predict_frame(table.to_reader(), **COLUMNS)
    assert result.to_pylist() == [62, 42]


def failing() -> Any:
    schema = pa.schema({"k": pa.string(), "p": pa.float32(), "q": pa.float32()})

    def batches() -> Any:
        yield pa.record_batch({"k": ["a"], "p": [1.0], "q": [1.0]}, schema=schema)
        raise OSError("the disk is gone")

    return pa.RecordBatchReader.from_batches(schema, batches())


class Wrong:
    """An object that offers what it does not have."""

    def __init__(self, capsules: Any) -> None:
        self._capsules = capsules

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._capsules


class WrongPair:
    def __init__(self, given: Any) -> None:
        self._given = given

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self._given


def test_producers_that_fail_are_named() -> None:
    bank = sum_bank("a")
    with pytest.raises(InvalidValueError, match=r"df: .* got Table: .*the disk is gone"):
        bank.predict_frame(Table(failing()), **COLUMNS)
    schema = pa.table({"k": ["a"]}).schema.__arrow_c_schema__()
    for given in (None, 5, schema):
        with pytest.raises(InvalidValueError, match="got Wrong: expected a capsule named arrow_"):
            bank.predict_frame(Wrong(given), **COLUMNS)
    wrong: tuple[Any, ...] = (None, schema, (schema,))
    for given in wrong:
        with pytest.raises(InvalidValueError, match="got WrongPair: expected two capsules, got"):
            bank.predict_frame(WrongPair(given), **COLUMNS)
    used = pa.table({"k": ["a"], "p": [1], "q": [1]}).__arrow_c_stream__()
    assert np.asarray(bank.predict_frame(Wrong(used), **COLUMNS)).tolist() == [11]
    with pytest.raises(InvalidValueError, match="got Wrong: a stream that was read already"):
        bank.predict_frame(Wrong(used), **COLUMNS)
    with pytest.raises(InvalidTypeError, match=r"got Table, which is a single column"):
        bank.predict_frame(Table(pa.chunked_array([["a"]])), **COLUMNS)


def test_columns_that_are_no_numbers_say_what_they_are() -> None:
    kinds = {
        "string": ["1"],
        "struct": [{"x": 1}],
        "list": [[1]],
        "timestamp": pa.array([1], pa.timestamp("us")),
        "dictionary<string>": pa.array(["1"]).dictionary_encode(),
        "run_end_encoded": pa.RunEndEncodedArray.from_arrays([1], [1.0]),
        "fixed_size_binary": pa.array([b"a"], pa.binary(1)),
        "fixed_size_list": pa.array([[1]], pa.list_(pa.int8(), 1)),
        "extension type arrow.uuid": pa.array([b"0123456789abcdef"], pa.uuid()),
    }
    for name, values in kinds.items():
        table = Table(pa.table({"k": ["a"], "p": values, "q": [1]}))
        with pytest.raises(InvalidTypeError, match=rf"^features: .* column 'p' of {name};"):
            sum_bank("a").predict_frame(table, **COLUMNS)


def test_columns_of_one_name_are_refused_and_unused_ones_ignored() -> None:
    names = ["k", "p", "q", "q"]
    table = pa.table([["a"], [1], [2], [{"not": "read"}]], names)
    with pytest.raises(KeyError, match=r"features: expected one column 'q' in df, got several \(2"):
        sum_bank("a").predict_frame(Table(table), **COLUMNS)
    other = table.rename_columns(["k", "p", "q", "other"])
    assert np.asarray(sum_bank("a").predict_frame(Table(other), **COLUMNS)).tolist() == [21]


def test_pandas_columns_of_arrow_and_nullable_types() -> None:
    kinds = ("float32[pyarrow]", "int16[pyarrow]", "bool[pyarrow]", "UInt8", "Float32", ">f4", "f2")
    for kind in kinds:
        frame = pd.DataFrame({"k": ["b", "a"], "p": [1, 0], "q": [1, 1]}, index=[4, 2])
        frame = frame.astype({"p": kind, "k": "string"})
        result = sum_bank("a", "b").predict_frame(frame, **COLUMNS)
        assert result.to_dict() == {4: 22, 2: 10}


def test_a_progress_bar(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr("mlpbank.bank._tables._ROWS_PER_STEP", 100)
    bank = random_bank(20, 2, 1)
    x = features(1000, 2)
    keys = [f"key-{i % 20}" for i in range(1000)]
    frame = pd.DataFrame({"k": keys, "p": x[:, 0], "q": x[:, 1]})
    result = bank.predict_frame(frame, progress=True, **COLUMNS)
    np.testing.assert_array_equal(result, bank.predict(keys, x)[:, 0])
    assert "predicting: 100%" in capsys.readouterr().err
    bank.predict_frame(frame[:0], progress=True, **COLUMNS)


def test_reading_a_stream_ends_where_a_signal_raises() -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    table = pa.table({"p": np.zeros(500_000, np.int8)})
    stream = _core.ArrowStream(table.to_reader(max_chunksize=1).__arrow_c_stream__())
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            stream.rest()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stream.next() is not None  # there is more
