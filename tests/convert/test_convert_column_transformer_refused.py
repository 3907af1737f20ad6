"""What a ColumnTransformer may hold that is not folded: refused with part, columns and way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from convert_checks import silently
from mlpbank import Bank, convert

pytest.importorskip("sklearn")
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import FastICA
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame({name: RNG.normal(3, 2, 50) for name in "abc"})
FRAME["city"] = RNG.choice(["north", "south"], 50)
TARGET = FRAME.a - FRAME.b


def fitted(transformer: Any, x: Any = FRAME) -> Any:
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=5, random_state=0)
    with silently():
        return make_pipeline(transformer, network).fit(x, TARGET)


def scaled(*part: Any, **options: Any) -> ColumnTransformer:
    """Return a ColumnTransformer of a scaler and another part."""
    return ColumnTransformer(
        [("scaled", StandardScaler(), ["c", "a"]), ("other", *part)], **options
    )


@pytest.mark.parametrize(
    ("part", "does"),
    [
        (OneHotEncoder(), "makes numbers of categories"),
        (OrdinalEncoder(), "makes numbers of categories"),
        (SimpleImputer(strategy="most_frequent"), "replaces missing values"),
        (FastICA(1), "mixes the features"),
        (Normalizer(), "is no scale and shift"),
        (KBinsDiscretizer(3, strategy="uniform"), "is no scale and shift"),
        (MinMaxScaler(clip=True), "with clip=True is not affine"),
        (FunctionTransformer(np.abs), "has a func, which may compute anything"),
        (FunctionTransformer(lambda x: x / 2), "has a func, which may compute anything"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parts_are_named_with_their_columns(part: Any, does: str) -> None:
    columns = ["city"] if "Encoder" in type(part).__name__ else ["b", "a"]
    name = type(part).__name__
    message = rf"^models\['k'\]: columntransformer\.other: {name} of columns \['{columns[0]}'"
    way = "transform x by all of columntransformer yourself and convert what comes after that"
    with pytest.raises(convert.UnsupportedLayerError, match=message) as caught:
        Bank.from_models({"k": fitted(scaled(part, columns))})
    assert does in str(caught.value)
    assert way in str(caught.value)


def test_parts_within_parts_are_named() -> None:
    pipeline = make_pipeline(StandardScaler(), FastICA(1))
    with pytest.raises(
        convert.UnsupportedLayerError,
        match=r"^columntransformer\.other\.fastica: FastICA of columns \['b', 'c'\] mixes the fea",
    ):
        convert.convert(fitted(scaled(pipeline, ["b", "c"])))
    union = FeatureUnion([("one", StandardScaler()), ("two", scaled(FastICA(1), [1]))])
    with pytest.raises(
        convert.UnsupportedLayerError,
        match=r"^featureunion\.two\.other: FastICA of columns \['b'\] .* all of featureunion you",
    ):
        convert.convert(fitted(union, FRAME[["a", "b", "c"]]))
    with pytest.raises(
        convert.UnsupportedLayerError, match=r"remainder: OneHotEncoder of col.*city"
    ):
        convert.convert(fitted(scaled("drop", ["b"], remainder=OneHotEncoder())))


def test_columns_of_arrays_are_numbers() -> None:
    transformer = ColumnTransformer([("bins", KBinsDiscretizer(3, strategy="uniform"), [2, 0])])
    with pytest.raises(convert.UnsupportedLayerError, match=r"of columns \[2, 0\] is no scale"):
        convert.convert(fitted(transformer, FRAME[["a", "b", "c"]].to_numpy()))


class Named(ColumnTransformer):  # type: ignore[misc]
    """Overrides nothing, which the next version of its module may change."""


class Twice(FeatureUnion):  # type: ignore[misc]
    def transform(self, X: Any, **params: Any) -> Any:
        return super().transform(X, **params) * 2


def test_classes_and_methods_of_their_own() -> None:
    numbers = FRAME[["a", "b", "c"]]
    for own in (Named([("s", StandardScaler(), ["a"])]), Twice([("s", StandardScaler())])):
        with pytest.raises(convert.UnsupportedLayerError, match=rf"{type(own).__name__} is no sca"):
            convert.convert(fitted(own, numbers))
        inside = ColumnTransformer([("inner", own, ["a", "b"])])
        with pytest.raises(
            convert.UnsupportedLayerError, match=r"^columntransformer\.inner: .* is"
        ):
            convert.convert(fitted(inside, numbers))
    model = fitted(scaled("passthrough", ["b"]))
    model[0].transform = lambda x: np.zeros((len(x), 3))
    with pytest.raises(convert.UnsupportedLayerError, match="has a transform of its own"):
        convert.convert(model)
    model = fitted(scaled(StandardScaler(), ["b"]))
    model[0].named_transformers_["other"].transform = lambda x: x
    with pytest.raises(
        convert.UnsupportedLayerError, match=r"\.other: StandardScaler .* of its own"
    ):
        convert.convert(model)


def test_what_was_changed_after_it_was_fitted() -> None:
    model = fitted(scaled("passthrough", ["b"]))
    before = convert.convert(model)
    model[0].set_params(other=StandardScaler(), remainder="passthrough")  # for the next fit
    after = convert.convert(model)
    for name, array in before.weights.items():
        np.testing.assert_array_equal(array, after.weights[name])
    model[0].transformer_weights = {"scaled": np.array([1.0, 2.0])}
    with pytest.raises(convert.UnsupportedLayerError, match="finite number as its transformer_wei"):
        convert.convert(model)
    model[0].transformer_weights = None
    model[0].transformers_[1] = ("renamed", *model[0].transformers_[1][1:])
    with pytest.raises(convert.UnsupportedLayerError, match="not tell the columns of 'renamed'"):
        convert.convert(model)


def test_not_fitted_or_to_other_columns() -> None:
    network = MLPRegressor()
    for transformer in (scaled("drop", ["b"]), FeatureUnion([("s", StandardScaler())])):
        with pytest.raises(ValueError, match=f"expected a fitted {type(transformer).__name__}"):
            convert.convert(make_pipeline(transformer, network))
    three, two = fitted(scaled("drop", ["b"])), fitted(StandardScaler(), FRAME[["a", "b"]])
    model = make_pipeline(two[0], three[0], three[1])
    with pytest.raises(convert.UnsupportedLayerError, match="one value for each of 4 features"):
        convert.convert(model)
    model = make_pipeline(three[0], fitted(scaled("drop", ["b"]))[0], three[1])
    with pytest.raises(convert.UnsupportedLayerError, match="was fitted to 4 columns and gets 2"):
        convert.convert(model)


def test_it_is_no_scaler_of_a_bank() -> None:
    transformer = scaled("drop", ["b"]).fit(FRAME)
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=5)
    with silently():
        network.fit(FRAME[["c", "a"]].to_numpy(), TARGET)
    with pytest.raises(ValueError, match="ColumnTransformer treats columns differently"):
        Bank.from_models({"k": network}, input_scaler=transformer)
