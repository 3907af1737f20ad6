"""What people hold their models in: as pairs of a key and a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mlpbank.errors import InvalidTypeError, InvalidValueError

_EXPECTED = "models: expected a mapping of keys to models, or pairs of a key and a model"

# Of scikit-learn's estimators that hold others: how to get at these.
_MEMBERS = {
    "named_estimators_": "model.named_estimators_",
    "estimators_": "dict(enumerate(model.estimators_))",
    "best_estimator_": "{key: model.best_estimator_}",
}


def pairs_of(models: Any, framework: Callable[[type], str | None]) -> list[tuple[Any, Any]]:
    """Return the keys and models of a container, in its order.

    Parameters
    ----------
    models : mapping, iterable of pairs, nn.ModuleDict or pandas Series
    framework : callable
        Tells the framework of a class of models, None for other classes.

    Raises
    ------
    TypeError, ValueError
        It has no keys, or one of them twice. The message tells the way out.
    """
    if isinstance(models, Mapping):
        pairs = list(models.items())
        if pairs and all(isinstance(key, str) and _is_array(value) for key, value in pairs):
            raise InvalidTypeError(
                f"{_EXPECTED}, got the parameters of one model; give it a key: {{key: parameters}}"
            )
    elif _is_a(models, "ModuleDict", "torch"):
        pairs = list(models.items())
    elif _is_a(models, "Series", "pandas"):
        pairs = list(zip(models.index.tolist(), models.tolist(), strict=True))
    else:
        pairs = _listed(models, framework)
    seen: set[Any] = set()
    for key, _ in pairs:
        try:
            again = key in seen
            seen.add(key)
        except TypeError:
            what = type(key).__name__
            raise InvalidTypeError(
                f"models: expected keys of str, int or tuples of them, got {key!r:.80}, a {what}"
            ) from None
        if again:
            raise InvalidValueError(f"models: expected different keys, got {key!r} twice")
    return pairs


def _listed(models: Any, framework: Callable[[type], str | None]) -> list[tuple[Any, Any]]:
    """Return the pairs of an iterable, or say what stands in their place."""
    name = type(models).__name__
    listed = _is_a(models, "ModuleList", "torch")
    if not listed and framework(type(models)) is not None:
        way = members_of(models) or "give it a key: {key: model}"
        raise InvalidTypeError(f"{_EXPECTED}, got one model, a {name}; {way}")
    if isinstance(models, (str, bytes, bytearray, memoryview)):
        raise InvalidTypeError(f"{_EXPECTED}, got {models!r:.80}; give it a key: {{key: model}}")
    if hasattr(models, "columns") or not isinstance(models, Iterable):
        raise InvalidTypeError(f"{_EXPECTED}, got {name}")
    pairs = list(models)
    for i, pair in enumerate(pairs):
        if isinstance(pair, (tuple, list)) and len(pair) == 2 and not _is_array(pair[0]):
            if framework(type(pair[0])) is None:
                continue
            got = f"a model before its key at position {i}; write (key, model)"
        elif isinstance(pair, Mapping) or framework(type(pair)) is not None:
            got = f"a {name} of models without keys; dict(enumerate(models)) numbers them"
        else:
            got = f"a {name} with {_described(pair)} at position {i}"
        raise InvalidTypeError(f"{_EXPECTED}, got {got}")
    return [(key, model) for key, model in pairs]


def members_of(model: Any) -> str:
    """Return how to get at the models that scikit-learn's estimator holds, "" if it has none."""
    if type(model).__module__.partition(".")[0] != "sklearn":
        return ""
    ways = (way for attribute, way in _MEMBERS.items() if hasattr(model, attribute))
    return next((f"for the models that it holds pass {way}" for way in ways), "")


def model_inside(value: Any, framework: Callable[[type], str | None]) -> str:
    """Return which part of a dict, list or tuple is a model, and the way to it; "" for none."""
    if not isinstance(value, (Mapping, list, tuple)):
        return ""
    parts: Iterable[tuple[Any, Any]] = (
        value.items() if isinstance(value, Mapping) else enumerate(value)
    )
    for name, part in parts:
        if not _is_array(part) and framework(type(part)) is not None:
            return f"one, a {type(part).__name__}, at {name!r:.80}; pass that: model[{name!r:.80}]"
    return ""


def _is_array(value: Any) -> bool:
    """Return whether a value is an array or tensor, and so no model."""
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, np.generic)


def _described(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.80}"


def _is_a(value: Any, name: str, package: str) -> bool:
    """Return whether a class is one of a package, or made from it, without importing that."""
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] == package
        for base in type(value).__mro__
    )
