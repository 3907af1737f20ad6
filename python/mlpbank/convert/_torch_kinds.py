"""What a traced forward depends on, so that modules of one kind are traced only once."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mlpbank.convert._torch_mode import has_usual_train
from mlpbank.errors import MlpbankError

# Attributes of every module. The values of all others may change what a forward computes.
_COMMON = frozenset(nn.Module().__dict__)
_PLAIN = (
    int,
    float,
    str,
    bool,
    type(None),
    type,
    torch.dtype,
    types.FunctionType,
    types.BuiltinFunctionType,
)


class _Untold(MlpbankError, ValueError):
    """It is unknown what a traced forward depends on."""


def fingerprint(module: Any) -> Any:
    """Return all that a traced forward depends on, hashable, or None if that is unknown."""
    # Shared layers and tensors by id, because a trace names the first occurrence.
    seen: dict[int, int] = {}
    try:
        return _parts(module, seen)
    except _Untold:
        return None


def _parts(module: Any, seen: dict[int, int]) -> Any:
    if module is None:
        return None
    kind = type(module)
    if module._forward_hooks or module._forward_pre_hooks:
        raise _Untold
    if module.training and not has_usual_train(module):
        raise _Untold
    parts: list[Any] = [kind, kind.forward, seen.setdefault(id(module), len(seen))]
    parts += [
        (name, _value_parts(value))
        for name, value in module.__dict__.items()
        if name not in _COMMON
    ]
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if is_lazy(tensor):
                raise _Untold
            is_same = seen.setdefault(id(tensor), len(seen))
            parts.append((name, None if tensor is None else (tensor.shape, tensor.dtype, is_same)))
    parts += [(name, _parts(child, seen)) for name, child in module._modules.items()]
    return tuple(parts)


def _value_parts(value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value), tuple(map(_value_parts, value))
    if not isinstance(value, _PLAIN):
        raise _Untold
    return type(value), value
