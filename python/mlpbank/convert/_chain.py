"""The chain of steps that every converter makes of a model.

Folding computes in float64 and rounds to float32 once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank.architecture import Activation, parameters_of
from mlpbank.errors import InvalidTypeError, InvalidValueError, UnsupportedLayerError
from mlpbank.typing import Float64Array

FloatArray = npt.NDArray[np.floating[Any]]


def unsupported(where: str, what: str) -> UnsupportedLayerError:
    """Return the error for the part at `where` ("" for the model itself)."""
    return UnsupportedLayerError(f"{where}: {what}" if where else what)


def join(where: str, name: str) -> str:
    """Return the place of the part `name` within the part at `where`."""
    return f"{where}.{name}" if where else name


def require(where: str, layer: str, option: str, got: Any, allowed: tuple[Any, ...]) -> None:
    """Raise if an option of a layer has a value that mlpbank does not support."""
    if not any(got is value if value is None else got == value for value in allowed):
        raise unsupported(
            where, f"{layer}: expected {option} {' or '.join(map(repr, allowed))}, got {got!r}"
        )


# NamedTuples and not dataclasses, because thousands of models are read and these are made faster.
class Dense(NamedTuple):
    """``x @ weight + bias``, where weight is (in, out)."""

    weight: FloatArray
    bias: FloatArray | None
    where: str


class Activate(NamedTuple):
    """An activation with all its parameters in order; see `activate`. prelu has a slope too."""

    activation: Activation
    where: str
    parameters: tuple[float, ...] = ()
    slope: FloatArray | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the function in float64 takes behind x."""
        return self.parameters if self.slope is None else (self.slope,)


class Affine(NamedTuple):
    """``x * scale + shift``, element by element. Each is one number or one for each feature."""

    scale: Float64Array
    shift: Float64Array
    where: str


Step = Dense | Activate | Affine


def activate(activation: Activation, where: str, **parameters: Any) -> Activate:
    """Return the step of an activation; parameters that are not given have their defaults.

    Where two names mean the same, there is one that all converters use: ``relu`` for a clip at 0,
    ``relu6`` for one to 0 and 6, ``relu`` for a slope of 0.

    Raises
    ------
    UnsupportedLayerError
        mlpbank does not have the activation with these parameters.
    """
    if activation is Activation.CLIP:
        bounds = (float(parameters.get("low", -np.inf)), float(parameters.get("high", np.inf)))
        name = _CLIPS.get(bounds)
        if name is not None:
            return Activate(name, where)
    try:
        values = parameters_of(activation, parameters)
    except (InvalidValueError, InvalidTypeError) as error:
        raise unsupported(where, str(error.args[0])) from None
    if activation is Activation.LEAKY_RELU and values == (0.0,):
        return Activate(Activation.RELU, where)
    return Activate(activation, where, values)


_CLIPS = {
    (0.0, np.inf): Activation.RELU,
    (0.0, 6.0): Activation.RELU6,
    (-np.inf, np.inf): Activation.NONE,
}


def prelu(slope: FloatArray, where: str) -> Activate:
    """Return the step of a leaky relu with a learned slope.

    Raises
    ------
    UnsupportedLayerError
        There are several slopes, and they differ.
    """
    if slope.size == 0 or (slope != slope.flat[0]).any():
        raise unsupported(
            where,
            f"expected one slope for all outputs, got {slope.size} that differ; mlpbank has prelu "
            "with one slope for each layer",
        )
    return Activate(Activation.PRELU, where, (), slope.reshape(-1)[0:1].reshape(()))


def affine(scale: npt.ArrayLike, shift: npt.ArrayLike, where: str) -> Affine:
    """Return the step in float64."""
    return Affine(np.asarray(scale, np.float64), np.asarray(shift, np.float64), where)


def batch_norm(
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    gamma: npt.ArrayLike | None,
    beta: npt.ArrayLike | None,
    epsilon: float,
    where: str,
) -> Affine:
    """Return ``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` as one step."""
    scale = 1.0 / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    if gamma is not None:
        scale = scale * np.asarray(gamma, np.float64)
    shift = -np.asarray(mean, np.float64) * scale
    if beta is not None:
        shift = shift + np.asarray(beta, np.float64)
    return Affine(scale, shift, where)
