"""Operations of PyTorch that give rows another shape, and layers that need one."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from mlpbank.convert._chain import unsupported
from mlpbank.convert._torch_trace import ROWS
from mlpbank.convert._torch_tracer import inner

_REDUCE = {"mean", "sum", "amax", "amin"}


def is_reshape(module: Any, before: Any, after: Any) -> bool:
    """Return whether a layer only gives rows another shape."""
    if type(module) not in (nn.Flatten, nn.Unflatten) or None in (before, after):
        return False
    return bool(after[0] == ROWS)


def require_rows(module: Any, shape: Any, where: str) -> None:
    """Raise if a layer does not run over all features of each row. Others go feature by feature."""
    layer = inner(module)
    if shape is None or not (isinstance(layer, _ROW_BY_ROW) or layer is not module):
        return
    if shape == (ROWS,) or shape[1:] == (math.prod(shape[1:]),):  # readers know of the first
        return
    if isinstance(layer, (nn.BatchNorm1d, nn.Softmax)) or shape[-1] != math.prod(shape[1:]):
        name = type(layer).__name__
        raise unsupported(where, f"{name} runs over a part of a row, which is {words(shape)} here")


_ROW_BY_ROW = (nn.Linear, nn.BatchNorm1d, nn.Softmax)


def words(shape: tuple[int, ...]) -> str:
    """Return a shape for messages."""
    sizes = [
        str(size) if size == 0 or size % ROWS else "n" if size == ROWS else f"{size // ROWS} n"
        for size in shape
    ]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def reshape(name: str, node: Any, shape: Any, after: Any, where: str) -> None:
    """Raise if an operation does more than give each row another shape."""
    if name == "getitem" and not _is_plain_index(node.args[1]):
        raise unsupported(where, "an index by numbers or by a tensor is not supported")
    if math.prod(shape) != math.prod(after):
        what = (
            "computes one number of several" if name in _REDUCE else "takes a part of the results"
        )
        raise unsupported(
            where,
            f"{node_name(node)} {what}, which no layer does; leave it out of the model, and apply "
            "it to what the bank predicts",
        )
    if not after or after[0] != ROWS:
        raise unsupported(
            where,
            f"{node_name(node)} makes {words(after)} of {words(shape)}, so rows do not stay rows; "
            "only rows of one number may lose a dimension",
        )


def _is_plain_index(index: Any) -> bool:
    parts = index if isinstance(index, (tuple, list)) else (index,)
    return all(part is None or part is ... or type(part) in (int, slice) for part in parts)


def node_name(node: Any) -> str:
    """Return the name of the operation of a node."""
    target = node.target
    if target is getattr:
        return str(node.args[1])
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
