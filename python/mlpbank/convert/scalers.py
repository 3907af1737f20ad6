"""Scalers of inputs and outputs, folded into the first and the last layer so that they cost nothing at prediction.

A scaler is a pair ``(mean, scale)``: inputs are ``(x - mean) / scale``, outputs ``y * scale + mean``. A fitted scaler
of scikit-learn, or any object with its ``transform``, is taken as well if what it does is such a thing.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._arrays import Float32Array
from mlpbank.architecture import Activation, Architecture
from mlpbank.convert._chain import Float64Array, to_float32
from mlpbank.convert._native import unflattened
from mlpbank.weights import WeightsMapping


def fold_scalers(
    architecture: Architecture, weights: WeightsMapping, input_scaler: Any = None, output_scaler: Any = None
) -> dict[str, Float32Array]:
    """Return weights that scale their inputs and outputs themselves.

    Parameters
    ----------
    architecture : Architecture
        Of one model, or of all that are stacked.
    weights : mapping of str to array
        What `BatchedWeights.load` or `BatchedWeights.load_stacked` takes: ``"layer_<i>"`` (in, out) or (N, in, out),
        flat or not, ``"layer_<i>.bias"`` (out,) or (N, out), zeros where it is missing.
    input_scaler : (mean, scale) or fitted scaler, optional
        Each a number or (in,); for stacked weights also (N, in), a scaler for each model. The models were trained on
        ``(x - mean) / scale`` and shall be given x.
    output_scaler : (mean, scale) or fitted scaler, optional
        As above, with out for in. The models' outputs y become ``y * scale + mean``.

    Returns
    -------
    dict of str to float32 array
        Weights and biases of every layer, not flat. What changes is computed in float64 and rounded once; what does not
        change is not copied.

    Raises
    ------
    ValueError
        An output scaler meets a last activation other than "none"; a scale is 0 or not finite; a shape does not fit; a
        scaler is not affine.
    KeyError, TypeError
        `weights` lacks a layer, or a scaler is neither a pair nor a fitted scaler.
    """
    arrays, stacked = unflattened(weights, architecture)
    folded: dict[str, npt.NDArray[Any]] = dict(arrays)
    if input_scaler is not None:
        mean, scale = _fitting(input_scaler, "input_scaler", architecture.input_size, arrays["layer_0"], stacked)
        matrix = folded["layer_0"] / scale[..., :, None]
        folded["layer_0"] = matrix
        folded["layer_0.bias"] = folded["layer_0.bias"] - (mean[..., None, :] @ matrix)[..., 0, :]
    if output_scaler is not None:
        last = len(architecture.layers) - 1
        activation = architecture.layers[last].activation
        if activation is not Activation.NONE:
            raise ValueError(f"output_scaler: expected a last layer with activation 'none', got {activation.value!r}")
        matrix = folded[f"layer_{last}"]
        mean, scale = _fitting(output_scaler, "output_scaler", architecture.output_size, matrix, stacked)
        folded[f"layer_{last}"] = matrix * scale[..., None, :]
        folded[f"layer_{last}.bias"] = folded[f"layer_{last}.bias"] * scale + mean
    return {name: a if a.dtype == np.float32 else to_float32(a, name) for name, a in folded.items()}


def mean_and_scale(scaler: Any, name: str = "scaler") -> tuple[Float64Array, Float64Array]:
    """Return a scaler as ``(mean, scale)`` in float64, transforming meaning ``(x - mean) / scale``.

    Parameters
    ----------
    scaler : (mean, scale) or object
        A pair of numbers or arrays; or a fitted StandardScaler, MinMaxScaler, MaxAbsScaler or RobustScaler; or anything
        with ``transform`` and ``n_features_in_`` that scales each feature by itself, which is tried on a few hundred
        rows.
    name : str
        What messages call it.

    Raises
    ------
    TypeError, ValueError
        It is none of these, not fitted, not affine, or its scale has a 0 or is not finite.
    """
    if isinstance(scaler, (tuple, list)):
        if len(scaler) != 2:
            raise TypeError(f"{name}: expected (mean, scale), got {len(scaler)} values")
        mean, scale = (np.asarray(part, np.float64) for part in scaler)
    elif hasattr(scaler, "transform"):
        mean, scale = _of_object(scaler, name)
    else:
        raise TypeError(f"{name}: expected (mean, scale) or a fitted scaler, got {type(scaler).__name__}")
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale != 0).all()):
        raise ValueError(f"{name}: expected finite means and finite scales other than 0, got {mean} and {scale}")
    return mean, scale


def _of_object(scaler: Any, name: str) -> tuple[Float64Array, Float64Array]:
    kind = type(scaler).__name__
    # By name only where it is scikit-learn's own: a subclass could do anything.
    if not type(scaler).__module__.startswith("sklearn.") or kind not in _ATTRIBUTES:
        return _tried(scaler, name)
    if not hasattr(scaler, "scale_"):
        raise ValueError(f"{name}: expected a fitted {kind}, got one that is not")
    if getattr(scaler, "clip", False):
        raise ValueError(f"{name}: {kind} with clip=True is not affine")
    offset, scale = (None if a is None else getattr(scaler, a) for a in _ATTRIBUTES[kind])
    if not getattr(scaler, "with_mean", True):
        offset = None  # StandardScaler has the means all the same
    scale = np.asarray(1.0 if scale is None else scale, np.float64)  # None: switched off
    offset = np.asarray(0.0 if offset is None else offset, np.float64)
    return (-offset / scale, 1.0 / scale) if kind == "MinMaxScaler" else (offset, scale)


# Where scikit-learn's scalers keep what they subtract and what they divide by; MinMaxScaler multiplies, then adds.
_ATTRIBUTES = {
    "StandardScaler": ("mean_", "scale_"),
    "RobustScaler": ("center_", "scale_"),
    "MaxAbsScaler": (None, "scale_"),
    "MinMaxScaler": ("min_", "scale_"),
}


def _tried(scaler: Any, name: str) -> tuple[Float64Array, Float64Array]:
    """Return what a scaler does, found by trying it out."""
    kind = type(scaler).__name__
    size = getattr(scaler, "n_features_in_", None)
    if size is None:
        raise ValueError(f"{name}: expected a fitted scaler, got a {kind} without n_features_in_")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, size)) * np.logspace(-3, 5, 300)[:, None]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a scaler that was fitted to a data frame misses its columns' names
            tried = scaler.transform(np.concatenate([np.zeros((1, size)), np.ones((1, size)), rows]))
        tried = np.asarray(tried, np.float64)
    except Exception as error:  # whatever the transformer raises
        raise ValueError(f"{name}: expected a scaler of {size} numbers, got a {kind} that says: {error}") from error
    if tried.shape != (302, size):
        raise ValueError(f"{name}: expected {kind} to keep {size} features, got {tried.shape[1:]}")
    shift, factor = tried[0], tried[1] - tried[0]
    # 1e-9 of the largest term: far above float64's roundings, far below what a nonlinear function would differ by.
    tolerance = 1e-9 * (np.abs(rows * factor) + np.abs(shift) + np.abs(factor))
    if not (np.abs(tried[2:] - (rows * factor + shift)) <= tolerance).all():
        raise ValueError(f"{name}: expected a scaler that is affine in each feature, got a {kind} that is not")
    if (factor == 0).any():
        raise ValueError(f"{name}: expected a scaler that keeps every feature, got a {kind} that drops one")
    return -shift / factor, 1.0 / factor


def _fitting(
    scaler: Any, name: str, size: int, matrix: npt.NDArray[Any], stacked: bool
) -> tuple[Float64Array, Float64Array]:
    mean, scale = mean_and_scale(scaler, name)
    shapes: tuple[tuple[int, ...], ...] = ((), (size,), *(((len(matrix), size),) if stacked else ()))
    for part, what in ((mean, "mean"), (scale, "scale")):
        if part.shape not in shapes:
            wanted = " or ".join(str(shape) for shape in shapes[1:])
            raise ValueError(f"{name}: expected {what} of shape {wanted}, got {part.shape}")
    return mean + np.zeros(size), scale + np.zeros(size)  # a number is one for every feature
