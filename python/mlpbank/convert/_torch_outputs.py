"""One result of a PyTorch forward that returns several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from mlpbank.convert._chain import unsupported


def picked(result: Any, output: Any, where: str, name: str) -> Any:
    """Return the result with this name or number, of a forward of the class `name`.

    Raises
    ------
    UnsupportedLayerError
        There is no such result, or there are several and none is named.
    """
    if _is_tensor(result):
        if output is not None:
            raise unsupported(
                where, f"output={output!r}: the forward of {name} has one result; leave output out"
            )
        return result
    named = _named(result)
    if named is None:
        raise unsupported(
            where,
            f"the forward of {name} returns {_kind(result)}; expected a tensor, or several in a "
            "dict, tuple or dataclass",
        )
    if output is None:
        if len(named) == 1:
            ((output, _),) = named.items()
        else:
            choices = ", ".join(map(repr, named)) or "none"
            raise unsupported(
                where,
                f"the forward of {name} returns several results ({choices}); "
                "name the one to take with output=",
            )
    if isinstance(output, int) and isinstance(result, (tuple, list)):
        if not -len(result) <= output < len(result):
            raise _unknown(output, named, where, name)
        chosen = result[output]
    elif output in named:
        chosen = named[output]
    else:
        raise _unknown(output, named, where, name)
    if not _is_tensor(chosen):
        raise unsupported(
            where,
            f"output={output!r}: expected a tensor, the forward of {name} has {_kind(chosen)}",
        )
    return chosen


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, fx.Proxy))


def _named(result: Any) -> dict[Any, Any] | None:
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    if isinstance(result, (tuple, list)):
        return dict(enumerate(result))
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return None


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _unknown(output: Any, named: Mapping[Any, Any], where: str, name: str) -> Exception:
    choices = ", ".join(map(repr, named)) or "none"
    return unsupported(
        where, f"output={output!r}: the forward of {name} has no such result; it has {choices}"
    )
