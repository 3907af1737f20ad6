"""What columns of inputs and outputs are called: names of features, and classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._keys import encode
from mlpbank.errors import InvalidTypeError, InvalidValueError

Names = tuple[str, ...]
Classes = tuple[Any, ...]


def as_feature_names(values: Any, size: int, name: str = "feature_names") -> Names:
    """Return names of features as a tuple of `size` different str.

    Raises
    ------
    TypeError, ValueError
        They are no such names.
    """
    names = _listed(values, name)
    for i, value in enumerate(names):
        if not isinstance(value, str):
            raise InvalidTypeError(f"{name}[{i}]: expected a str, got {value!r:.80}")
        encode(value, f"{name}[{i}]")
    names = [str(value) for value in names]  # also those of a subclass, such as np.str_
    _check_different(names, name)
    if len(names) != size:
        raise InvalidValueError(
            f"{name}: expected {size}, one for each input, got {len(names)}: {shown(names)}"
        )
    return tuple(names)


def as_classes(values: Any, outputs: int, name: str = "classes") -> Classes:
    """Return classes as a tuple of different str, int, float or bool.

    There is one for each output. One output may stand for two classes, as the probability of the
    second.

    Raises
    ------
    TypeError, ValueError
        They are no such classes.
    """
    classes = [
        value.item() if isinstance(value, np.generic) else value for value in _listed(values, name)
    ]
    for i, value in enumerate(classes):
        where = f"{name}[{i}]"
        if type(value) not in (str, int, float, bool):
            raise InvalidTypeError(
                f"{where}: expected a str, int, float or bool, got {value!r:.80}"
            )
        if type(value) is str:
            encode(value, where)
        elif not (math.isfinite(value) if type(value) is float else -(2**63) <= value < 2**64):
            raise InvalidValueError(
                f"{where}: expected a finite number, of 64 bits if it is an int, got {value!r:.80}"
            )
    _check_different(classes, name)
    if len(classes) != outputs and not (outputs == 1 and len(classes) == 2):
        wanted = "1, or 2 for one output" if outputs == 1 else f"{outputs}, one for each output"
        raise InvalidValueError(f"{name}: expected {wanted}, got {len(classes)}: {shown(classes)}")
    return tuple(classes)


def as_labels(classes: Classes) -> npt.NDArray[Any]:
    """Return classes as an array of their own dtype; of several types as one of objects."""
    text = all(type(value) is str for value in classes)
    # NumPy's text loses zeros at the end.
    plain = len({type(value) for value in classes}) == 1 and not (
        text and any(value.endswith("\0") for value in classes)
    )
    found = np.array(classes, None if plain else object)
    # NumPy makes floats of integers that no type of its own can hold together.
    return (
        found
        if found.tolist() == list(classes)
        and (found.dtype.kind != "f" or type(classes[0]) is float)
        else np.array(classes, object)
    )


def shown(values: Iterable[Any]) -> str:
    """Return names or classes for a message, cut where they are many."""
    listed = list(values)
    text = ", ".join(f"{value!r:.60}" for value in listed[:10])
    return f"[{text}, ... ({len(listed)})]" if len(listed) > 10 else f"[{text}]"


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise InvalidTypeError(f"{name}: expected a sequence, got {values!r:.80}")
    expect_order(values, name)
    return list(values)


def expect_order(values: Any, name: str) -> None:
    """Raise TypeError for a set, in whose order names would stand for each other's columns."""
    if isinstance(values, (set, frozenset)):
        raise InvalidTypeError(
            f"{name}: expected them in their order, got a {type(values).__name__}, which has none; "
            "use a list"
        )


def _check_different(values: list[Any], name: str) -> None:
    seen: set[Any] = set()
    for i, value in enumerate(values):
        if value in seen:  # so are 1, 1.0 and True
            raise InvalidValueError(
                f"{name}: expected different ones, got {value!r:.80} again at position {i}"
            )
        seen.add(value)
