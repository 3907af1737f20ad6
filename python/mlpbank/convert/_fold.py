"""Folds the steps of a model into layers.

That computes in float64 and rounds to float32 once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlpbank.architecture import PARAMETERS, Activation
from mlpbank.convert._chain import Affine, Dense, FloatArray, Step, unsupported
from mlpbank.convert._columns import Select, spread
from mlpbank.convert._layers import Layer, with_affine
from mlpbank.errors import UnsupportedLayerError


def fold(steps: Iterable[Step | Select]) -> list[Layer]:
    """Return layers that compute the same as the steps.

    An affine step is folded into the layer before it if that has no activation yet, else into the
    layer after it. Where neither is there, as after the last activation or between two activations,
    it becomes a diagonal layer of its own. So does an activation that follows another, or that
    comes before the first layer. An affine step before all layers is kept in the first one's
    `before`. A selection of columns, which stands first, makes the first layer take all columns.

    Raises
    ------
    UnsupportedLayerError
        The steps form no layers of mlpbank.
    """
    chain = list(steps)
    first = next((step for step in chain if isinstance(step, Dense)), None)
    if first is None:
        raise UnsupportedLayerError("expected at least one dense layer, got none")
    inputs = first.weight.shape[0]
    select = chain.pop(0) if isinstance(chain[0], Select) else None
    layers: list[Layer] = []
    pending: Affine | None = None
    for step in chain:
        if isinstance(step, Dense):
            layers.append(_dense(step, pending, layers))
            pending = None
        elif isinstance(step, Affine):
            last = layers[-1] if layers else None
            if last is not None and last.activation is Activation.NONE:
                layers[-1] = _scale_outputs(last, step)
            else:
                if last is not None:
                    _require_no_softmax(last, step.where)
                pending = step if pending is None else _compose(pending, step)
        elif isinstance(step, Select):
            raise unsupported(step.where, "picks columns of results; it has to be the first step")
        elif step.activation is not Activation.NONE:
            last = layers[-1] if layers else None
            if pending is not None or last is None or last.activation is not Activation.NONE:
                _append_diagonal(layers, inputs, pending, step.where)
                pending = None
            # Activations made without parameters have the defaults.
            values = step.parameters or tuple(PARAMETERS.get(step.activation, {}).values())
            layers[-1] = layers[-1]._replace(
                activation=step.activation, parameters=values, slope=step.slope
            )
    if pending is not None:
        _append_diagonal(layers, inputs, pending, pending.where)
    if isinstance(select, Select):
        layers[0] = _selecting(layers[0], select)
    return layers


def _selecting(layer: Layer, select: Select) -> Layer:
    if len(layer.weight) != len(select.columns):
        raise unsupported(
            select.where, f"picks {len(select.columns)} columns for {len(layer.weight)} inputs"
        )
    before = layer.before
    scale, shift = (None, None) if before is None else (before.scale, before.shift)
    weight, bias, scale, shift = spread(layer.weight, layer.bias, scale, shift, select)
    if scale is not None and shift is not None:
        before = Affine(scale, shift, select.where)
    return layer._replace(weight=weight, bias=bias, before=before)


def _append_diagonal(layers: list[Layer], inputs: int, step: Affine | None, where: str) -> None:
    """Append the layer of an affine step, or of none, that changes each feature by itself."""
    size = inputs
    if layers:
        _require_no_softmax(layers[-1], where)
        size = layers[-1].weight.shape[1]
    one = Layer(np.eye(size, dtype=np.float32), None, Activation.NONE)
    if step is None:
        layers.append(one)
        return
    scale = _per_feature(step.scale, size, step.where)
    shift = _per_feature(step.shift, size, step.where)
    if layers:
        layers.append(one._replace(weight=np.diag(scale), bias=shift))
    else:
        layers.append(one._replace(before=Affine(scale, shift, step.where)))


def _require_no_softmax(layer: Layer, where: str) -> None:
    if layer.activation is Activation.SOFTMAX:
        raise unsupported(
            where,
            "stands after a softmax, which can be the last step only; "
            "convert the model without what follows it, and apply that to the results",
        )


def _dense(step: Dense, pending: Affine | None, layers: list[Layer]) -> Layer:
    weight, bias = step.weight, step.bias
    if bias is not None and bias.shape != weight.shape[1:]:
        bias = _per_feature(bias, weight.shape[1], step.where)
    if layers:
        before = layers[-1]
        _require_no_softmax(before, step.where)
        if before.weight.shape[1] != weight.shape[0]:
            raise unsupported(
                step.where, f"expected {before.weight.shape[1]} inputs, got {weight.shape[0]}"
            )
    if pending is None:
        return Layer(weight, bias, Activation.NONE)
    scale, shift = (
        _per_feature(values, weight.shape[0], pending.where)
        for values in (pending.scale, pending.shift)
    )
    if not layers:
        return Layer(weight, bias, Activation.NONE, before=Affine(scale, shift, pending.where))
    return Layer(*with_affine(weight, bias, scale, shift), Activation.NONE)


def _scale_outputs(layer: Layer, step: Affine) -> Layer:
    size = layer.weight.shape[1]
    scale, shift = (
        _per_feature(step.scale, size, step.where),
        _per_feature(step.shift, size, step.where),
    )
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return layer._replace(weight=layer.weight * scale, bias=bias)


def _compose(first: Affine, then: Affine) -> Affine:
    return Affine(first.scale * then.scale, first.shift * then.scale + then.shift, then.where)


def _per_feature(values: FloatArray, size: int, where: str) -> Any:
    if values.shape not in ((), (1,), (size,)):
        raise unsupported(
            where, f"expected one value for each of {size} features, got shape {values.shape}"
        )
    return np.broadcast_to(values, (size,))
