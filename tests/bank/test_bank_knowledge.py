"""Names of features and classes: given, adopted, compared; columns and labels by them."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlpbank import Architecture, Bank, LayerSpec
from mlpbank.serving import MicroBatcher

NAMES = ("age", "load", "temp")
ROWS = pd.DataFrame({"temp": [1.0, 2.0], "age": [10.0, 20.0], "load": [100.0, 200.0]})


def digits() -> Bank:
    """Return a bank whose model computes age + 2 load + 3 temp."""
    bank = Bank(Architecture.mlp(3, 1), feature_names=NAMES)
    bank["a"] = {"layer_0": [1, 2, 3]}
    return bank


RIGHT = [[10 + 200 + 3.0], [20 + 400 + 6.0]]


def refused(kind: type[Exception], part: str) -> Any:
    return pytest.raises(kind, match=re.escape(part))


def test_columns_of_predict_frame_are_taken_by_name() -> None:
    df = ROWS.assign(who="a", more=7.0)
    for features in (None, NAMES, ["temp", "load", "age"]):
        y = digits().predict_frame(df, key="who", features=features)
        assert y.tolist() == [row[0] for row in RIGHT]


def test_columns_of_arrow_and_polars_are_taken_by_name() -> None:
    arrow, polars = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    data = {"who": ["a", "a"], **ROWS.to_dict("list")}
    for frame in (arrow.table(data), polars.DataFrame(data)):
        y = digits().predict_frame(frame, key="who")
        np.testing.assert_array_equal(y.to_numpy(), np.ravel(RIGHT))
        rows = frame.select(["load", "temp", "age"])
        np.testing.assert_array_equal(digits().predict(["a", "a"], rows), RIGHT)


def test_other_columns_of_predict_frame_are_refused() -> None:
    df = ROWS.assign(who="a", x=1.0)
    with refused(ValueError, "features: expected the bank's, ['age', 'load', 'temp'], got ['age',"):
        digits().predict_frame(df, key="who", features=["age", "load", "x"])
    some: list[Any] = [["age"], "age", 3, ["age", "load"]]
    for features in some:
        with refused(ValueError, "features: expected 3 columns, got"):
            digits().predict_frame(df, key="who", features=features)
    other: list[Any] = [["age", "load", "age"], ["age", "load", 3], [["age"], "load", "temp"]]
    for features in other:
        with refused(ValueError, "features: expected the bank's, ['age', 'load', 'temp'], got ["):
            digits().predict_frame(df, key="who", features=features)
    y = digits().predict_frame(df, key="who", features=ROWS.columns)
    assert y.tolist() == [row[0] for row in RIGHT]
    with refused(KeyError, "features: expected one column 'load' in df, got none"):
        digits().predict_frame(df.drop(columns="load"), key="who")
    bank = Bank.from_stacked(*digits().to_stacked())
    with refused(ValueError, "features: expected 3 columns, since the bank does not know the"):
        bank.predict_frame(df, key="who")


def test_predict_takes_columns_of_data_frames_by_name() -> None:
    bank = digits()
    np.testing.assert_array_equal(bank.predict(["a", "a"], ROWS), RIGHT)
    np.testing.assert_array_equal(bank.predict("a", ROWS), RIGHT)
    np.testing.assert_array_equal(bank.predict("a", ROWS.iloc[1]), RIGHT[1])
    np.testing.assert_array_equal(bank.predict_handles(bank.handles(["a", "a"]), ROWS), RIGHT)
    np.testing.assert_array_equal(bank.predict("a", ROWS[list(NAMES)].to_numpy()), RIGHT)
    for x in (
        ROWS.assign(more=1.0),
        ROWS.rename(columns={"age": "Age"}),
        ROWS.set_axis([0, 1, 2], axis=1),
        ROWS.iloc[0].rename({"age": "Age"}),
        pd.concat([ROWS, ROWS["age"]], axis=1),
    ):
        with refused(ValueError, "x: expected columns of the bank's features, ['age', 'load',"):
            bank.predict("a", x)


def test_batches_take_a_series_by_name() -> None:
    async def run() -> None:
        batcher = MicroBatcher(digits())
        np.testing.assert_array_equal(await batcher.predict("a", ROWS.iloc[1]), RIGHT[1])
        with refused(ValueError, "x: expected columns of the bank's features"):
            await batcher.predict("a", ROWS.iloc[1].rename({"age": "Age"}))
        await batcher.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "feature_names: expected 3, one for each input, got 2: ['a', 'b']"),
        (["a", "b", "a"], "feature_names: expected different ones, got 'a' again at position 2"),
        (["a", "b", 1], "feature_names[2]: expected a str, got 1"),
        ("abc", "feature_names: expected a sequence, got 'abc'"),
        (["a", "b", "\ud800"], "feature_names[2]: expected a str that UTF-8 can hold"),
    ],
)
def test_names_that_are_none(names: Any, message: str) -> None:
    with refused((TypeError, ValueError), message):  # type: ignore[arg-type]
        Bank(Architecture.mlp(3, 1), feature_names=names)
    with refused((TypeError, ValueError), message):  # type: ignore[arg-type]
        Bank.from_stacked(*digits().to_stacked(), feature_names=names)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([1, 2], "classes: expected 3, one for each output, got 2: [1, 2]"),
        ([1, 2, 1.0], "classes: expected different ones, got 1.0 again at position 2"),
        ([1, 2, float("nan")], "classes[2]: expected a finite number"),
        ([1, 2, 2**64], "classes[2]: expected a finite number, of 64 bits"),
        ([1, 2, b"x"], "classes[2]: expected a str, int, float or bool, got b'x'"),
        ([1, 2, None], "classes[2]: expected a str, int, float or bool, got None"),
        (3, "classes: expected a sequence, got 3"),
    ],
)
def test_classes_that_are_none(classes: Any, message: str) -> None:
    with refused((TypeError, ValueError), message):  # type: ignore[arg-type]
        Bank(Architecture.mlp(2, 3), classes=classes)


def softmax_bank(classes: Sequence[Any]) -> Bank:
    """Return a bank whose models "up" and "down" prefer the class of the greatest, least input."""
    size = len(classes)
    bank = Bank(Architecture([LayerSpec(size, size, "softmax")]), classes=classes)
    bank["up"], bank["down"] = {"layer_0": np.eye(size)}, {"layer_0": -np.eye(size)}
    return bank


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [
        (["no", "yes", "maybe"], "<U5"),
        (np.array([3, 5, 9], np.uint8), "int64"),
        ([0.5, 1.5, 2.5], "float64"),
        ([2, "2", True], "object"),
        (["a", "a\0", "b"], "object"),
    ],
)
def test_labels_have_the_dtype_of_classes(classes: Any, dtype: str) -> None:
    bank = softmax_bank(classes)
    x = [[0.0, 1, 2], [5, 4, 3], [0, 2, 1]]
    y = bank.predict_class(["up", "up", "down"], x)
    assert y.dtype == dtype
    assert y.tolist() == [bank.classes[i] for i in (2, 0, 0)]  # type: ignore[index]
    assert bank.predict_class("down", x[0]) == bank.classes[0]  # type: ignore[index]
    assert bank.predict_class(["up", "down"], [x, x]).shape == (2, 3)


def test_of_equal_outputs_the_first_counts() -> None:
    assert softmax_bank(["b", "a", "c"]).predict_class("up", [1.0, 2.0, 2.0]) == "a"


def test_one_sigmoid_is_the_second_class_above_a_half() -> None:
    bank = Bank(Architecture([LayerSpec(1, 1, "sigmoid")]), classes=[False, True])
    bank[1] = {"layer_0": [1]}
    y = bank.predict_class([1, 1, 1], [[-1.0], [0.0], [1.0]])
    assert y.dtype == bool
    assert y.tolist() == [False, False, True]


def test_labels_that_outputs_do_not_tell_are_refused() -> None:
    def bank(outputs: int, activation: Any, classes: Any) -> Bank:
        made = Bank(Architecture([LayerSpec(1, outputs, activation)]), classes=classes)
        made[1] = {"layer_0": np.ones((1, outputs))}
        return made

    with refused(RuntimeError, "classes: expected a bank that knows them"):
        bank(2, "softmax", None).predict_class([1], [[1.0]])
    with refused(RuntimeError, "got 3 sigmoid outputs, of which several may be true"):
        bank(3, "sigmoid", ["a", "b", "c"]).predict_class([1], [[1.0]])
    with refused(RuntimeError, "expected one output of two classes to be a sigmoid"):
        bank(1, "none", [0, 1]).predict_class([1], [[1.0]])
    with refused(RuntimeError, "expected two for one output of 'sigmoid', got [7]"):
        bank(1, "sigmoid", [7]).predict_class([1], [[1.0]])


def test_rows_without_a_label() -> None:
    bank = softmax_bank(["x", "y"])
    x = [[1.0, 0], [np.nan, 0], [0, 1]]
    with refused(ValueError, "x[1]: expected numbers that give a label, got an output of NaN"):
        bank.predict_class(["up"] * 3, x)
    y = bank.predict_class(["up", "up", "none"], x, missing="nan")
    assert y.dtype == object
    assert y.tolist() == ["x", None, None]
    assert bank.predict_class("none", x[0], missing="nan") is None
    with refused(KeyError, "no such model: 'none'"):
        bank.predict_class(["none"], x[:1])
    bank.fallback = "down"
    assert bank.predict_class(["none", "up"], [x[0], x[0]]).tolist() == ["y", "x"]


def test_sources_tell_who_answers() -> None:
    bank = digits()
    keys = ["a", "b", None, "a"]
    assert bank.sources(keys).tolist() == ["model", "missing", "missing", "model"]
    bank.fallback = "f"
    assert bank.sources(keys).tolist() == ["model", "missing", "missing", "model"]
    bank["f"] = {"layer_0": [0, 0, 0]}
    assert bank.sources(pd.Series(keys)).tolist() == ["model", "fallback", "fallback", "model"]
    assert (bank.sources("a"), bank.sources("b")) == ("model", "fallback")
    assert bank.sources([]).tolist() == []


@pytest.mark.parametrize("kept", ["save", "plain", "pickle", "copy"])
def test_banks_keep_names_and_classes(tmp_path: Path, kept: str) -> None:
    bank = softmax_bank([1, 2.5, "drei", True][1:])
    bank = Bank.from_stacked(
        *bank.to_stacked(), feature_names=["ü", "", "x y"], classes=bank.classes
    )
    if kept == "save":
        bank.save(tmp_path / "bank.mlpbank")
        again = Bank.open(tmp_path / "bank.mlpbank")
    elif kept == "plain":
        bank.to_safetensors(tmp_path / "bank.safetensors")
        again = Bank.from_safetensors(tmp_path / "bank.safetensors")
    else:
        again = copy.deepcopy(bank) if kept == "copy" else pickle.loads(pickle.dumps(bank))
    assert again.feature_names == ("ü", "", "x y")
    assert again.classes == (2.5, "drei", True)
    assert list(map(type, again.classes)) == [float, str, bool]


def test_empty_banks_keep_what_they_were_given(tmp_path: Path) -> None:
    bank = Bank(Architecture.mlp(2, 1), feature_names=["p", "q"])
    bank.save(tmp_path / "bank.mlpbank")
    again = Bank.open(tmp_path / "bank.mlpbank")
    assert (again.feature_names, again.classes) == (("p", "q"), None)
    none = Bank.from_stacked([], again.architecture, {}, feature_names=["q", "p"])
    assert none.feature_names == ("q", "p")


def test_rows_with_names_of_their_own_are_not_taken_by_position() -> None:
    pl = pytest.importorskip("polars")
    bank = Bank(Architecture.mlp(2, 1), feature_names=["p", "q"])
    bank["a"] = {"layer_0": [[1], [10]]}
    row = pd.Series({"q": 1.0, "p": 2.0})
    assert bank.predict("a", row) == 12
    for x in ([row], [pd.DataFrame([row])], [{"q": 1.0, "p": 2.0}], pl.Series([{"q": 1.0}])):
        with pytest.raises((TypeError, ValueError), match="x: expected"):
            bank.predict(["a"], x)


def test_tables_are_read_alike_whether_a_bank_has_names() -> None:
    pa = pytest.importorskip("pyarrow")
    bank = Bank(Architecture.mlp(2, 1))
    bank["a"] = {"layer_0": [[1], [10]]}
    frame = pd.DataFrame({"q": pd.array([7, None], "Int64"), "p": [1, 2]})
    np.testing.assert_array_equal(bank.predict(["a"] * 2, frame), [[17], [np.nan]])
    table = pa.table({"q": pa.array([7, None]).dictionary_encode(), "p": [1, 2]})
    with pytest.raises(TypeError, match="column 'q'"):
        bank.predict(["a"] * 2, table)


def test_labels_are_the_classes_whatever_their_size() -> None:
    classes = [2**63 + 1, 5]
    bank = Bank(Architecture.mlp(1, 2, output_activation="softmax"), classes=classes)
    bank["a"] = {"layer_0": [[0, 1]]}
    assert [bank.predict_class("a", [x]) for x in (-1.0, 1.0)] == classes
