"""ColumnTransformer and FeatureUnion: columns are picked, scaled and put into another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from convert_checks import silently
from mlpbank import Bank, convert

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

MEANS = {"a": 3.0, "b": -40.0, "c": 0.0, "d": 0.5, "stamp": 1.7e9}
SCALES = {"a": 2.0, "b": 5.0, "c": 1.0, "d": 0.1, "stamp": 3600.0}
COLUMNS = list(MEANS)


def frame(seed: int, count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.normal(MEANS[name], SCALES[name], count) for name in COLUMNS})


FRAME = frame(0)
TARGET = FRAME.a - FRAME.d + (FRAME.stamp - 1.7e9) / 3600


def fitted(*steps: Any, x: Any = FRAME, seed: int = 0) -> Any:
    network = MLPRegressor(
        hidden_layer_sizes=(6, 5), activation="tanh", max_iter=20, random_state=seed
    )
    with silently():  # it has not converged
        return clone(make_pipeline(*steps, network)).fit(x, TARGET)


def assert_predicts(model: Any, names: list[str] | None = None) -> Bank:
    """Check a bank of a model against its predict, on other rows and columns in other orders."""
    bank = Bank.from_models({"k": model})
    if names is not None:
        assert list(bank.feature_names or ()) == names
    for seed in (1, 2, 3):
        rows = frame(seed, 300)
        truth = model.predict(rows)
        table = rows[COLUMNS[seed:] + COLUMNS[:seed]].assign(key="k", other="text")
        got = bank.predict_frame(table, key="key").to_numpy()
        np.testing.assert_allclose(got.reshape(truth.shape), truth, rtol=1e-5, atol=2e-5)
    return bank


def columns(*parts: Any, **options: Any) -> ColumnTransformer:
    named = [(f"part{i}", *part) for i, part in enumerate(parts)]
    return ColumnTransformer(named, **options)


WAYS: dict[str, Any] = {
    "names": (columns((StandardScaler(), ["stamp", "a"]), ("passthrough", ["c"])), "a c stamp"),
    "positions": (columns((StandardScaler(), [4, 0]), (MinMaxScaler(), [-2])), "a d stamp"),
    "slice": (columns((StandardScaler(), slice(1, 4)), (RobustScaler(), slice(0, 1))), "a b c d"),
    "slice of names": (columns((StandardScaler(), slice("b", "d"))), "b c d"),
    "mask": (columns((MaxAbsScaler(), [True, False, True, False, True])), "a c stamp"),
    "selector": (columns((StandardScaler(), make_column_selector(pattern="a|b"))), "a b stamp"),
    "array": (columns((StandardScaler(), np.array(["d", "a"]))), "a d"),
    "index": (columns((StandardScaler(), pd.Index(["d", "a"]))), "a d"),
    "drop": (
        columns((StandardScaler(), ["stamp", "b"]), ("drop", ["a"]), remainder="passthrough"),
        "b c d stamp",
    ),
    "rest scaled": (columns(("passthrough", ["d"]), remainder=StandardScaler()), "a b c d stamp"),
    "rest dropped": (columns((MinMaxScaler(), ["b"]), remainder="drop"), "b"),
    "nothing picked": (columns((StandardScaler(), []), (MinMaxScaler(), ["a"])), "a"),
    "twice": (
        columns(
            ("passthrough", ["c", "a"]),
            (StandardScaler(), ["stamp", "a"]),
            (MinMaxScaler((-2, 1)), ["a", "stamp", "c"]),
        ),
        "a c stamp",
    ),
    "weights": (
        columns(
            (StandardScaler(), ["a", "stamp"]),
            (StandardScaler(), ["b"]),
            (StandardScaler(), ["d"]),
            transformer_weights={"part0": -0.5, "part1": 0.0},
        ),
        "a b d stamp",
    ),
    "pipelines": (
        columns(
            (make_pipeline(RobustScaler(), "passthrough", MinMaxScaler()), ["stamp", "b"]),
            (make_pipeline(FunctionTransformer()), ["c"]),
        ),
        "b c stamp",
    ),
    "inside another": (
        columns(
            (columns((StandardScaler(), ["stamp"]), remainder="passthrough"), ["c", "stamp", "d"]),
            (columns((MinMaxScaler(), [1]), remainder="drop"), ["a", "b"]),
        ),
        "b c d stamp",
    ),
    "union": (
        columns(
            (
                FeatureUnion(
                    [("s", StandardScaler()), ("m", MinMaxScaler()), ("none", "drop")],
                    transformer_weights={"m": 3.0},
                ),
                ["stamp", "a"],
            )
        ),
        "a stamp",
    ),
    "frames": (
        columns(
            (StandardScaler(), ["stamp", "b"]),
            remainder=MinMaxScaler(),
            verbose_feature_names_out=False,
        ).set_output(transform="pandas"),
        "a b c d stamp",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_columns_that_are_used_are_the_inputs(way: str) -> None:
    transformer, names = WAYS[way]
    assert_predicts(fitted(transformer), names.split())
    assert_predicts(fitted(transformer, StandardScaler()), names.split())


@pytest.mark.parametrize(
    "steps",
    [
        (StandardScaler(), columns((MinMaxScaler(), [4, 1]), ("passthrough", [0]))),
        (
            StandardScaler().set_output(transform="pandas"),
            columns((MinMaxScaler(), ["stamp", "b"]), ("passthrough", ["a"])),
        ),
        (FunctionTransformer(), columns((StandardScaler(), ["stamp", "b", "a"]))),
        ("passthrough", make_pipeline(columns((StandardScaler(), ["b", "stamp", "a"])))),
        (
            columns((StandardScaler(), ["d", "stamp"]), (MinMaxScaler(), ["a", "b"])),
            columns(("passthrough", [3, 1, 2])),
        ),
        (
            FeatureUnion(
                [
                    ("one", columns((StandardScaler(), ["b", "stamp"]))),
                    ("two", columns((MinMaxScaler(), ["stamp", "a"]))),
                ]
            ),
        ),
    ],
)
def test_a_selection_anywhere_before_the_network(steps: Any) -> None:
    assert_predicts(fitted(*steps), ["a", "b", "stamp"])


def test_selections_of_a_pipeline_at_the_end_of_another() -> None:
    with silently():
        inner = fitted(columns((MinMaxScaler(), [4, 1])))
        model = make_pipeline(StandardScaler(), inner).fit(FRAME, TARGET)
        target = TransformedTargetRegressor(model, transformer=StandardScaler()).fit(FRAME, TARGET)
        search = GridSearchCV(target, {"regressor__pipeline__mlpregressor__alpha": [0.1]}, cv=2)
        search.fit(FRAME, TARGET)
    for one in (model, target, search):
        assert_predicts(one, ["b", "stamp"])


def test_a_union_of_scalers_takes_all_columns() -> None:
    union = FeatureUnion([("s", StandardScaler()), ("same", "passthrough"), ("m", MinMaxScaler())])
    assert_predicts(fitted(StandardScaler(), union), COLUMNS)


def test_a_column_twice_keeps_its_digits() -> None:
    """A mean that is subtracted late would leave multiples of 128 seconds."""
    twice = columns((StandardScaler(), ["stamp"]), (RobustScaler(), ["stamp"]))
    bank = assert_predicts(fitted(twice), ["stamp"])
    assert abs(bank.input_shift[0] - 1.7e9) < 1e4  # type: ignore[index]


def test_a_classifier() -> None:
    model = Pipeline(
        [
            ("columns", columns((StandardScaler(), ["stamp", "a"]), ("passthrough", ["d"]))),
            ("net", MLPClassifier((5,), max_iter=30, random_state=0)),
        ]
    )
    with silently():
        model.fit(FRAME, np.where(TARGET > 3, "up", "down"))
    bank = Bank.from_models({"k": model})
    assert (bank.feature_names, bank.classes) == (("a", "d", "stamp"), ("down", "up"))
    rows = frame(5, 300)
    got = bank.predict(["k"] * 300, rows[["stamp", "d", "a"]])
    np.testing.assert_allclose(got, model.predict_proba(rows), atol=1e-5)


def test_an_array_keeps_its_positions() -> None:
    transformer = columns((StandardScaler(), [4, 0]), (MinMaxScaler(), [True] * 2 + [False] * 3))
    model = fitted(transformer, x=FRAME.to_numpy())
    bank = Bank.from_models({"k": model})
    assert (bank.feature_names, bank.architecture.input_size) == (None, 5)
    x = frame(4, 200).to_numpy().copy()
    truth = model.predict(x)
    x[:, 2:4] = 1e9  # not used
    got = bank.predict(["k"] * 200, x)[:, 0]
    np.testing.assert_allclose(got, truth, rtol=1e-5, atol=2e-5)


def test_columns_without_use_do_not_count_as_means_of_a_bank() -> None:
    """One model reads a timestamp, the other has weights of 0 for it."""
    reads = fitted(columns((StandardScaler(), [0, 4])), x=FRAME.to_numpy())
    not_used = fitted(columns((StandardScaler(), [0, 1])), x=FRAME.to_numpy(), seed=1)
    bank = Bank.from_models({"reads": reads, "not": not_used})
    x = frame(6, 100).to_numpy()
    for key, model in (("reads", reads), ("not", not_used)):
        got = bank.predict([key] * 100, x)[:, 0]
        np.testing.assert_allclose(got, model.predict(x), rtol=1e-5, atol=2e-5)


def test_frames_in_other_orders_share_a_bank() -> None:
    transformer = columns((StandardScaler(), ["stamp", "a"]), ("passthrough", ["d"]))
    models = {i: fitted(transformer, x=FRAME[COLUMNS[i:] + COLUMNS[:i]], seed=i) for i in range(5)}
    models[5] = fitted(StandardScaler(), x=FRAME[["d", "stamp", "a"]])
    bank = Bank.from_models({i: models[i] for i in range(4)})
    bank.update({4: models[4], 5: models[5]})
    assert bank.feature_names == ("a", "d", "stamp")
    rows = frame(7, 100)
    for i, model in models.items():
        got = bank.predict_frame(rows.assign(key=i), key="key").to_numpy()
        truth = model.predict(rows[list(model.feature_names_in_)])
        np.testing.assert_allclose(got.reshape(-1), truth, rtol=1e-5, atol=2e-5)
    other = fitted(columns((StandardScaler(), ["stamp", "b"]), ("passthrough", ["d"])))
    with pytest.raises(ValueError, match=r"without \['a'\], with \['b'\]"):
        bank[6] = other


def test_what_is_converted_knows_the_columns_used() -> None:
    one = convert.convert(fitted(columns((StandardScaler(), ["stamp", "c"]))))
    assert one.feature_names == ("c", "stamp")
    assert one.architecture.input_size == 2
    assert one.weights["input_shift"].shape == (2,)
