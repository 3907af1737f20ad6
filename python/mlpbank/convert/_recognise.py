"""A check with numbers that a function is the activation which its expression says.

The check can only refuse: a function that agrees at all points may differ between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._activations import ACTIVATIONS
from mlpbank.convert._chain import Activate, Float64Array

# Dense where activations bend, and far out.
_POINTS = np.concatenate([np.linspace(-12, 12, 481), [-1e4, -80, -50, -25, 25, 50, 80, 1e4]])
# Far above the error of float32 arithmetic, far below the difference of any two activations. The
# closest two, gelu and gelu_tanh, differ by 4.7e-4.
_TOLERANCE = 2e-5
_LARGEST = 3e38  # of the results that are compared; a function may compute in float32


def agrees(function: Callable[[Float64Array], npt.NDArray[Any]], activation: Activate) -> bool:
    """Return whether a function of an array, (n,) to (n,), is near an activation at all points."""
    with np.errstate(all="ignore"):
        expected = ACTIVATIONS[activation.activation](_POINTS, *activation.arguments)
    try:
        with np.errstate(all="ignore"):
            got = np.asarray(function(_POINTS), np.float64)
    except Exception:  # a function that fails for any reason is no activation
        return False
    if got.shape != _POINTS.shape:
        return False
    # A function written with exp may overflow to NaN far out, which no model reaches.
    judged = (np.isfinite(got) | (np.abs(_POINTS) <= 50)) & (np.abs(expected) < _LARGEST)
    with np.errstate(invalid="ignore"):
        near = np.abs(got - expected) <= _TOLERANCE * np.maximum(1.0, np.abs(expected))
    return bool(near[judged].all())
