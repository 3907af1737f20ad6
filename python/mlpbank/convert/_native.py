"""Weights in mlpbank's form: ``"layer_<i>"`` and ``"layer_<i>.bias"`` of one model or stacked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlpbank._arrays import as_float32, transposed
from mlpbank.architecture import Activation, Architecture, array_shapes
from mlpbank.convert import _shift
from mlpbank.convert._layers import Layer
from mlpbank.errors import InvalidValueError, UnknownKeyError
from mlpbank.typing import Float32Array

_KEY = re.compile(r"layer_\d+(\.bias|\.slope)?|input_shift")
_LAYOUTS = ("in_out", "out_in")


def is_native(model: Any) -> bool:
    """Return whether a model is in mlpbank's form. With mappings as values it is a tree instead."""
    return isinstance(model, Mapping) and all(
        isinstance(key, str) and _KEY.fullmatch(key) and not isinstance(value, Mapping)
        for key, value in model.items()
    )


def native_layers(weights: Mapping[str, Any], architecture: Architecture) -> list[Layer]:
    """Return the layers of one model."""
    arrays, _ = unflattened(weights, architecture, stacked=False)
    layers = [
        Layer(
            arrays[f"layer_{i}"],
            arrays[f"layer_{i}.bias"],
            spec.activation,
            tuple(spec.parameters.values()),
            arrays.get(f"layer_{i}.slope"),
        )
        for i, spec in enumerate(architecture.layers)
    ]
    shift = _shift.of_weights(weights, architecture.input_size)
    if shift is not None:
        layers[0] = _shift.taking(layers[0], shift)
    return layers


def unflattened(
    weights: Mapping[str, Any], architecture: Architecture, stacked: bool | None = None
) -> tuple[dict[str, Float32Array], bool]:
    """Return all arrays in full shape, with zeros for missing biases, and whether they are stacked.

    Parameters
    ----------
    weights : mapping of str to array
        Of one model or stacked. Matrices may be flat; biases are optional.
    architecture : Architecture
    stacked : bool, optional
        Whether they are stacked. By default the first matrix tells it.

    Raises
    ------
    KeyError, TypeError, ValueError
        As for `BatchedWeights.load`.
    """
    layers = architecture.layers
    known = array_shapes(architecture)
    if unknown := [key for key in weights if key not in known and key != _shift.KEY]:
        raise UnknownKeyError(
            f"weights: unknown key {unknown[0]!r}, expected those of {len(layers)} layers"
        )
    arrays: dict[str, Float32Array] = {}
    batch: tuple[int, ...] = ()
    for i, layer in enumerate(layers):
        name = f"layer_{i}"
        if name not in weights:
            raise UnknownKeyError(f"weights: missing key {name!r}")
        matrix = as_float32(weights[name], name)
        size = (layer.input_size, layer.output_size)
        if i == 0:
            if stacked is None:  # one model's matrix is (in, out) or flat
                stacked = matrix.shape not in (size, (size[0] * size[1],))
            batch = matrix.shape[:1] if stacked else ()
        shapes = ((*batch, *size), (*batch, size[0] * size[1]))
        if matrix.shape not in shapes:
            raise InvalidValueError(
                f"{name}: expected shape {' or '.join(map(str, shapes))}, got {matrix.shape}"
                f"{transposed(matrix, shapes)}"
            )
        arrays[name] = matrix.reshape(*batch, *size)
        name = f"{name}.bias"
        shape = (*batch, layer.output_size)
        bias = as_float32(weights[name], name) if name in weights else np.zeros(shape, np.float32)
        if stacked and bias.shape == (*batch, 1, layer.output_size):  # layers of ensembles
            bias = bias.reshape(shape)
        if bias.shape != shape:
            raise InvalidValueError(f"{name}: expected shape {shape}, got {bias.shape}")
        arrays[name] = bias
        if layer.activation is Activation.PRELU:
            name = f"layer_{i}.slope"
            if name not in weights:
                raise UnknownKeyError(f"weights: missing key {name!r}, which 'prelu' has")
            slope = as_float32(weights[name], name)
            if slope.shape not in (batch, (*batch, 1)):
                raise InvalidValueError(
                    f"{name}: expected shape {batch} or {(*batch, 1)}, got {slope.shape}"
                )
            arrays[name] = slope.reshape(batch)
    return arrays, bool(stacked)


def check_layout(weight_layout: str | None) -> None:
    """Raise ValueError if `weight_layout` is no orientation of matrices."""
    if weight_layout not in _LAYOUTS:
        raise InvalidValueError(
            f"weight_layout: expected 'in_out' or 'out_in', got {weight_layout!r}"
        )
