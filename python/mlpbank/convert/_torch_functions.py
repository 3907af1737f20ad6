"""The functions and methods of PyTorch that a forward may call, and what each means."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.nn import functional as F

# Operations that change no number where they only give rows another shape, or run over dimensions
# of one element. So a row of one feature may lose its dimension, and get it back.
_SHAPING: tuple[Any, ...] = (
    torch.flatten,
    torch.squeeze,
    torch.unsqueeze,
    torch.reshape,
    torch.ravel,
)


_SHAPING += (torch.select, torch.narrow, torch.mean, torch.sum, torch.amax, torch.amin)


_SHAPING += (torch.atleast_2d, torch.cat, torch.unbind, torch.chunk, torch.split)


_SHAPING += (operator.getitem,)


ONE_OF_ONE = {"cat", "atleast_2d"}


RESHAPES = {function.__name__ for function in _SHAPING} | {"view", "view_as", "reshape_as"}


RESHAPES |= {"unflatten"}


FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), "relu"),
    **dict.fromkeys((F.tanh, torch.tanh), "tanh"),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.special.expit), "sigmoid"),
    **dict.fromkeys((F.softmax, torch.softmax), "softmax"),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), "add"),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract), "sub"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply), "mul"),
    **dict.fromkeys(
        (operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide), "div"
    ),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.mm), "matmul"),
    F.leaky_relu: "leaky_relu",
    F.elu: "elu",
    F.gelu: "gelu",
    F.silu: "silu",
    F.softplus: "softplus",
    **dict.fromkeys((F.celu, F.celu_, torch.celu, torch.celu_), "celu"),
    **dict.fromkeys((F.selu, F.selu_, torch.selu, torch.selu_), "selu"),
    F.mish: "mish",
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    F.relu6: "relu6",
    **dict.fromkeys((F.hardtanh, F.hardtanh_), "hardtanh"),
    F.softsign: "softsign",
    **dict.fromkeys((torch.clamp, torch.clamp_, torch.clip, torch.clip_), "clamp"),
    torch.clamp_min: "clamp_min",
    torch.clamp_max: "clamp_max",
    **dict.fromkeys((torch.exp, torch.exp_), "exp"),
    **dict.fromkeys((torch.expm1, torch.expm1_, torch.special.expm1), "expm1"),
    **dict.fromkeys((F.prelu, torch.prelu), "prelu"),
    F.dropout: "dropout",
    F.linear: "linear",
    **{function: function.__name__ for function in _SHAPING},
    torch.rsub: "rsub",
    torch.concat: "cat",
    operator.neg: "neg",
    torch.neg: "neg",
    torch.negative: "neg",
    torch.clone: "nothing",
    torch.detach: "nothing",
}


METHODS = {
    **{
        name: name
        for name in (
            "relu",
            "tanh",
            "sigmoid",
            "softmax",
            "add",
            "sub",
            "mul",
            "div",
            "matmul",
            "neg",
        )
    },
    **{name: name for name in RESHAPES if name not in ("getitem", "cat")},
    **dict.fromkeys(
        ("contiguous", "clone", "detach", "float", "double", "to", "type", "type_as", "cpu"),
        "nothing",
    ),
    **{f"{name}_": name for name in ("relu", "tanh", "sigmoid", "add", "sub", "mul", "div")},
    **{name: name for name in ("exp", "expm1", "clamp_min", "clamp_max")},
    **{f"{name}_": name for name in ("exp", "expm1", "clamp_min", "clamp_max")},
    **dict.fromkeys(("clamp", "clamp_", "clip", "clip_"), "clamp"),
    "prelu": "prelu",
}


ACTIVATIONS = {
    "relu",
    "tanh",
    "sigmoid",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "softplus",
    "celu",
    "selu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "relu6",
    "hardtanh",
    "softsign",
    "clamp",
    "clamp_min",
    "clamp_max",
    "exp",
    "expm1",
    "prelu",
    "softmax",
}


ARITHMETIC = {"add", "sub", "rsub", "mul", "div"}
