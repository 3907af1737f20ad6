"""scikit-learn: MLPRegressor, MLPClassifier, Pipelines to one, TransformedTargetRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlpbank.architecture import Activation
from mlpbank.convert._chain import Activate, Affine, Dense, Step, affine, join, unsupported
from mlpbank.convert._containers import members_of
from mlpbank.convert.scalers import mean_and_scale, own_method, sklearn_class
from mlpbank.errors import InvalidValueError

_HIDDEN = {
    "identity": Activation.NONE,
    "logistic": Activation.SIGMOID,
    "tanh": Activation.TANH,
    "relu": Activation.RELU,
}
_OUTPUT = {
    "identity": Activation.NONE,
    "logistic": Activation.SIGMOID,
    "softmax": Activation.SOFTMAX,
}


def steps(estimator: Any, where: str = "") -> list[Step]:
    """Return the steps of a regressor's ``predict`` or a classifier's ``predict_proba``.

    Raises
    ------
    UnsupportedLayerError
        The estimator is no chain of scalers and dense layers.
    ValueError
        An estimator is not fitted.
    """
    kind = sklearn_class(estimator)
    if not kind:
        name = type(estimator).__name__
        if type(estimator).__module__.startswith("sklearn."):
            members = members_of(estimator)
            hint = f"; {members}" if members else ""
            raise unsupported(where, f"{name} is not supported; {_SUPPORTED}{hint}")
        raise unsupported(where, f"{name} is a class of its own, which may compute anything")
    if method := own_method(estimator):
        raise unsupported(where, f"{kind} has a {method} of its own, which may compute anything")
    if kind in ("MLPRegressor", "MLPClassifier"):
        return _network(estimator, where)
    if kind == "Pipeline":
        return _pipeline(estimator, where)
    if kind == "TransformedTargetRegressor":
        regressor = _fitted(estimator, "regressor_", where)
        place = join(where, "regressor")
        if not _predicts_numbers(regressor):
            raise unsupported(place, f"expected a regressor, got a {type(regressor).__name__}")
        return [
            *steps(regressor, place),
            _target(estimator.transformer_, join(where, "transformer")),
        ]
    if kind in ("GridSearchCV", "RandomizedSearchCV"):
        return steps(_fitted(estimator, "best_estimator_", where), where)
    raise unsupported(where, f"{kind} is not supported; {_SUPPORTED}")


_SUPPORTED = "an MLPRegressor, an MLPClassifier or a Pipeline to one is"


def _predicts_numbers(estimator: Any) -> bool:
    """Return whether the steps of an estimator are its ``predict``. A classifier's are not."""
    kind = sklearn_class(estimator)
    if kind == "Pipeline":
        return _predicts_numbers(estimator.steps[-1][1])
    if kind in ("GridSearchCV", "RandomizedSearchCV"):
        return _predicts_numbers(getattr(estimator, "best_estimator_", None))
    return kind != "MLPClassifier"


def _network(network: Any, where: str) -> list[Step]:
    matrices = list(_fitted(network, "coefs_", where))
    biases = list(network.intercepts_)
    if not network.n_layers_ - 1 == len(matrices) == len(biases):  # predict uses n_layers_
        got = f"{len(matrices)} matrices and {len(biases)} biases"
        raise unsupported(
            where, f"expected {network.n_layers_ - 1} of coefs_ and of intercepts_, got {got}"
        )
    output = network.out_activation_
    if output not in _OUTPUT:
        raise unsupported(where, f"output activation {output!r} is not supported")
    if network.activation not in _HIDDEN:
        raise unsupported(where, f"activation {network.activation!r} is not supported")
    activation = _OUTPUT[output]
    if output == "logistic" and network.n_outputs_ == 1:
        # Two classes: predict_proba returns both, and sigmoid(z) is the second of softmax([0, z]).
        matrices[-1] = np.concatenate([np.zeros_like(matrices[-1]), matrices[-1]], axis=1)
        biases[-1] = np.concatenate([np.zeros_like(biases[-1]), biases[-1]])
        activation = Activation.SOFTMAX
    last = len(matrices) - 1
    chain: list[Step] = []
    for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        place = join(where, f"layer {i}")
        chain += [
            Dense(matrix, bias, place),
            Activate(activation if i == last else _HIDDEN[network.activation], place),
        ]
    return chain


def _pipeline(pipeline: Any, where: str) -> list[Step]:
    chain: list[Step] = []
    *transformers, (last_name, last) = pipeline.steps
    for name, transformer in transformers:
        if transformer is not None and transformer != "passthrough":
            chain.append(_scaler(transformer, join(where, name)))
    if last is None or last == "passthrough":
        raise unsupported(join(where, last_name), "expected an MLP at the end, got nothing")
    return chain + steps(last, join(where, last_name))


def _scaler(transformer: Any, where: str) -> Affine:
    try:
        mean, scale = mean_and_scale(transformer, type(transformer).__name__)
    except (TypeError, ValueError) as error:
        raise unsupported(where, str(error)) from error
    return affine(1.0 / scale, -mean / scale, where)


def _target(transformer: Any, where: str) -> Affine:
    """Return the inverse of a transformer, which turns outputs of the network into predictions."""
    forward = _scaler(transformer, where)
    return affine(1.0 / forward.scale, -forward.shift / forward.scale, where)


def _fitted(estimator: Any, attribute: str, where: str) -> Any:
    if not hasattr(estimator, attribute):
        place, name = where + ": " if where else "", type(estimator).__name__
        raise InvalidValueError(f"{place}expected a fitted {name}, got one that is not")
    return getattr(estimator, attribute)
