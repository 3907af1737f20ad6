"""Bank.predict_frame: columns of pandas, polars and Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlpbank import Architecture, Bank, InvalidTypeError, UnknownKeyError


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_data_frames(library: str, outputs: int) -> None:
    frames = pytest.importorskip(library)
    bank = Bank(Architecture.mlp(2, outputs))
    for i, key in enumerate(("a", "b")):
        bank[key] = {"layer_0": np.full((2, outputs), i + 1.0), "layer_0.bias": np.arange(outputs)}
    data = {"who": ["b", "a", "b"], "p": [1, 2, 3], "unused": ["x", "y", "z"], "q": [0.5, 0.5, 0.5]}
    df = frames.DataFrame(data, index=[5, 3, 9]) if library == "pandas" else frames.DataFrame(data)
    result = bank.predict_frame(df, key="who", features=["p", "q"])
    expected = np.array([3.0, 2.5, 7.0])
    if outputs == 1:
        assert result.name == "prediction"
        np.testing.assert_array_equal(result.to_numpy(), expected)
    else:
        assert list(result.columns) == ["prediction_0", "prediction_1"]
        np.testing.assert_array_equal(result.to_numpy(), np.stack([expected, expected + 1], 1))
    if library == "pandas":
        assert list(result.index) == [5, 3, 9]
    with pytest.raises(ValueError, match="expected 2 columns"):
        bank.predict_frame(df, key="who", features=["p"])
    with pytest.raises(ValueError, match="expected 2 columns, got 'pq'"):
        bank.predict_frame(df, key="who", features="pq")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="DataFrame"):
        bank.predict_frame(data, key="who", features=["p", "q"])


def test_frames_of_mixed_and_nullable_columns() -> None:
    bank = Bank(Architecture.mlp(3, 1))
    bank["a"] = {"layer_0": [1, 10, 100]}
    df = pd.DataFrame(
        {"k": ["a", "a"], "x": [1, 2], "y": [1.5, 2], "z": [True, False], "t": ["1", "2"]}
    )
    assert bank.predict_frame(df, key="k", features=["x", "y", "z"]).tolist() == [116, 22]
    nullable = df.astype({"x": "Int64", "y": "Float64", "z": "boolean"})
    nullable.loc[1, "x"] = pd.NA
    result = bank.predict_frame(nullable, key="k", features=["x", "y", "z"])
    assert result[0] == 116
    assert np.isnan(result[1])
    with pytest.raises(TypeError, match=r"got column 't' of"):
        bank.predict_frame(df, key="k", features=["x", "y", "t"])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_that_lack_a_column_are_refused(library: str) -> None:
    frames = pytest.importorskip(library)
    bank = Bank(Architecture.mlp(2, 1))
    df = frames.DataFrame({"k": ["a"], "p": [1.0], "q": [2.0]})
    for key, features in (("other", ["p", "q"]), ("k", ["p", "other"]), ("k", ["p", 1])):
        with pytest.raises(UnknownKeyError, match=r"expected one column .* in df, got none"):
            bank.predict_frame(df, key=key, features=features)
    with pytest.raises(TypeError, match=r"^df: expected .* RecordBatch, got Series$"):
        bank.predict_frame(df["p"], key="k", features=["p", "q"])


def sum_bank() -> Bank:
    bank = Bank(Architecture.mlp(2, 1))
    bank["a"], bank["b"] = {"layer_0": [1, 10]}, {"layer_0": [2, 20]}
    return bank


DATA = {"k": ["b", "a"], "p": [1.0, 2.0], "q": [3, 4]}


class Own(pd.DataFrame):
    """A subclass that another module defines."""


def test_subclasses_of_data_frames() -> None:
    frame = Own(DATA, index=["u", "v"])
    result = sum_bank().predict_frame(frame, key="k", features=["p", "q"])
    assert result.to_dict() == {"u": 62.0, "v": 42.0}


@pytest.mark.slow  # its package is in the extra `test-all` alone
def test_frames_of_geopandas() -> None:
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.GeoDataFrame(DATA)
    result = sum_bank().predict_frame(frame, key="k", features=["p", "q"])
    assert result.tolist() == [62, 42]


def test_arrow_tables_and_record_batches() -> None:
    arrow = pytest.importorskip("pyarrow")
    for kind in (arrow.Table, arrow.RecordBatch):
        table = kind.from_pydict(DATA)
        result = sum_bank().predict_frame(table, key="k", features=["q", "p"])
        kinds = {arrow.Table: arrow.ChunkedArray, arrow.RecordBatch: arrow.Array}
        assert isinstance(result, kinds[kind])
        assert result.to_pylist() == [2 * 3 + 20 * 1, 4 + 10 * 2]
        two = Bank(Architecture.mlp(1, 2))
        two[7] = {"layer_0": [[1, 2]]}
        rows = kind.from_pydict({"k": [7, 7], "p": [1.0, 2.0]})
        result = two.predict_frame(rows, key="k", features=["p"], name="y")
        assert type(result) is kind
        assert result.to_pydict() == {"y_0": [1, 2], "y_1": [2, 4]}


class Stream:
    """What another library offers: an Arrow stream and nothing else."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def test_arrow_streams_of_other_libraries() -> None:
    arrow = pytest.importorskip("pyarrow")
    stream = Stream(arrow.table(DATA))
    result = sum_bank().predict_frame(stream, key="k", features=["p", "q"])
    assert arrow.array(result).to_pylist() == [62, 42]


