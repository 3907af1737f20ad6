"""A PyTorch module as it is in eval mode, while it is read, and as it was afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from mlpbank.convert._chain import join, unsupported
from mlpbank.convert._torch_hooks import apply_known_hooks


@contextmanager
def as_in_eval_mode(module: Any, where: str) -> Iterator[None]:
    """Put a module into eval mode for the block, without its own methods, then back.

    PyTorch's own hooks that compute a parameter (pruning, weight_norm, spectral_norm) are replaced
    by what they compute in eval mode. Attributes, buffers, hooks and random generators are restored
    whatever happens.

    Raises
    ------
    UnsupportedLayerError
        It is unknown what the module would be in eval mode.
    """
    parts = [
        part
        for part in module.modules()
        if part.training
        or part._forward_pre_hooks
        or part.__dict__.get("_compiled_call_impl") is not None
    ]
    if not parts:
        yield
        return
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for part in parts:
            place = where if part is module else join(where, _name_in(module, part))
            _require_usual_train(part, place)
            kept.append((part.__dict__, dict(part.__dict__)))
            part.__dict__["training"] = False
            part.__dict__.pop("_compiled_call_impl", None)  # of module.compile()
            if part._forward_pre_hooks:
                apply_known_hooks(part, place)
        yield
    finally:
        for now, before in reversed(kept):
            now.clear()
            now.update(before)


def _name_in(module: Any, part: Any) -> str:
    return str(next(name for name, found in module.named_modules() if found is part))


def has_usual_train(module: Any) -> bool:
    """Return whether going to eval mode does no more than PyTorch's own methods do."""
    kind = type(module)
    usual = kind.train is nn.Module.train and kind.eval is nn.Module.eval
    return (usual and "train" not in module.__dict__ and "eval" not in module.__dict__) or bool(
        kind.__module__.startswith("torch.")  # such as those that forbid it
    )


def _require_usual_train(module: Any, where: str) -> None:
    if module.training and not has_usual_train(module):
        raise unsupported(
            where,
            f"{type(module).__name__} has a train or eval of its own, so what it computes in eval "
            "mode is not known while it is in training mode; call model.eval() first",
        )


class Snapshot:
    """Attributes, tensors and random generators, to restore after code of others has run."""

    def __init__(self, module: Any) -> None:
        self.attributes = [
            (part.__dict__, dict(part.__dict__), _containers(part.__dict__))
            for part in module.modules()
        ]
        self.tables = [
            (table, dict(table))
            for part in module.modules()
            for table in (part._parameters, part._buffers, part._modules)
        ]
        self.tensors = [
            (tensor, tensor.detach().clone())
            for tensor in (*module.parameters(), *module.buffers(), *_loose(module))
            if not tensor.is_meta
        ]
        self.random = _generators()

    def restore(self) -> tuple[str, bool]:
        """Restore all. Return the name of a changed attribute or "", and whether a tensor was."""
        changed = ""
        for now, before in ((n, b) for n, b, _ in self.attributes):
            changed = _put_back(now, before) or changed
        for now, before in self.tables:
            changed = _put_back(now, before) or changed
        for _, before, containers in self.attributes:
            for name, content in containers.items():
                value = before[name]
                if _content(value) != content:
                    changed = changed or name
                    _refill(value, content)
        written = False
        for tensor, before in self.tensors:
            if tensor.shape != before.shape or not _equal(tensor, before):
                written = True
                if tensor.shape != before.shape:
                    tensor.data = before
                else:
                    tensor.data.copy_(before)  # leaves the count of changes, which autograd checks
        return changed, written

    def restore_random(self) -> bool:
        """Restore the random generators. Return whether one of them was used."""
        now = _generators()
        used = now[0] != self.random[0] or any(
            not np.array_equal(a, b) for a, b in zip(now[1], self.random[1], strict=True)
        )
        used |= not torch.equal(now[2], self.random[2])
        if used:
            random.setstate(self.random[0])
            np.random.set_state(self.random[1])  # the global generator  # noqa: NPY002
            torch.set_rng_state(self.random[2])
        return used


def _generators() -> tuple[Any, Any, Any]:
    """Return the states of the random generators that a forward may use."""
    state: Any = np.random.get_state()  # the global generator  # noqa: NPY002
    return random.getstate(), state, torch.get_rng_state()


def _loose(module: Any) -> list[Any]:
    """Return the tensors that are plain attributes."""
    return [
        value
        for part in module.modules()
        for value in part.__dict__.values()
        if isinstance(value, torch.Tensor)
    ]


def _containers(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _content(value)
        for name, value in attributes.items()
        if type(value) in (list, dict, set) and name not in _TABLES
    }


_TABLES = frozenset(nn.Module().__dict__)


class _Content(list[Any]):
    """What a container holds, compared by identity."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Content)
            and len(self) == len(other)
            and all(a is b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None

    def __ne__(self, other: object) -> bool:
        return not self == other


def _content(value: Any) -> _Content:
    if isinstance(value, dict):
        return _Content(part for item in value.items() for part in item)
    return _Content(value)


def _refill(value: Any, content: _Content) -> None:
    value.clear()
    if isinstance(value, dict):
        value.update(zip(content[::2], content[1::2], strict=True))
    elif isinstance(value, set):
        value.update(content)
    else:
        value.extend(content)


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> str:
    """Restore one table, and return the name of an entry that had been changed or ""."""
    names = [
        name
        for name in {**now, **before}
        if name not in now or name not in before or now[name] is not before[name]
    ]
    if names:
        now.clear()
        now.update(before)
    return names[0] if names else ""


def _equal(a: Any, b: Any) -> bool:
    """Return whether two tensors are the same bytes or numbers; NaN equals itself."""
    if torch.equal(a, b):
        return True
    same = (a == b) | ((a != a) & (b != b))
    return bool(same.all())
