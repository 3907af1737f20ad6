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
from mlpbank.convert import _shift
from mlpbank.convert._layers import to_float32, with_affine
from mlpbank.convert._native import unflattened
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Float64Array, Weights
from mlpbank.weights import WeightsMapping


@in_default_mode
def fold_scalers(
    architecture: Architecture,
    weights: WeightsMapping,
    input_scaler: Any = None,
    output_scaler: Any = None,
) -> Weights:
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
        float64 and rounded once. Where a mean is more than 128 times its scale, also
        ``"input_shift"``, see `Converted`; one in `weights` is taken into account.

    Raises
    ------
    ValueError
        There is an output scaler but the last activation is not "none", a scale is 0 or not
        finite, a shape does not fit, or a scaler is unknown.
    KeyError, TypeError
        `weights` lacks a layer, or a scaler is neither a pair nor a fitted scaler.
    """
    return _folded(
        architecture, weights, input_scaler, output_scaler, _shift.where_needed(_shift.LIMIT)
    )


@in_default_mode
def _folded(
    architecture: Architecture,
    weights: WeightsMapping,
    input_scaler: Any,
    output_scaler: Any,
    decide: _shift.Decide,
    name: _shift.Name = lambda _: "",
    features: tuple[str, ...] | None = None,
) -> Weights:
    """Do what `fold_scalers` does, for the input shift that is decided."""
    arrays, stacked = unflattened(weights, architecture)
    folded: dict[str, npt.NDArray[Any]] = dict(arrays)
    shift = _fold_inputs(
        folded, architecture, weights, input_scaler, stacked, decide, name, features
    )
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
    result: dict[str, Any] = {key: to_float32(a, key) for key, a in folded.items()}
    if shift is not None:
        result[_shift.KEY] = shift
    return result


def _fold_inputs(
    folded: dict[str, npt.NDArray[Any]],
    architecture: Architecture,
    weights: WeightsMapping,
    scaler: Any,
    stacked: bool,
    decide: _shift.Decide,
    name: _shift.Name,
    features: tuple[str, ...] | None,
) -> Float64Array | None:
    """Make the first layer take ``x - shift``, and return the shift that was decided."""
    matrix, bias = folded["layer_0"], folded["layer_0.bias"]
    size = architecture.input_size
    own = _shift.of_weights(weights, size)
    scale = None
    offset = np.zeros(size) if own is None else -own
    figures: tuple[Float64Array | None, Float64Array | None] = (None, None)
    if scaler is not None:
        mean, divisor = _fitting(scaler, "input_scaler", size, matrix, stacked)
        scale, offset = 1.0 / divisor, offset - mean / divisor
        scale, offset = np.broadcast_arrays(scale, offset)
        figures = np.atleast_2d(scale), np.atleast_2d(offset)
    elif own is not None:
        figures = _shift.figures_of(matrix if stacked else matrix[None], own)
    shift = decide(*figures)
    if figures[0] is not None and figures[1] is not None:
        _shift.check(figures[0], figures[1], shift, name, features)
    if shift is not None:
        offset = offset + (shift if scale is None else shift * scale)
    weight, moved = with_affine(matrix, bias, scale, offset)
    folded |= {"layer_0": weight, "layer_0.bias": bias if moved is None else moved}
    return shift


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


# Classes that pick and mix columns: what follows them takes fewer.
SELECTORS = (
    *("SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe"),
    *("GenericUnivariateSelect", "SelectFromModel", "SequentialFeatureSelector"),
    *("RFE", "RFECV", "VarianceThreshold"),
)
MIXERS = ("PCA", "IncrementalPCA", "TruncatedSVD")
_MODULES = {
    **dict.fromkeys(SELECTORS, "feature_selection"),
    **dict.fromkeys(MIXERS, "decomposition"),
    **dict.fromkeys(
        ("StandardScaler", "RobustScaler", "MaxAbsScaler", "MinMaxScaler"), "preprocessing"
    ),
    "FunctionTransformer": "preprocessing",
    **dict.fromkeys(("Pipeline", "FeatureUnion"), "pipeline"),
    **dict.fromkeys(("MLPRegressor", "MLPClassifier"), "neural_network"),
    **dict.fromkeys(("TransformedTargetRegressor", "ColumnTransformer"), "compose"),
    **dict.fromkeys(("GridSearchCV", "RandomizedSearchCV"), "model_selection"),
}
_METHODS = (
    "transform",
    "_transform",
    "get_support",
    "_get_support_mask",
    "inverse_transform",
    "predict",
    "predict_proba",
    "_predict",
    "_forward_pass_fast",
)
_CLIP_WAY_OUT = "apply it to x yourself and convert what comes after it"
_WAY_OUT = (
    "apply it to x yourself, or give it as (mean, scale) to fold_scalers if it is a scale and shift"
)


def _of_object(scaler: Any, name: str) -> tuple[Float64Array, Float64Array]:
    kind = sklearn_class(scaler)
    reason, way = refusal(scaler)
    if reason:
        raise InvalidValueError(f"{name}: {type(scaler).__name__} {reason}; {way}")
    if kind == "FunctionTransformer":
        return np.array(0.0), np.array(1.0)
    if kind == "Pipeline":
        return _of_pipeline(scaler, name)
    if not hasattr(scaler, "scale_"):
        raise InvalidValueError(f"{name}: expected a fitted {kind}, got one that is not")
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


def refusal(transformer: Any) -> tuple[str, str]:
    """Return what a transformer does that no scaler does, and the way out; "" if it is a scaler."""
    kind = sklearn_class(transformer)
    if kind not in _ATTRIBUTES and kind not in ("FunctionTransformer", "Pipeline"):
        return _why_not(transformer)
    if method := own_method(transformer):
        return f"has a {method} of its own, which may compute anything", _WAY_OUT
    if kind == "FunctionTransformer":
        for option in ("func", "inverse_func"):
            if getattr(transformer, option) is not None:
                return (
                    f"has {'a' if option == 'func' else 'an'} {option}, which may compute anything",
                    _WAY_OUT,
                )
    if getattr(transformer, "clip", False):
        return "with clip=True is not affine", _CLIP_WAY_OUT
    return "", ""


def _why_not(transformer: Any) -> tuple[str, str]:
    """Return what a transformer of no known kind does, as far as its class tells it."""
    kind = type(transformer)
    package, _, module = kind.__module__.partition(".")
    if (
        package != "sklearn"
        or getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind
    ):
        return "is no scaler that is known, it may compute anything", _WAY_OUT
    does = _PARTS.get(module) or _PARTS.get(module.partition(".")[0], "is no scale and shift")
    return does, f"{_CLIP_WAY_OUT}, such as pipeline[1:]"


# What the modules of scikit-learn do that a scale and shift cannot.
_PARTS = {
    "impute": "replaces missing values, which is no scale and shift",
    "decomposition": "mixes the features",
    "feature_selection": "selects features",
    "feature_extraction": "makes features of something else",
    "preprocessing._encoders": "makes numbers of categories",
    "preprocessing._target_encoder": "makes numbers of categories",
    "compose": "treats columns differently",
}


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
