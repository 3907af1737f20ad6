"""What the operation means: the forward of one model in plain NumPy and float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._activations import Float64Array, activated
from mlpbank.architecture import Architecture


def forward(
    architecture: Architecture, weights: Mapping[str, Any], x: npt.ArrayLike
) -> Float64Array:
    """Return one model's outputs in float64.

    Parameters
    ----------
    architecture : Architecture
        The model's layers.
    weights : mapping of str to array
        ``"layer_<N>"`` (input_size, output_size) and perhaps ``"layer_<N>.bias"``.
    x : array_like
        (rows, input_size) or (input_size,).

    Returns
    -------
    float64 array
        (rows, output_size) or (output_size,).
    """
    y = np.asarray(x, np.float64)
    for i, layer in enumerate(architecture.layers):
        matrix = np.asarray(weights[f"layer_{i}"], np.float64).reshape(
            layer.input_size, layer.output_size
        )
        bias = np.asarray(weights.get(f"layer_{i}.bias", 0.0), np.float64)
        y = activated(layer, y @ matrix + bias, weights.get(f"layer_{i}.slope"))
    return y
