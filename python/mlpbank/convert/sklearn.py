"""scikit-learn: MLPRegressor, MLPClassifier, Pipelines to one, TransformedTargetRegressor.

A network of skorch may stand in place of scikit-learn's own.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mlpbank.architecture import Activation
from mlpbank.convert._chain import Activate, Affine, Dense, Step, affine, join, unsupported
from mlpbank.convert._columns import Select
from mlpbank.convert._containers import members_of
from mlpbank.convert._frameworks import framework_of
from mlpbank.convert._sklearn_columns import selected, selects
from mlpbank.convert._sklearn_rows import Part, compacted, gathered
from mlpbank.convert.scalers import mean_and_scale, own_method, refusal, sklearn_class
from mlpbank.errors import InvalidValueError, MlpbankError

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
    "exp": Activation.EXP,  # MLPRegressor(loss="poisson")
}


def steps(estimator: Any) -> list[Step | Select]:
    """Return the steps of a regressor's ``predict`` or a classifier's ``predict_proba``.

    Inputs are the columns that the estimator was fitted to: all of an array, and of a data frame
    those that are used, which `feature_names` names.

    Raises
    ------
    UnsupportedLayerError
        The estimator is no chain of scalers and dense layers.
    ValueError
        An estimator is not fitted.
    """
    chain = gathered(_steps(estimator, ""))
    if isinstance(chain[0], Select) and _all_names(estimator) is not None:
        chain[0], _ = compacted(chain[0])
    return chain


def _steps(estimator: Any, where: str) -> list[Part]:
    kind = sklearn_class(estimator)
    if not kind:
        name = type(estimator).__name__
        if framework_of(type(estimator)) == "skorch":
            from mlpbank.convert import _skorch

            return [*_skorch.steps(estimator, where)]
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
            *_steps(regressor, place),
            *_inverse(estimator.transformer_, join(where, "transformer")),
        ]
    if kind in ("GridSearchCV", "RandomizedSearchCV"):
        return _steps(_fitted(estimator, "best_estimator_", where), where)
    raise unsupported(where, f"{kind} is not supported; {_SUPPORTED}")


_SUPPORTED = "an MLPRegressor, an MLPClassifier or a Pipeline to one is"


def _predicts_numbers(estimator: Any) -> bool:
    """Return whether the steps of an estimator are its ``predict``. A classifier's are not."""
    kind = sklearn_class(estimator)
    if framework_of(type(estimator)) == "skorch":
        from mlpbank.convert import _skorch

        return not _skorch.predicts_classes(estimator)
    if kind == "Pipeline":
        return _predicts_numbers(estimator.steps[-1][1])
    if kind in ("GridSearchCV", "RandomizedSearchCV"):
        return _predicts_numbers(getattr(estimator, "best_estimator_", None))
    return kind != "MLPClassifier"


def feature_names(estimator: Any) -> Any:
    """Return the names of the columns that an estimator was fitted to, None if it has none.

    Without those that a ColumnTransformer leaves out.
    """
    names = _all_names(estimator)
    if names is None or not _selects(estimator):
        return names
    try:
        select = gathered(_steps(estimator, ""))[0]
    except MlpbankError:  # `steps` tells it
        return names
    if not isinstance(select, Select) or select.width != len(names):
        return names
    return [names[i] for i in compacted(select)[1]]


def _selects(estimator: Any) -> bool:
    kind = sklearn_class(estimator)
    if kind in _INNER:
        return _selects(getattr(estimator, _INNER[kind], None))
    if kind == "Pipeline":
        return any(_selects(step) for _, step in estimator.steps)
    return selects(estimator)


def _all_names(estimator: Any) -> Any:
    kind = sklearn_class(estimator)
    if kind in _INNER:
        return _all_names(getattr(estimator, _INNER[kind], None))
    if kind == "FeatureUnion":  # all parts take the same columns
        names = (_all_names(part) for _, part in estimator.transformer_list)
        return next((found for found in names if found is not None), None)
    if kind != "Pipeline":
        return getattr(estimator, "feature_names_in_", None)
    # Those of the first step that the columns reach. Later ones may have names of results.
    for _, step in estimator.steps:
        if step is None or (isinstance(step, str) and step == "passthrough"):
            continue
        names = _all_names(step)
        if names is not None or sklearn_class(step) != "FunctionTransformer":
            return names
    return None


