"""Tensors, activations and options of PyTorch, for the readers of layers and of traced forwards."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from mlpbank._arrays import as_array
from mlpbank.architecture import Activation
from mlpbank.convert._chain import Activate, Dense, Step, activate, prelu, require, unsupported
from mlpbank.errors import InvalidTypeError, UnsupportedLayerError

# Traced forwards by all that they depend on, so that modules of one class are traced only once.
Plans = dict[Any, Any]


class Chain(list[Step]):
    """Steps, and what is known of the rows after them."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.output = output  # the result to take from the last module
        self.taken = False
        self.is_vector = False  # rows of one feature have lost that dimension

    def row(self) -> tuple[int, ...] | None:
        """Return the shape of a row after the steps, None if it is not known."""
        width = next((s.weight.shape[1] for s in reversed(self) if isinstance(s, Dense)), None)
        return () if self.is_vector else None if width is None else (width,)

    def require_rows(self, where: str, name: str) -> None:
        """Raise if rows have lost the dimension of their features."""
        if self.is_vector:
            raise unsupported(where, f"{name} after a squeeze runs over rows")


_PLAIN = {torch.Tensor, nn.Parameter}
_DTYPES = {torch.float32, torch.float64}


def _is_usual(kind: Any) -> bool:
    """Return whether a class of tensors has the operations of PyTorch unchanged."""
    if kind is torch.Tensor or kind is nn.Parameter:
        return True
    usual = torch.Tensor.__torch_function__.__func__, nn.Parameter.__torch_function__
    function = getattr(kind, "__torch_function__", usual[0])
    dispatch = getattr(kind, "__torch_dispatch__", torch.Tensor.__torch_dispatch__)
    return (
        getattr(function, "__func__", function) in usual
        and dispatch == torch.Tensor.__torch_dispatch__
    )


def to_numpy(tensor: Any, where: str) -> npt.NDArray[Any]:
    """Return the values of a tensor: `as_array` with the errors of a converter."""
    # What nearly all parameters are: this runs for all of all models.
    if type(tensor) in _PLAIN and tensor.dtype in _DTYPES and tensor.layout is torch.strided:
        with contextlib.suppress(
            RuntimeError, TypeError
        ):  # on another device, or no ordinary memory
            return tensor.detach().numpy()  # type: ignore[no-any-return]
    if not _is_usual(type(tensor)):
        raise unsupported(
            where,
            f"{type(tensor).__name__} has a __torch_function__ of its own, which may do anything",
        )
    if not tensor.is_floating_point() and not tensor.is_quantized:
        raise unsupported(where, f"expected floating-point parameters, got {tensor.dtype}")
    try:
        return as_array(tensor, where or "the model")
    except InvalidTypeError as error:  # sparse, on the meta device
        raise UnsupportedLayerError(*error.args) from error


def dense(weight: Any, bias: Any, where: str) -> Dense:
    """Return the step of ``torch.nn.functional.linear``, whose weight is (out, in)."""
    matrix = to_numpy(weight, where).T
    if matrix.ndim != 2:
        raise unsupported(where, f"expected a matrix of weights, got shape {matrix.shape}")
    return Dense(matrix, None if bias is None else to_numpy(bias, where), where)


# The options of each activation in the order of the function's arguments, with its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "clamp": {"min": None, "max": None},
    "clamp_min": {"min": None},
    "clamp_max": {"max": None},
    "prelu": {"weight": None},
    "gelu": {"approximate": "none"},
    "softplus": {"beta": 1, "threshold": 20},
    "softmax": {"dim": None},
}
# What mlpbank calls the numbers among them, and the functions that it knows by another name.
_PARAMETERS = {
    "negative_slope": "alpha",
    "alpha": "alpha",
    "min_val": "low",
    "max_val": "high",
    "min": "low",
    "max": "high",
}
_CLIPS = {"hardtanh", "clamp", "clamp_min", "clamp_max"}
# The supported values. The features of rows are in dimension 1, the last, which None means too.
_ALLOWED: dict[str, dict[str, tuple[Any, ...]]] = {
    "softplus": {"beta": (1.0,), "threshold": (20.0,)},
    "softmax": {"dim": (-1, 1, None)},
}


def activation(name: str, options: Mapping[str, Any], where: str) -> Activate:
    """Return the step of an activation with these options."""
    for option, allowed in _ALLOWED.get(name, {}).items():
        require(where, name, option, options[option], allowed)
    if name == "gelu":
        require(where, name, "approximate", options["approximate"], ("none", "tanh"))
        if options["approximate"] == "tanh":
            name = "gelu_tanh"
    if name == "prelu":
        return prelu(to_numpy(options["weight"], where), where)
    parameters = {
        _PARAMETERS[option]: _number(value, f"{name}: {option}", where)
        for option, value in options.items()
        if option in _PARAMETERS and value is not None
    }
    return activate(Activation("clip" if name in _CLIPS else name), where, **parameters)


def _number(value: Any, what: str, where: str) -> float:
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise unsupported(where, f"{what}: expected one number, got {value!r:.80}")
    return float(value)


def require_flat(start: int, end: int, where: str) -> None:
    """Raise if a flatten changes more than the features of a row."""
    if start != 1 or end not in (-1, 1):
        raise unsupported(
            where, f"expected Flatten from dimension 1 to the last, got {start} to {end}"
        )
