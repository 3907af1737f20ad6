"""Types of arguments, for annotations in code that uses mlpbank."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "ActivationName",
    "Dtype",
    "DtypeName",
    "Float32Array",
    "Float64Array",
    "Int64Array",
    "Isa",
    "Key",
    "Layout",
    "Missing",
    "MissingModels",
    "Refresh",
    "Sync",
    "Weights",
]

Key = str | int | tuple[str | int, ...]
"""The name of a model in a bank. All keys of one bank are of one type, parts of tuples included."""

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

Weights = dict[str, Float32Array | Float64Array]
"""Arrays of one model or stacked. All are float32 but ``"input_shift"``, which is float64."""

DtypeName = Literal["float32", "float16", "bfloat16", "int8"]
Dtype = DtypeName | np.dtype[Any] | type[np.generic]
"""How weights are stored: a name, or NumPy's dtype of that name."""

Layout = Literal["auto", "panel", "lane"]
"""How weights lie in memory."""

Isa = Literal["avx512", "avx2", "neon", "portable"]
"""Instruction sets."""

Missing = Literal["error", "nan", "fallback"]
"""What to do about keys that are not in a bank."""

MissingModels = Literal["error", "nan"]
"""What to do about numbered models without weights. Only a bank can have a fallback."""

Sync = Literal["commit", "interval", "off"]
"""What a change of a live bank waits for."""

Refresh = Literal["call", "manual"]
"""When a live bank takes over changes."""

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
    "celu",
    "selu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "relu6",
    "clip",
    "softsign",
    "exp",
    "expm1",
    "prelu",
    "softmax",
]
"""The members of `mlpbank.Activation` as plain strings."""
