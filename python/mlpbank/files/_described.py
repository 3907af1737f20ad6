"""What files describe in JSON: architectures, types of keys, shifts, names and metadata.

What is read is untrusted. docs/format.md describes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import GenericAlias
from typing import Any

import numpy as np

from mlpbank._arrays import as_shift
from mlpbank._keys import MAX_PARTS, kind_name, kind_of, stored_key
from mlpbank._names import Classes, Names, as_classes, as_feature_names
from mlpbank.architecture import PARAMETER_NAMES, Architecture, LayerSpec
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Float64Array, Key


def described_type(key_type: Any) -> str | list[str] | None:
    """Return a type of keys as JSON has it; of tuples the types of their parts."""
    if key_type in (None, str, int):
        return None if key_type is None else str(key_type.__name__)
    return [part.__name__ for part in key_type.__args__]


def described(architecture: Architecture) -> list[list[Any]]:
    """Return an architecture as JSON has it. Parameters are there if one is not its default."""
    return [
        [s.input_size, s.output_size, s.activation.value, *filter(None, [s._unusual()])]
        for s in architecture.layers
    ]


def architecture_of(layers: list[Any]) -> Architecture:
    """Return the architecture that JSON describes.

    Raises
    ------
    TypeError, ValueError, OverflowError
        It is none.
    """
    return Architecture(_layer(entry) for entry in layers)


def described_shift(shift: Float64Array | None) -> dict[str, list[float]]:
    """Return an input shift as JSON has it: Python writes the digits that restore a float64."""
    return {} if shift is None else {"input_shift": shift.tolist()}


def shift_of(about: Mapping[str, Any], architecture: Architecture) -> Float64Array | None:
    """Return the input shift of a description."""
    given = about.get("input_shift")
    if given is None:
        return None
    if type(given) is not list or not all(type(x) in (int, float) for x in given):
        raise InvalidValueError(f"input_shift: expected an array of numbers, got {given!r:.80}")
    try:
        numbers = np.array([float(x) for x in given])
    except OverflowError:  # an int of hundreds of digits
        raise InvalidValueError(
            "input_shift: expected numbers that float64 can hold, got larger ones"
        ) from None
    return as_shift(numbers, architecture.input_size)


def described_names(names: Names | None, classes: Classes | None) -> dict[str, list[Any]]:
    """Return names of features and classes as JSON has them, where they are known."""
    found = {"feature_names": names, "classes": classes}
    return {name: list(values) for name, values in found.items() if values is not None}


def names_of(
    about: Mapping[str, Any], architecture: Architecture
) -> tuple[Names | None, Classes | None]:
    """Return names of features and classes of a description."""
    names, classes = (
        None if about.get(name) is None else expect_in(about, name, list)
        for name in ("feature_names", "classes")
    )
    return (
        None if names is None else as_feature_names(names, architecture.input_size),
        None if classes is None else as_classes(classes, architecture.output_size),
    )


def copy_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a dict of what JSON can hold, as reading it from a file gives it."""
    if not isinstance(metadata, dict):
        raise InvalidTypeError(f"metadata: expected a dict, got {metadata!r:.80}")
    try:
        text = json.dumps(metadata, allow_nan=False)
    except RecursionError:
        raise InvalidValueError("metadata: expected JSON that is not nested so deeply") from None
    except (TypeError, ValueError) as error:
        kind = InvalidTypeError if isinstance(error, TypeError) else InvalidValueError
        raise kind(f"metadata: expected what JSON can hold, got an error: {error}") from None
    return json_object(text, "metadata")


def key_type_of(about: Mapping[str, Any], models: int, version: int) -> Any:
    name = about.get("keys")
    if name is None and models == 0:
        return None
    types = {"str": str, "int": int}
    if type(name) is str and name in types:
        return types[name]
    if version > 1 and type(name) is list and 1 <= len(name) <= MAX_PARTS:
        parts = [types.get(part) if type(part) is str else None for part in name]
        if None not in parts:
            return GenericAlias(tuple, tuple(parts))
    raise InvalidValueError(
        f"keys: expected 'str', 'int' or a list of these for tuples, got {name!r:.80}"
    )


def fallback_of(about: Mapping[str, Any], key_type: Any) -> Key | None:
    """Return the key of the fallback model of a description, None if there is none."""
    key = key_of_json(about.get("fallback"))
    if key is not None and (type(key) not in (str, int, tuple) or kind_of(key) != key_type):
        wanted = "none" if key_type is None else f"{kind_name(key_type)}, as the keys are"
        raise InvalidValueError(f"fallback: expected {wanted}, got {key!r:.80}")
    return None if key is None else stored_key(key, "fallback")


def key_of_json(key: Any) -> Any:
    """Return a key from JSON, which has lists in the place of tuples."""
    return tuple(key) if type(key) is list else key


def _layer(entry: Any) -> LayerSpec:
    if (
        type(entry) is not list
        or len(entry) not in (3, 4)
        or (len(entry) == 4 and type(entry[3]) is not dict)
    ):
        raise InvalidValueError(
            "architecture: expected [input_size, output_size, activation] and perhaps an object of "
            f"parameters for each layer, got {entry!r:.80}"
        )
    parameters = entry[3] if len(entry) == 4 else {}
    for name, value in parameters.items():
        if name not in PARAMETER_NAMES or type(value) not in (int, float):
            raise InvalidValueError(
                f"architecture: expected numbers for {', '.join(PARAMETER_NAMES)}, "
                f"got {name!r:.80}: {value!r:.80}"
            )
    return LayerSpec(*entry[:3], **parameters)


def json_object(text: str, name: str) -> dict[str, Any]:
    """Return a JSON object in which no name comes twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise InvalidValueError("a key that comes twice")
        return result

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant)
    except ValueError as error:
        raise InvalidValueError(f"{name}: expected JSON, got {error}") from None
    except RecursionError:
        raise InvalidValueError(f"{name}: expected JSON that is not nested so deeply") from None
    if not isinstance(value, dict):
        raise InvalidValueError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def _no_constant(name: str) -> None:
    raise InvalidValueError(f"{name}")


def expect(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise InvalidValueError(f"{name}: expected {kind.__name__}, got {value!r:.80}")
    return value


def expect_in(about: Mapping[str, Any], name: str, kind: type) -> Any:
    return expect(about.get(name), kind, name)
