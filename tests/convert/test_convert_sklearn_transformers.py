"""Transformers of scikit-learn: what is not known to be a scale and shift is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert_checks import assert_computes, silently
from mlpbank import convert

pytest.importorskip("sklearn")
import sklearn.experimental.enable_iterative_imputer  # noqa: F401
from scipy import special
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import FactorAnalysis, FastICA, KernelPCA
from sklearn.impute import IterativeImputer, KNNImputer, MissingIndicator, SimpleImputer
from sklearn.kernel_approximation import RBFSampler
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
)

X = np.random.default_rng(0).normal(2, 1, (80, 3))
Y = np.exp(0.3 * X[:, 0]) + X[:, 1] ** 2


class Marker(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Affine for every finite row but those with a marker."""

    def fit(self, X: Any, y: Any = None) -> Marker:
        return self

    def transform(self, X: Any) -> Any:
        return np.where(X == -999, 0.0, (X - 2) / 3)


class Clipped(StandardScaler):  # type: ignore[misc]
    def transform(self, X: Any, copy: Any = None) -> Any:
        return np.clip(super().transform(X, copy), -5, 5)


class Named(StandardScaler):  # type: ignore[misc]
    """Overrides nothing, which the next version of its module may change."""


def network() -> MLPRegressor:
    return MLPRegressor(hidden_layer_sizes=(5,), max_iter=30, random_state=0)


def fitted(*steps: Any) -> Any:
    with silently():
        return make_pipeline(*steps, network()).fit(X, Y)


@pytest.mark.parametrize(
    "transformer",
    [
        SimpleImputer(),
        SimpleImputer(missing_values=-999.0, strategy="median"),
        SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True),
        KNNImputer(n_neighbors=2),
        IterativeImputer(max_iter=2),
        MissingIndicator(features="all"),
        FunctionTransformer(np.nan_to_num),
        FunctionTransformer(np.cbrt),
        FunctionTransformer(lambda x: (x - 1) / 2),
        Marker(),
        Clipped(),
        Named(),
        MinMaxScaler(clip=True),
        Normalizer(),
        PowerTransformer(),
        QuantileTransformer(n_quantiles=9),
        PolynomialFeatures(2),
        KBinsDiscretizer(3, encode="ordinal", strategy="uniform"),
        SplineTransformer(),
        Binarizer(),
        FastICA(2, random_state=0),
        FactorAnalysis(2),
        KernelPCA(3),
        RBFSampler(n_components=3),
        Pipeline([("inner", Pipeline([("impute", SimpleImputer())]))]),
    ],
    ids=lambda transformer: type(transformer).__name__,
)
@pytest.mark.parametrize("last", [True, False])
def test_what_is_no_known_scaler_is_refused_by_name(transformer: Any, last: bool) -> None:
    steps = (StandardScaler(), transformer) if last else (transformer, StandardScaler())
    with pytest.raises(convert.UnsupportedLayerError) as caught:
        convert.convert(fitted(*steps))
    named = transformer
    while isinstance(named, Pipeline):
        named = named.steps[0][1]
    assert type(named).__name__ in str(caught.value)
    assert "apply it to x yourself" in str(caught.value)


@pytest.mark.parametrize(
    "steps",
    [
        (MinMaxScaler((-1, 3)), MaxAbsScaler()),
        (RobustScaler(unit_variance=True, quantile_range=(10, 80)),),
        (RobustScaler(with_scaling=False), StandardScaler(with_std=False)),
        (make_pipeline(StandardScaler(), make_pipeline(MinMaxScaler(), "passthrough")),),
        ("passthrough", FunctionTransformer(), StandardScaler()),
    ],
)
def test_scalers_that_are_known(steps: Any) -> None:
    pipeline = fitted(*steps)
    assert_computes(convert.convert(pipeline), X, pipeline.predict(X)[:, None])


@pytest.mark.parametrize(
    "functions",
    [
        (np.log1p, np.expm1),
        (np.log, np.exp),
        (np.log2, np.exp2),
        (np.log10, special.exp10),
        (special.log1p, special.expm1),
    ],
)
def test_logarithms_of_targets(functions: Any) -> None:
    func, inverse = functions
    before = make_pipeline(StandardScaler(), network())
    with silently():
        model = TransformedTargetRegressor(before, func=func, inverse_func=inverse).fit(X, Y)
        unchecked = TransformedTargetRegressor(
            before,
            transformer=Pipeline(
                [
                    ("log", FunctionTransformer(func, inverse, check_inverse=False)),
                    ("none", None),
                    ("scale", StandardScaler()),
                ]
            ),
        ).fit(X, Y)
    for regressor in (model, unchecked):
        assert_computes(convert.convert(regressor), X, regressor.predict(X)[:, None])


@pytest.mark.parametrize("inverse", [np.square, np.sinh, lambda y: np.expm1(y), None])
def test_other_functions_of_targets(inverse: Any) -> None:
    options: Any = {"func": np.sqrt, "inverse_func": inverse}
    if inverse is None:
        options = {"transformer": FunctionTransformer(np.log, np.exp, inv_kw_args={"where": True})}
    with silently():
        model = TransformedTargetRegressor(network(), check_inverse=False, **options).fit(X, Y)
    with pytest.raises(convert.UnsupportedLayerError, match=r"^transformer: the inverse_func .*"):
        convert.convert(model)


def test_poisson_regression() -> None:
    if "loss" not in MLPRegressor().get_params():
        pytest.skip("this scikit-learn has no MLPRegressor(loss='poisson')")
    with silently():
        model = make_pipeline(StandardScaler(), network().set_params(loss="poisson")).fit(X, Y)
    assert_computes(convert.convert(model), X, model.predict(X)[:, None])
