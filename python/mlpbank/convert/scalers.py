"""Scalers of inputs and outputs, folded into layers so that they cost nothing at prediction.

A scaler is a pair ``(mean, scale)``. Inputs become ``(x - mean) / scale``, outputs ``y * scale +
mean``. Fitted scalers of scikit-learn that are affine are recognised by their classes.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._arrays import as_array, in_default_mode
from mlpbank.architecture import Activation, Architecture
from mlpbank.convert._chain import Float64Array, to_float32
from mlpbank.convert._native import unflattened
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Float32Array
from mlpbank.weights import WeightsMapping


@in_default_mode
def fold_scalers(
    architecture: Architecture,
    weights: WeightsMapping,
    input_scaler: Any = None,
    output_scaler: Any = None,
) -> dict[str, Float32Array]:
    """Return weights that scale their inputs and outputs themselves.

    Parameters
    ----------
    architecture : Architecture
        The architecture of the models.
    weights : mapping of str to array
        As `BatchedWeights.load` or `BatchedWeights.load_stacked` takes them: ``"layer_<i>"`` (in,
        out) or (N, in, out), flat or not; ``"layer_<i>.bias"`` (out,) or (N, out), optional.
    input_scaler : (mean, scale) or fitted scaler, optional
        Mean and scale are a number or (in,) each. For stacked weights they may also be (N, in), a
        scaler for each model. The models were trained on ``(x - mean) / scale``; the returned
        weights take x.
    output_scaler : (mean, scale) or fitted scaler, optional
        As above, with out instead of in. The outputs y of the models become ``y * scale + mean``.

    Returns
    -------
    dict of str to float32 array
        Copies of the weights and biases of every layer, not flat. Changed arrays are computed in
        float64 and rounded once.

    Raises
    ------
    ValueError
        There is an output scaler but the last activation is not "none", a scale is 0 or not
        finite, a shape does not fit, or a scaler is unknown.
    KeyError, TypeError
        `weights` lacks a layer, or a scaler is neither a pair nor a fitted scaler.
    """
    arrays, stacked = unflattened(weights, architecture)
    folded: dict[str, npt.NDArray[Any]] = dict(arrays)
    if input_scaler is not None:
        mean, scale = _fitting(
            input_scaler, "input_scaler", architecture.input_size, arrays["layer_0"], stacked
        )
        matrix = folded["layer_0"] / scale[..., :, None]
        folded["layer_0"] = matrix
        folded["layer_0.bias"] = folded["layer_0.bias"] - (mean[..., None, :] @ matrix)[..., 0, :]
    if output_scaler is not None:
        last = len(architecture.layers) - 1
        activation = architecture.layers[last].activation
        if activation is not Activation.NONE:
            got = repr(activation.value)
            raise InvalidValueError(
                f"output_scaler: expected a last layer with activation 'none', got {got}"
            )
        matrix = folded[f"layer_{last}"]
        mean, scale = _fitting(
            output_scaler, "output_scaler", architecture.output_size, matrix, stacked
        )
        folded[f"layer_{last}"] = matrix * scale[..., None, :]
        folded[f"layer_{last}.bias"] = folded[f"layer_{last}.bias"] * scale + mean
    return {name: to_float32(a, name) for name, a in folded.items()}


@in_default_mode
def mean_and_scale(scaler: Any, name: str = "scaler") -> tuple[Float64Array, Float64Array]:
    """Return a scaler as ``(mean, scale)``, so that it transforms x to ``(x - mean) / scale``.

    Parameters
    ----------
    scaler : (mean, scale) or object
        A pair of numbers or arrays, or of scikit-learn: a fitted StandardScaler, MinMaxScaler,
        MaxAbsScaler or RobustScaler, a FunctionTransformer without functions, or a Pipeline of
        these.
    name : str
        Its name in messages.

    Returns
    -------
    mean, scale : float64 array
        Each () or (in,), or another shape if a pair has it.

    Raises
    ------
    TypeError, ValueError
        It is none of these, is not fitted, or clips, or its scale has a 0 or is not finite.
    """
    if isinstance(scaler, (tuple, list)):
        if len(scaler) != 2:
            raise InvalidTypeError(f"{name}: expected (mean, scale), got {len(scaler)} values")
        mean, scale = (np.array(as_array(part, name), np.float64) for part in scaler)
    elif hasattr(scaler, "transform"):
        mean, scale = _of_object(scaler, name)
    else:
        raise InvalidTypeError(
            f"{name}: expected (mean, scale) or a fitted scaler, got {type(scaler).__name__}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale != 0).all()):
        raise InvalidValueError(
            f"{name}: expected finite means and finite scales other than 0, got {mean} and {scale}"
        )
    return mean, scale


def sklearn_class(estimator: Any) -> str:
    """Return the name of an object's class if scikit-learn defines it, else "".

    The class is compared by identity, because a subclass could compute anything.
    """
    kind = type(estimator)
    module = sys.modules.get(f"sklearn.{_MODULES.get(kind.__name__)}")
    return kind.__name__ if getattr(module, kind.__name__, None) is kind else ""


def own_method(estimator: Any) -> str:
    """Return the name of a method that replaces one of scikit-learn's, "" if there is none."""
    kind = type(estimator)
    own = [name for name in vars(estimator) if callable(getattr(kind, name, None))]
    own += [name for name in _METHODS if not _of_sklearn(getattr(kind, name, None))]
    return own[0] if own else ""


