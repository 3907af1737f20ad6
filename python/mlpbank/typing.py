"""Types of arguments, for annotations in code that calls mlpbank."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "ActivationName",
    "Dtype",
    "DtypeName",
    "Float32Array",
    "Isa",
    "Key",
    "Layout",
    "Missing",
    "MissingModels",
]

Key = str | int
"""What a bank knows a model by. The keys of one bank are of one type."""

Float32Array = npt.NDArray[np.float32]

DtypeName = Literal["float32", "float16", "bfloat16", "int8"]
Dtype = DtypeName | np.dtype[Any] | type[np.generic]
"""How weights are stored: a name, or NumPy's own dtype of that name."""

Layout = Literal["auto", "panel", "lane"]
"""How weights lie in memory."""

Isa = Literal["avx512", "avx2", "portable"]
"""Instruction sets."""

Missing = Literal["error", "nan", "fallback"]
"""What to do about keys that a bank does not have."""

MissingModels = Literal["error", "nan"]
"""What to do about models by number that have no weights. A fallback is known by its key, so it needs a bank."""

ActivationName = Literal[
    "none",
    "relu",
    "tanh",
    "sigmoid",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
    "softmax",
]
"""The members of `mlpbank.Activation` as plain strings."""
