"""Bank.predict_stream: tables one after the other, read while the one before is computed."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from arrow_tables import Table, features, random_bank, sum_bank
from mlpbank import Architecture, Bank, InvalidTypeError, InvalidValueError, UnknownModelError

COLUMNS: dict[str, Any] = {"key": "k", "features": ["p", "q"]}


def frame(i: int, key: str = "a", rows: int = 2) -> pd.DataFrame:
    return pd.DataFrame({"k": [key] * rows, "p": [float(i)] * rows, "q": [0] * rows})


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("mlpbank")]


def test_results_come_in_order() -> None:
    frames = [frame(i, rows=i) for i in range(5)]
    results = list(sum_bank("a").predict_stream(frames, **COLUMNS))
    assert [result.tolist() for result in results] == [[], [1], [2, 2], [3] * 3, [4] * 4]
    assert own_threads() == []
    assert list(sum_bank("a").predict_stream([], **COLUMNS)) == []


@pytest.mark.parametrize("outputs", [1, 3])
def test_each_result_is_that_of_its_table_alone(outputs: int) -> None:
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    bank = random_bank(30, 2, outputs)
    x = features(3000, 2)
    keys = [f"key-{i % 30}" for i in range(3000)]
    table = pa.table({"k": keys, "p": x[:, 0], "q": x[:, 1]})
    expected = bank.predict(keys, x)
    for batches, kind in (
        (table.to_reader(max_chunksize=700), pa.Array if outputs == 1 else pa.RecordBatch),
        (table, pa.Array if outputs == 1 else pa.RecordBatch),
        (table.to_batches(max_chunksize=999), pa.Array if outputs == 1 else pa.RecordBatch),
        (pl.DataFrame(table).iter_slices(800), pl.Series if outputs == 1 else pl.DataFrame),
        (pl.DataFrame(table), pl.Series if outputs == 1 else pl.DataFrame),
        (table.to_pandas(), pd.Series if outputs == 1 else pd.DataFrame),
    ):
        results = list(bank.predict_stream(batches, **COLUMNS))
        assert all(isinstance(result, kind) for result in results)
        parts = [np.asarray(pd.DataFrame(pl.DataFrame(r)) if outputs > 1 else r) for r in results]
        got = np.concatenate(parts).reshape(-1, outputs)
        np.testing.assert_array_equal(got, expected)
    foreign = Table(table.to_reader(max_chunksize=700))
    results = list(bank.predict_stream(foreign, **COLUMNS))
    assert [len(result) for result in results] == [700] * 4 + [200]
    got = np.concatenate([np.asarray(result).reshape(-1, outputs) for result in results])
    np.testing.assert_array_equal(got, expected)


def test_the_next_table_is_read_while_one_is_computed() -> None:
    """Reading waits for the computation of the table before, which would otherwise never begin."""
    bank = sum_bank("a")
    begun = [threading.Event() for _ in range(4)]
    predict = bank._predict_frame

    def spied(given: Any, options: Any) -> Any:
        result = predict(given, options)
        begun[int(result.iloc[0])].set()
        return result

    bank._predict_frame = spied  # type: ignore[method-assign, assignment]

    def frames() -> Iterator[pd.DataFrame]:
        for i in range(4):
            if i > 0:
                assert begun[i - 1].wait(30)
            yield frame(i)

    assert [y[0] for y in bank.predict_stream(frames(), **COLUMNS)] == [0, 1, 2, 3]


def test_few_tables_are_in_memory() -> None:
    read: list[Any] = []
    most = 0

    def frames() -> Iterator[pd.DataFrame]:
        nonlocal most
        for i in range(20):
            made = frame(i)
            read.append(weakref.ref(made))
            yield made
            del made
            most = max(most, sum(reference() is not None for reference in read))

    for result in sum_bank("a").predict_stream(frames(), **COLUMNS):
        assert len(read) - result[0] <= 3
    assert most <= 2


def test_an_error_in_reading_comes_after_the_results_before() -> None:
    def frames() -> Iterator[pd.DataFrame]:
        yield frame(1)
        yield frame(2)
        raise OSError("the disk is gone")

    results = sum_bank("a").predict_stream(frames(), **COLUMNS)
    assert [next(results)[0], next(results)[0]] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert own_threads() == []


def test_an_error_in_computing_comes_in_its_place() -> None:
    results = sum_bank("a").predict_stream([frame(1), frame(2, "b"), frame(3)], **COLUMNS)
    assert next(results)[0] == 1
    with pytest.raises(UnknownModelError, match="no such model: 'b'"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    assert own_threads() == []


def test_tables_that_are_none_are_named() -> None:
    results = sum_bank("a").predict_stream([frame(1), {"k": "a"}], **COLUMNS)
    assert next(results)[0] == 1
    with pytest.raises(InvalidTypeError, match=r"batches\[1\]: expected a pandas .* got dict"):
        next(results)
    for batches in (5, None):
        with pytest.raises(InvalidTypeError, match="batches: expected an iterable of tables"):
            sum_bank("a").predict_stream(batches, **COLUMNS)


def test_arguments_are_checked_at_once() -> None:
    bank = sum_bank("a")
    with pytest.raises(InvalidValueError, match="features: expected 2 columns"):
        bank.predict_stream([], key="k", features=["p"])
    with pytest.raises(InvalidTypeError, match="name: expected a str"):
        bank.predict_stream([], name=5, **COLUMNS)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="missing: expected one of"):
        bank.predict_stream([], missing="no", **COLUMNS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_threads"):
        bank.predict_stream([], num_threads=0, **COLUMNS)


def test_closing_ends_the_thread_and_the_source() -> None:
    closed = []

    def frames() -> Iterator[pd.DataFrame]:
        try:
            for i in range(1000):
                yield frame(i)
        finally:
            closed.append(True)

    results = sum_bank("a").predict_stream(frames(), **COLUMNS)
    assert next(results)[0] == 0
    assert len(own_threads()) == 1
    results.close()  # type: ignore[attr-defined]
    assert own_threads() == []
    assert closed == [True]
    unstarted = sum_bank("a").predict_stream(frames(), **COLUMNS)
    del unstarted
    assert own_threads() == []


def test_a_stream_that_fails_later() -> None:
    pa = pytest.importorskip("pyarrow")
    schema = pa.schema({"k": pa.string(), "p": pa.float32(), "q": pa.float32()})

    def batches() -> Any:
        yield pa.record_batch({"k": ["a"], "p": [5.0], "q": [0.0]}, schema=schema)
        raise OSError("the disk is gone")

    stream = Table(pa.RecordBatchReader.from_batches(schema, batches()))
    results = sum_bank("a").predict_stream(stream, **COLUMNS)
    assert np.asarray(next(results)).tolist() == [5]
    with pytest.raises(InvalidValueError, match=r"batches: .*the disk is gone"):
        next(results)


def test_a_model_that_comes_meanwhile_is_seen_by_later_tables() -> None:
    bank = sum_bank("a")

    def frames() -> Iterator[pd.DataFrame]:
        yield frame(1)
        bank["b"] = {"layer_0": [7, 7]}
        yield frame(1, "b")

    assert [y[0] for y in bank.predict_stream(frames(), **COLUMNS)] == [1, 7]


def test_a_bank_that_knows_its_features_needs_none() -> None:
    bank = Bank(Architecture.mlp(2, 1), feature_names=["q", "p"])
    bank["a"] = {"layer_0": [1, 10]}
    assert [y[0] for y in bank.predict_stream([frame(3)], key="k")] == [30]


def test_a_progress_bar_of_tables(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    results = sum_bank("a").predict_stream([frame(1), frame(2)], progress=True, **COLUMNS)
    assert [y[0] for y in results] == [1, 2]
    assert "predicting: 2table" in capsys.readouterr().err


def test_two_streams_at_once() -> None:
    bank = sum_bank("a")
    one = bank.predict_stream((frame(i) for i in range(10)), **COLUMNS)
    two = bank.predict_stream((frame(i + 1) for i in range(10)), **COLUMNS)
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        assert (a[0], b[0]) == (i, i + 1)
        time.sleep(0.001)
