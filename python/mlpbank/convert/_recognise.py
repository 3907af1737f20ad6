"""Which activation a function is, told by what it computes: exporters and users write the same one in many ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._reference import ACTIVATIONS
from mlpbank.architecture import Activation
from mlpbank.convert._chain import Float64Array

# Dense where activations bend, and far out, so that one that is clipped somewhere is not taken for another.
_POINTS = np.concatenate([np.linspace(-12, 12, 481), [-1e4, -80, -50, -25, 25, 50, 80, 1e4]])
# Far above what float32 arithmetic is off by, far below how much any two activations differ: gelu and gelu_tanh, the
# closest, by 4.7e-4.
_TOLERANCE = 2e-5
_CANDIDATES = {a: f(_POINTS) for a, f in ACTIVATIONS.items() if a is not Activation.SOFTMAX}


def recognise(function: Callable[[Float64Array], npt.NDArray[Any]]) -> Activation | None:
    """Return the activation that a function of an array, (n,) to (n,), is; None if it is none that mlpbank has."""
    try:
        with np.errstate(all="ignore"):
            got = np.asarray(function(_POINTS), np.float64)
    except Exception:  # the user's function; whatever it cannot do, it is no activation
        return None
    if got.shape != _POINTS.shape:
        return None
    # Written with exp, a function may overflow to NaN far out, where nobody uses it.
    judged = np.isfinite(got) | (np.abs(_POINTS) <= 50)
    for activation, expected in _CANDIDATES.items():
        if (np.abs(got - expected) <= _TOLERANCE * np.maximum(1.0, np.abs(expected)))[judged].all():
            return activation
    return None