def classes(estimator: Any, outputs: int | None = None) -> Any:
    """Return the label of each column of ``predict_proba``, None if there are none.

    Outputs for several labels at once (multilabel) are columns of their own, so they have none.
    Those of skorch need the number of `outputs`.
    """
    kind = sklearn_class(estimator)
    if kind in _INNER:
        return classes(getattr(estimator, _INNER[kind], None), outputs)
    if kind == "Pipeline":
        return classes(estimator.steps[-1][1], outputs)
    if outputs is not None and framework_of(type(estimator)) == "skorch":
        from mlpbank.convert import _skorch

        return _skorch.classes(estimator, outputs)
    if kind != "MLPClassifier":
        return None
    multilabel = getattr(estimator, "n_outputs_", 1) > 1 and estimator.out_activation_ != "softmax"
    return None if multilabel else getattr(estimator, "classes_", None)


# Estimators that pass their columns on, and where the one is that takes them.
_INNER = {
    "TransformedTargetRegressor": "regressor_",
    "GridSearchCV": "best_estimator_",
    "RandomizedSearchCV": "best_estimator_",
}


def _network(network: Any, where: str) -> list[Part]:
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
    chain: list[Part] = []
    for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        place = join(where, f"layer {i}")
        chain += [
            Dense(matrix, bias, place),
            Activate(activation if i == last else _HIDDEN[network.activation], place),
        ]
    return chain


def _pipeline(pipeline: Any, where: str) -> list[Part]:
    chain: list[Part] = []
    *transformers, (last_name, last) = pipeline.steps
    for name, transformer in transformers:
        place = join(where, name)
        if selects(transformer):
            chain.append(selected(transformer, place))
        elif transformer is not None and transformer != "passthrough":
            chain.append(_scaler(transformer, place))
    if last is None or last == "passthrough":
        raise unsupported(join(where, last_name), "expected an MLP at the end, got nothing")
    return chain + _steps(last, join(where, last_name))


def _scaler(transformer: Any, where: str) -> Affine:
    name = type(transformer).__name__
    reason, way = refusal(transformer)
    if reason:
        raise unsupported(where, f"{name} {reason}; {way}")
    try:
        mean, scale = mean_and_scale(transformer, name)
    except (TypeError, ValueError) as error:
        raise unsupported(where, str(error)) from error
    return affine(1.0 / scale, -mean / scale, where)


def _inverse(transformer: Any, where: str) -> list[Step]:
    """Return the inverse of a transformer, which turns outputs of the network into predictions."""
    kind = "" if own_method(transformer) else sklearn_class(transformer)
    if kind == "Pipeline":
        return [
            step
            for name, part in reversed(transformer.steps)
            if part is not None and part != "passthrough"
            for step in _inverse(part, join(where, name))
        ]
    if kind == "FunctionTransformer" and transformer.inverse_func is not None:
        return _inverse_function(transformer, where)
    if not sklearn_class(transformer):
        raise unsupported(
            where,
            f"{type(transformer).__name__} is no scaler that is known, it may compute anything; "
            f"{_TARGET_WAY_OUT}",
        )
    forward = _scaler(transformer, where)
    return [affine(1.0 / forward.scale, -forward.shift / forward.scale, where)]


def _inverse_function(transformer: Any, where: str) -> list[Step]:
    """Return the steps of a function of NumPy or SciPy, which is known by its identity."""
    function = transformer.inverse_func
    special = sys.modules.get("scipy.special")
    for known, activation, factor in (
        (np.exp, Activation.EXP, 1.0),
        (np.expm1, Activation.EXPM1, 1.0),
        (np.exp2, Activation.EXP, np.log(2.0)),
        (getattr(special, "expm1", None), Activation.EXPM1, 1.0),
        (getattr(special, "exp2", None), Activation.EXP, np.log(2.0)),
        (getattr(special, "exp10", None), Activation.EXP, np.log(10.0)),
    ):
        if function is known and not transformer.inv_kw_args:
            scale = [] if factor == 1.0 else [affine(factor, 0.0, where)]
            return [*scale, Activate(activation, where)]
    name = getattr(function, "__name__", type(function).__name__)
    given = f" with {transformer.inv_kw_args}" if transformer.inv_kw_args else ""
    raise unsupported(
        where,
        f"the inverse_func {name}{given} may compute anything; known are np.exp, np.expm1, np.exp2 "
        f"and scipy.special.exp10; {_TARGET_WAY_OUT}",
    )


_TARGET_WAY_OUT = "convert regressor_ and apply what follows it to predictions yourself"


def _fitted(estimator: Any, attribute: str, where: str) -> Any:
    if not hasattr(estimator, attribute):
        place, name = where + ": " if where else "", type(estimator).__name__
        raise InvalidValueError(f"{place}expected a fitted {name}, got one that is not")
    return getattr(estimator, attribute)
