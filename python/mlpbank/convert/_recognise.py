"""Whether a function computes an activation that it is taken for: what its parts say is checked with numbers.

Numbers can only ever refuse. A function that agrees with an activation on all of these may differ
on the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._activations import ACTIVATIONS
from mlpbank.architecture import Activation
from mlpbank.convert._chain import Float64Array

# Dense where activations bend, and far out.
_POINTS = np.concatenate([np.linspace(-12, 12, 481), [-1e4, -80, -50, -25, 25, 50, 80, 1e4]])
# Far above what float32 arithmetic is off by, far below how much any two activations differ: gelu
# and gelu_tanh, the closest, by 4.7e-4.
_TOLERANCE = 2e-5


def agrees(function: Callable[[Float64Array], npt.NDArray[Any]], activation: Activation) -> bool:
    """Return whether a function of an array, (n,) to (n,), computes an activation as far as numbers tell."""
    expected = ACTIVATIONS[activation](_POINTS)
    try:
        with np.errstate(all="ignore"):
            got = np.asarray(function(_POINTS), np.float64)
    except Exception:  # whatever a function cannot do, it is no activation
        return False
    if got.shape != _POINTS.shape:
        return False
    # Written with exp, a function may overflow to NaN far out, where nobody uses it.
    judged = np.isfinite(got) | (np.abs(_POINTS) <= 50)
    return bool(
        (np.abs(got - expected) <= _TOLERANCE * np.maximum(1.0, np.abs(expected)))[judged].all()
    )