def _of_sklearn(method: Any) -> bool:
    return method is None or str(method.__module__).startswith("sklearn.")


_MODULES = {
    **dict.fromkeys(
        ("StandardScaler", "RobustScaler", "MaxAbsScaler", "MinMaxScaler"), "preprocessing"
    ),
    "FunctionTransformer": "preprocessing",
    "Pipeline": "pipeline",
    **dict.fromkeys(("MLPRegressor", "MLPClassifier"), "neural_network"),
    "TransformedTargetRegressor": "compose",
    **dict.fromkeys(("GridSearchCV", "RandomizedSearchCV"), "model_selection"),
}
_METHODS = (
    "transform",
    "inverse_transform",
    "predict",
    "predict_proba",
    "_predict",
    "_forward_pass_fast",
)
_WAY_OUT = "fold_scalers takes what it does as (mean, scale)"


def _of_object(scaler: Any, name: str) -> tuple[Float64Array, Float64Array]:
    kind = sklearn_class(scaler)
    known = kind in _ATTRIBUTES or kind in ("FunctionTransformer", "Pipeline")
    if not known:
        raise InvalidValueError(
            f"{name}: {type(scaler).__name__} is no scaler that is known, it may compute anything; "
            f"{_WAY_OUT}"
        )
    if method := own_method(scaler):
        raise InvalidValueError(
            f"{name}: {kind} has a {method} of its own, which may compute anything; {_WAY_OUT}"
        )
    if kind == "FunctionTransformer":
        for option in ("func", "inverse_func"):
            if getattr(scaler, option) is not None:
                raise InvalidValueError(
                    f"{name}: FunctionTransformer has a {option}, which may compute anything; "
                    f"{_WAY_OUT}"
                )
        return np.array(0.0), np.array(1.0)
    if kind == "Pipeline":
        return _of_pipeline(scaler, name)
    if not hasattr(scaler, "scale_"):
        raise InvalidValueError(f"{name}: expected a fitted {kind}, got one that is not")
    if getattr(scaler, "clip", False):
        raise InvalidValueError(f"{name}: {kind} with clip=True is not affine")
    # Options decide, not fitted attributes: StandardScaler has means also without with_mean.
    used = (all(getattr(scaler, option, True) for option in options) for options in _OPTIONS)
    parts = (
        getattr(scaler, part) if part and use else None
        for part, use in zip(_ATTRIBUTES[kind], used, strict=True)
    )
    offset, scale = (
        np.array(default if a is None else a, np.float64)
        for a, default in zip(parts, (0, 1), strict=True)
    )
    return (-offset / scale, 1.0 / scale) if kind == "MinMaxScaler" else (offset, scale)


# The attributes that scalers subtract and divide by. MinMaxScaler multiplies, then adds.
_ATTRIBUTES = {
    "StandardScaler": ("mean_", "scale_"),
    "RobustScaler": ("center_", "scale_"),
    "MaxAbsScaler": (None, "scale_"),
    "MinMaxScaler": ("min_", "scale_"),
}
# The options that switch off subtracting and dividing.
_OPTIONS = (("with_mean", "with_centering"), ("with_std", "with_scaling"))


def _of_pipeline(pipeline: Any, name: str) -> tuple[Float64Array, Float64Array]:
    mean, scale = np.array(0.0), np.array(1.0)
    for step, transformer in pipeline.steps:
        if transformer is not None and transformer != "passthrough":
            if not hasattr(transformer, "transform"):
                raise InvalidValueError(f"{name}.{step}: {type(transformer).__name__} is no scaler")
            next_mean, next_scale = mean_and_scale(transformer, f"{name}.{step}")
            mean, scale = mean + scale * next_mean, scale * next_scale
    return mean, scale


def _fitting(
    scaler: Any, name: str, size: int, matrix: npt.NDArray[Any], stacked: bool
) -> tuple[Float64Array, Float64Array]:
    mean, scale = mean_and_scale(scaler, name)
    shapes: tuple[tuple[int, ...], ...] = (
        (),
        (size,),
        *(((len(matrix), size),) if stacked else ()),
    )
    for part, what in ((mean, "mean"), (scale, "scale")):
        if part.shape not in shapes:
            wanted = " or ".join(str(shape) for shape in shapes[1:])
            raise InvalidValueError(f"{name}: expected {what} of shape {wanted}, got {part.shape}")
    return mean + np.zeros(size), scale + np.zeros(size)  # one for every feature