def test_frames_that_are_not_in_memory_say_how_to_get_there() -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"got a LazyFrame of polars; call collect\(\) first"):
        sum_bank().predict_frame(polars.LazyFrame(DATA), key="k", features=["p", "q"])
    datasets = pytest.importorskip("pyarrow.dataset")
    dataset = datasets.dataset(pytest.importorskip("pyarrow").table(DATA))
    for table, kind in ((dataset, "Dataset"), (dataset.scanner(), "Scanner")):
        with pytest.raises(TypeError, match=rf"got a {kind} of pyarrow; call to_table\(\) first"):
            sum_bank().predict_frame(table, key="k", features=["p", "q"])


@pytest.mark.parametrize(("name", "argument"), [("p", "features"), ("k", "key")])
def test_columns_that_are_there_twice_are_refused(name: str, argument: str) -> None:
    twice = pd.DataFrame(DATA)
    twice = pd.concat([twice, twice[[name]]], axis=1)
    message = rf"{argument}: expected one column '{name}' in df, got several \(2\)"
    with pytest.raises(UnknownKeyError, match=message):
        sum_bank().predict_frame(twice, key="k", features=["p", "q"])
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table(DATA)
    table = table.append_column(name, table[name])
    with pytest.raises(UnknownKeyError, match=message):
        sum_bank().predict_frame(table, key="k", features=["p", "q"])


def test_what_is_missing_is_nan_whatever_the_column() -> None:
    arrow, polars = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    values = [1, None, 3]
    some = {"k": ["a"] * 3, "q": [0.0] * 3}
    frames = [
        *(
            pd.DataFrame(some | {"p": pd.Series(values, dtype=dtype)})
            for dtype in ("Int64", "Float32", "float32", "Sparse[float]", "int64[pyarrow]")
        ),
        *(
            polars.DataFrame(some | {"p": polars.Series(values, dtype=dtype)})
            for dtype in (polars.Int8, polars.Float32, polars.Decimal(9, 2))
        ),
        *(
            arrow.table(some | {"p": arrow.array(values).cast(kind)})
            for kind in (arrow.int16(), arrow.float32(), arrow.decimal128(21, 2))
        ),
    ]
    for frame in frames:
        result = sum_bank().predict_frame(frame, key="k", features=["p", "q"])
        np.testing.assert_array_equal(result.to_numpy(), [1, np.nan, 3])


def test_columns_that_are_no_numbers_are_refused() -> None:
    arrow, polars = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    days = np.array(["2026-01-01", "2026-01-02"], "M8[us]")
    some = {"k": ["a", "b"], "q": [0.0, 0.0]}
    frames = [
        pd.DataFrame(some | {"p": pd.Series([1, 2], dtype="category")}),
        pd.DataFrame(some | {"p": days}),
        pd.DataFrame(some | {"p": ["1", "2"]}),
        pd.DataFrame(some | {"p": pd.Series([1, 2], dtype=object)}),
        pd.DataFrame(some | {"p": [1j, 2j]}),
        polars.DataFrame(some | {"p": days}),
        polars.DataFrame(some | {"p": polars.Series(["1", "2"], dtype=polars.Categorical)}),
        arrow.table(some | {"p": arrow.array(["1", "2"]).dictionary_encode()}),
        arrow.table(some | {"p": arrow.array(days)}),
    ]
    for frame in frames:
        with pytest.raises(InvalidTypeError, match=r"^features: .* got column 'p' of .*; convert"):
            sum_bank().predict_frame(frame, key="k", features=["q", "p"])
