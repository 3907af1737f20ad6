"""scikit-learn estimators predict in a bank what they predict in scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import Float32Array, raises
from convert_checks import assert_computes, silently, unsupported
from mlpbank import Architecture, convert
from mlpbank.convert import mean_and_scale

pytest.importorskip("sklearn")
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import FastICA
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
SCALERS = (
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler((-3, 2)),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False, with_scaling=False),
    FunctionTransformer(),
    "passthrough",
)


def inputs(features: int, seed: int = 0) -> Float32Array:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((60, features)) * rng.uniform(0.1, 9, features)
        + rng.normal(size=features)
    ).astype("f")


def fitted(estimator: Any, x: Any, y: Any) -> Any:
    with silently():  # it has not converged
        return estimator.fit(x.astype(np.float64), y)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("outputs", [1, 3])
def test_regressors(seed: int, outputs: int) -> None:
    rng = np.random.default_rng(seed)
    x = inputs(5, seed)
    y = np.stack([x[:, 0] * x[:, 1], x[:, 2], 7 + x[:, 3]], axis=1)[:, :outputs]
    hidden = tuple(int(size) for size in rng.integers(1, 20, rng.integers(5)))
    network = MLPRegressor(
        hidden_layer_sizes=hidden, activation=ACTIVATIONS[seed % 4], max_iter=5, random_state=seed
    )
    estimator = fitted(network, x, y if outputs > 1 else y[:, 0])
    converted = convert.convert(estimator)
    assert len(converted.architecture.layers) == len(hidden) + 1
    assert_computes(converted, x, estimator.predict(x.astype(np.float64)).reshape(60, outputs))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "kind", ["two classes", "strings", "four classes", "multilabel", "one label"]
)
def test_classifiers(kind: str, activation: str) -> None:
    x = inputs(4)
    y = {
        "two classes": x[:, 0] > 0,
        "strings": np.where(x[:, 0] > 0, "yes", "no"),
        "four classes": np.digitize(x[:, 0], [-1, 0, 1]),
        "multilabel": (x[:, :3] > 0).astype(int),
        "one label": (x[:, :1] > 0).astype(int),
    }[kind]
    estimator = fitted(
        MLPClassifier((7, 7), activation=activation, max_iter=9, random_state=0), x, y
    )
    truth = estimator.predict_proba(x.astype(np.float64))
    assert_computes(convert.convert(estimator), x, truth)
    assert truth.shape[1] == {"four classes": 4, "multilabel": 3}.get(kind, 2)


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
def test_pipelines_and_scaled_targets(scaler: Any) -> None:
    x = inputs(4)
    y = x[:, :2] * 40 + 1000
    regressor = MLPRegressor(
        hidden_layer_sizes=(6, 6), activation="tanh", max_iter=20, random_state=0
    )
    pipeline = Pipeline([("scale", scaler), ("again", MinMaxScaler()), ("network", regressor)])
    target = None if scaler == "passthrough" else scaler
    for labels in (y, y[:, 0]):
        estimator = fitted(TransformedTargetRegressor(pipeline, transformer=target), x, labels)
        truth = estimator.predict(x.astype(np.float64)).reshape(60, -1)
        assert_computes(convert.convert(estimator), x, truth)
    estimator = fitted(
        make_pipeline(scaler, MLPClassifier((5,), max_iter=5, random_state=0)), x, y[:, 0] > 1000
    )
    assert_computes(convert.convert(estimator), x, estimator.predict_proba(x.astype(np.float64)))


def test_the_best_of_a_search() -> None:
    x = inputs(3)
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0)
    choices = {"activation": ["tanh", "relu"]}
    for search in (
        GridSearchCV(network, choices, cv=2),
        RandomizedSearchCV(network, choices, n_iter=2, cv=2),
    ):
        fitted(search, x, x[:, 0])
        assert_computes(convert.convert(search), x, search.predict(x.astype(np.float64))[:, None])


@pytest.mark.parametrize("scaler", SCALERS[:-1], ids=str)
def test_fitted_scalers_are_means_and_scales(scaler: Any) -> None:
    x = inputs(4).astype(np.float64)
    x[:, 3] = 5  # a feature that never changes has scale 1
    mean, scale = mean_and_scale(scaler.fit(x))
    np.testing.assert_allclose((x - mean) / scale, scaler.transform(x), rtol=1e-12, atol=1e-12)
    both = make_pipeline(MinMaxScaler(), scaler).fit(x)
    mean, scale = mean_and_scale(both)
    np.testing.assert_allclose((x - mean) / scale, both.transform(x), rtol=1e-9, atol=1e-9)


def test_scalers_fold_into_any_weights() -> None:
    x = inputs(2)
    arch = Architecture.mlp(2, 2)
    before, after = StandardScaler().fit(x), MinMaxScaler().fit(x)
    weights = convert.fold_scalers(arch, {"layer_0": np.eye(2)}, before, after)
    truth = after.inverse_transform(before.transform(x.astype(np.float64)))
    assert_computes(convert.Converted(arch, weights), x, truth)


def test_what_is_not_supported_is_named() -> None:
    x = inputs(3)
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2)

    class Own(MLPRegressor):  # type: ignore[misc]
        pass

    for estimator, message in (
        (
            LinearRegression(),
            "LinearRegression is not supported; an MLPRegressor, an MLPClassifier or a Pipeline "
            "to one",
        ),
        (
            make_pipeline(FastICA(), network),
            "fastica: FastICA mixes the features; apply it to x yourself and convert what",
        ),
        (
            make_pipeline(StandardScaler(), LinearRegression()),
            "linearregression: LinearRegression is not supported",
        ),
        (
            make_pipeline(MinMaxScaler(clip=True), network),
            "minmaxscaler: MinMaxScaler with clip=True",
        ),
        (
            TransformedTargetRegressor(network, transformer=QuantileTransformer(n_quantiles=9)),
            "transformer: QuantileTransformer is no scaler that is known, it may compute anything; "
            "convert regressor_",
        ),
        (
            TransformedTargetRegressor(network, func=np.cbrt, inverse_func=lambda z: z**3),
            "transformer: the inverse_func <lambda> may compute anything; known are np.exp",
        ),
        (Own(max_iter=2), "Own is a class of its own, which may compute anything"),
    ):
        with pytest.raises(convert.UnsupportedLayerError) as caught:
            convert.convert(fitted(estimator, x, x[:, 0]))
        assert str(caught.value).startswith(message)
    network = MLPRegressor()
    with raises(ValueError, "expected a fitted MLPRegressor, got one that is not"):
        convert.convert(network)
    with raises(ValueError, "mlpregressor: expected a fitted MLPRegressor, got one that is not"):
        convert.convert(Pipeline([("s", StandardScaler().fit(x)), ("mlpregressor", network)]))
    with raises(ValueError, "scaler: expected a fitted StandardScaler, got one that is not"):
        mean_and_scale(StandardScaler())
    with unsupported("s: StandardScaler: expected a fitted StandardScaler, got one that is not"):
        convert.convert(Pipeline([("s", StandardScaler()), ("n", network)]))


class OwnScaler(StandardScaler):  # type: ignore[misc]
    def inverse_transform(self, X: Any, copy: Any = None) -> Any:
        return super().inverse_transform(X) + 1


class OwnPipeline(Pipeline):  # type: ignore[misc]
    def predict(self, X: Any, **params: Any) -> Any:
        return super().predict(X, **params) + 1


class OwnClassifier(MLPClassifier):  # type: ignore[misc]
    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(X)[:, ::-1]


def double(y: Any) -> Any:
    return 2 * y


def half(y: Any) -> Any:
    return y / 2


def identity(y: Any) -> Any:
    return y


def otherwise(x: Any) -> Any:
    """Return a function in place of a method."""
    return x


NETWORK = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2)
CLASSIFIER = MLPClassifier((4,), max_iter=2)
FUNCTION = "transformer: the inverse_func"
REST = "convert regressor_ and apply what follows it to predictions yourself"
KNOWN = (
    "may compute anything; known are np.exp, np.expm1, np.exp2 and scipy.special.exp10; "
    "convert regressor_ and apply what follows it to predictions yourself"
)
ANYTHING = "which may compute anything"
FOLD = (
    "apply it to x yourself, or give it as (mean, scale) to fold_scalers if it is a scale and shift"
)
OTHERWISE = {
    "func": (
        TransformedTargetRegressor(NETWORK, func=half, inverse_func=double),
        f"{FUNCTION} double {KNOWN}",
    ),
    # The inverse is what predictions go through: here it undoes nothing.
    "inverse_func": (
        TransformedTargetRegressor(NETWORK, func=half, inverse_func=identity, check_inverse=False),
        f"{FUNCTION} identity {KNOWN}",
    ),
    "inverse_func of a transformer": (
        TransformedTargetRegressor(
            NETWORK,
            transformer=FunctionTransformer(inverse_func=double, check_inverse=False),
            check_inverse=False,
        ),
        f"{FUNCTION} double {KNOWN}",
    ),
    "inverse_transform of a subclass": (
        TransformedTargetRegressor(NETWORK, transformer=OwnScaler(), check_inverse=False),
        f"transformer: OwnScaler is no scaler that is known, it may compute anything; {REST}",
    ),
    "scaler of a subclass": (
        make_pipeline(OwnScaler(), NETWORK),
        f"ownscaler: OwnScaler is no scaler that is known, it may compute anything; {FOLD}",
    ),
    "function of inputs": (
        make_pipeline(FunctionTransformer(double), NETWORK),
        f"functiontransformer: FunctionTransformer has a func, {ANYTHING}; {FOLD}",
    ),
    "pipeline": (OwnPipeline([("n", NETWORK)]), f"OwnPipeline is a class of its own, {ANYTHING}"),
    "classifier": (
        OwnClassifier((4,), max_iter=2),
        f"OwnClassifier is a class of its own, {ANYTHING}",
    ),
    "nested": (
        make_pipeline(StandardScaler(), OwnPipeline([("n", NETWORK)])),
        f"ownpipeline: OwnPipeline is a class of its own, {ANYTHING}",
    ),
    "labels": (
        TransformedTargetRegressor(CLASSIFIER),
        "regressor: expected a regressor, got a MLPClassifier",
    ),
    "labels of a pipeline": (
        TransformedTargetRegressor(make_pipeline(StandardScaler(), CLASSIFIER)),
        "regressor: expected a regressor, got a Pipeline",
    ),
    "labels of a search": (
        TransformedTargetRegressor(GridSearchCV(CLASSIFIER, {"activation": ["tanh"]}, cv=2)),
        "regressor: expected a regressor, got a GridSearchCV",
    ),
    "labels of a random search": (
        TransformedTargetRegressor(
            RandomizedSearchCV(CLASSIFIER, {"activation": ["tanh"]}, n_iter=1, cv=2)
        ),
        "regressor: expected a regressor, got a RandomizedSearchCV",
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_estimators_that_predict_something_else_than_their_parts(name: str) -> None:
    x = inputs(3)
    estimator, message = OTHERWISE[name]
    with unsupported(message):
        convert.convert(fitted(estimator, x, (x[:, 0] > 0).astype(np.float64)))


def test_networks_whose_parts_do_not_fit_each_other() -> None:
    x = np.random.default_rng(0).standard_normal((30, 3))
    changes: list[tuple[Any, str]] = [
        (
            lambda network: setattr(network, "n_layers_", 2),
            "1 of coefs_ and of intercepts_, got 2 matrices and 2 biases",
        ),
        (
            lambda network: network.coefs_.append([[1.0]]),
            "2 of coefs_ and of intercepts_, got 3 matrices and 2 biases",
        ),
        (
            lambda network: network.intercepts_.pop(),
            "2 of coefs_ and of intercepts_, got 2 matrices and 1 biases",
        ),
    ]
    for change, message in changes:
        with silently():
            network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=5, random_state=0).fit(
                x, x[:, 0]
            )
        change(network)
        with unsupported(f"expected {message}"):
            convert.convert(network)


def test_methods_put_in_place_of_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs(3)
    network, classifier = (
        fitted(MLPRegressor(max_iter=2), x, x[:, 0]),
        fitted(MLPClassifier(max_iter=2), x, x[:, 0] > 0),
    )
    scaler = StandardScaler().fit(x)
    for model, method in (
        (network, "predict"),
        (network, "_predict"),
        (classifier, "predict_proba"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(model, method, otherwise)
            with unsupported(f"{type(model).__name__} has a {method} of its own, {ANYTHING}"):
                convert.convert(model)
        convert.convert(model)
    pipeline = Pipeline([("s", scaler), ("n", network)])
    with monkeypatch.context() as patch:
        patch.setattr(scaler, "transform", otherwise)
        with unsupported(f"s: StandardScaler has a transform of its own, {ANYTHING}; {FOLD}"):
            convert.convert(pipeline)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "predict", otherwise)
        with unsupported(f"Pipeline has a predict of its own, {ANYTHING}"):
            convert.convert(pipeline)
    with monkeypatch.context() as patch:
        patch.setattr(MLPRegressor, "predict", otherwise)
        with unsupported(f"n: MLPRegressor has a predict of its own, {ANYTHING}"):
            convert.convert(pipeline)
    convert.convert(pipeline)


@pytest.mark.parametrize("option", ["with_mean", "with_std", "with_centering", "with_scaling"])
def test_options_that_are_switched_off_after_fitting(option: str) -> None:
    x = inputs(3)
    scaler = (
        RobustScaler if option in ("with_centering", "with_scaling") else StandardScaler
    )().fit(x)
    scaler.set_params(**{option: False})
    mean, scale = mean_and_scale(scaler)
    np.testing.assert_allclose(
        (x - mean) / scale, scaler.transform(x.astype(np.float64)), rtol=1e-9, atol=1e-9
    )


def test_scalers_are_copied() -> None:
    x = inputs(3)
    scaler = StandardScaler().fit(x)
    mean, scale = mean_and_scale(scaler)
    assert not np.shares_memory(mean, scaler.mean_)
    assert not np.shares_memory(scale, scaler.scale_)


def test_many_estimators_become_stacked_arrays() -> None:
    x = inputs(3)
    models = {
        name: fitted(
            make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=2)), x[i:], x[i:, 0] > 0
        )
        for i, name in enumerate("abc")
    }
    keys, arch, weights = convert.stack(models)
    for i, key in enumerate(keys):
        one = {name: array[i] for name, array in weights.items()}
        assert_computes(
            convert.Converted(arch, one), x, models[key].predict_proba(x.astype(np.float64))
        )
