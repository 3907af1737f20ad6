"""The input shift: what a bank subtracts from rows, in float64, before they become float32.

A scaler ``(x - mean) / scale`` that is folded into weights makes them compute ``x @ w - mean @ w``.
Both terms are about ``mean / scale`` times as large as their difference, and float32 keeps 24 bits
of them: the difference is off by ``2**-24 * mean / scale``. With rows that are ``x - shift``, only
``(mean - shift) / scale`` counts. A weights mapping has its shift under ``"input_shift"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlpbank._arrays import as_shift
from mlpbank.convert._chain import Affine
from mlpbank.convert._layers import Layer, with_affine
from mlpbank.errors import InvalidValueError
from mlpbank.typing import Float64Array

KEY = "input_shift"
# Means of more scales than this are off by more than 2**-17, which is 0.8e-5.
LIMIT = 128.0
# A float32 bank has a shift from here on. Predictions are off by 2e-6 there. Other dtypes round
# weights so much that every mean counts.
BANK_LIMIT = 32.0
ROUGH_BANK_LIMIT = 1.0

# Returns the shift of models whose inputs become ``x * scale + offset``, each (models, in). None,
# None is a model that takes x as it is.
Decide = Callable[[Float64Array | None, Float64Array | None], Float64Array | None]
# Names model i in messages.
Name = Callable[[int], str]


def where_needed(limit: float) -> Decide:
    """Return the choice of a shift where a mean is more than `limit` times its scale."""

    def decide(scale: Float64Array | None, offset: Float64Array | None) -> Float64Array | None:
        return None if scale is None or offset is None else _chosen(scale, offset, limit)

    return decide


def _chosen(scale: Float64Array, offset: Float64Array, limit: float) -> Float64Array | None:
    counts = _counts(scale, offset)
    needed = (counts & (np.abs(offset) > limit)).any(axis=0)
    if not needed.any():
        return None
    shift = np.zeros(len(needed))
    for i in np.flatnonzero(needed):
        of = counts[:, i]
        shift[i] = _centre(-offset[of, i] / scale[of, i], np.abs(scale[of, i]), limit)
    return shift


def _counts(scale: Float64Array, offset: Float64Array) -> Any:
    """Return which features have a mean: a scale of 0 makes them a constant."""
    return (scale != 0) & np.isfinite(scale) & np.isfinite(offset)


def _centre(means: Float64Array, scale: Float64Array, limit: float) -> float:
    """Return the median of means, or what is nearest to all of them if that is too far from one.

    Where nothing is near enough, the median again: then `check` names a model that is far out.
    """
    centre = median = float(np.median(means))
    most = float((np.abs(means - centre) * scale).max())
    if most <= limit:
        return centre
    least = 0.0
    for _ in range(60):  # bisection: intervals of this radius around the means have a common point
        radius = (least + most) / 2
        left, right = (means - radius / scale).max(), (means + radius / scale).min()
        if left <= right:
            most, centre = radius, float((left + right) / 2)
        else:
            least = radius
    return centre if most <= LIMIT else median


def check(
    scale: Float64Array,
    offset: Float64Array,
    shift: Float64Array | None,
    name: Name,
    features: Sequence[str] | None = None,
) -> None:
    """Raise where a mean is too far from the shift for float32. `features` are names, if known.

    Raises
    ------
    ValueError
        The message names model and feature, the figures, the likely cause and the way out.
    """
    left = np.abs(offset if shift is None else offset + shift * scale)
    left = np.where(_counts(scale, offset), left, 0.0)
    if not (left > LIMIT).any():
        return
    model, feature = map(int, np.unravel_index(np.argmax(left), left.shape))
    counts = _counts(scale[model], offset[model])
    means = np.divide(-offset[model], scale[model], out=np.zeros(len(counts)), where=counts)
    subtracted = np.zeros(len(means)) if shift is None else shift

    def called(i: int) -> str:
        return f"feature {i}" if features is None else f"feature {features[i]!r} (number {i})"

    way_out = _way_out(means, scale[model], subtracted, feature, called)
    raise InvalidValueError(
        f"{name(model)}input {called(feature)} has mean {means[feature]:.10g} and scale "
        f"{1 / abs(scale[model, feature]):.4g}. The bank subtracts {subtracted[feature]:.10g} from "
        f"it (input_shift), so the mean is {left[model, feature]:.4g} scales away; beyond "
        f"{LIMIT:g} float32 loses digits. {way_out}"
    )


def _way_out(
    means: Float64Array, scale: Float64Array, shift: Float64Array, i: int, called: Name
) -> str:
    """Return the likely cause of a mean that is too far from the shift, and what to do."""
    fits = np.abs(means[:, None] - shift) * np.abs(scale)[:, None] <= LIMIT
    for j in np.flatnonzero(fits[i]).tolist():
        if fits[j, i]:
            return (
                f"As {called(j)} it would fit: give the model its columns in the bank's order, if "
                "it was trained with another"
            )
    if abs(scale[i]) == 1:
        return (
            "Scalers give scale 1 to a feature that is constant in the rows of its model: leave "
            "such a feature out, or scale it alike for all models"
        )
    return "Make a bank of its own for it, with an input_shift near this mean, or scale x yourself"


def folded(
    layers: list[Layer], decide: Decide, features: Sequence[str] | None = None
) -> tuple[list[Layer], Float64Array | None]:
    """Return layers that take ``x - shift`` and have nothing before the first, and that shift."""
    first, *others = layers
    before = first.before
    if before is None:
        shift = decide(None, None)
    else:
        scale, offset = before.scale[None], before.shift[None]
        shift = decide(scale, offset)
        check(scale, offset, shift, lambda _: "", features)
    return [with_shift(first, shift), *others], shift


def with_shift(layer: Layer, shift: Float64Array | None) -> Layer:
    """Return a first layer that takes ``x - shift`` and has nothing before it."""
    before = layer.before
    if before is None:
        if shift is None:
            return layer
        scale, offset = None, shift
    else:
        scale = before.scale
        offset = before.shift if shift is None else before.shift + shift * scale
    weight, bias = with_affine(layer.weight, layer.bias, scale, offset)
    return layer._replace(weight=weight, bias=bias, before=None)


def of_weights(weights: Mapping[str, Any], size: int) -> Float64Array | None:
    """Return the shift of a weights mapping."""
    given = weights.get(KEY)
    return None if given is None else as_shift(given, size)


def figures_of(matrix: Any, shift: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return scale and offset of weights that take ``x - shift`` and whose scale is not known.

    Parameters
    ----------
    matrix : array (models, in, out)
        The largest weight of a feature, as a power of two, stands for one over its scale.
    shift : float64 array (in,)
    """
    largest = np.abs(np.asarray(matrix, np.float64)).max(axis=-1)
    scale = np.ldexp(1.0, np.frexp(np.where(np.isfinite(largest), largest, 1.0))[1] - 1)
    return scale, -shift * scale


def taking(layer: Layer, shift: Float64Array) -> Layer:
    """Return a first layer that takes x where the given one takes ``x - shift``."""
    scale, offset = figures_of(layer.weight[None], shift)
    # The weights are divided by what `before` multiplies, powers of two, so no digit changes.
    weight = layer.weight.astype(np.float64) / scale[0][:, None]
    return layer._replace(weight=weight, before=Affine(scale[0], offset[0], KEY))
