"""The plain form of a bank: weights, keys and architecture in one safetensors file.

Any safetensors reader can use it. Layer 0 of model i is
``activation(x @ layer_0.weight[i] + layer_0.bias[i])``::

    layer_0.weight   float32 [N, in, out]
    layer_0.bias     float32 [N, out]
    layer_0.slope    float32 [N], of layers with prelu
    layer_1.weight   ...
    extra.<name>     any further arrays
    __metadata__     {"mlpbank": JSON text}: format, version, architecture, keys, versions,
                     fallback, metadata, input_shift, feature_names, classes

Files are untrusted: dtype and shape of every tensor are checked before it is read, and nothing is
ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from mlpbank._arrays import as_array, as_float32, without_shift
from mlpbank._columns import check_version
from mlpbank._key_tables import make_table, table_keys
from mlpbank._keys import check_key, kind_of
from mlpbank._names import Classes, Names
from mlpbank.architecture import Architecture, array_shapes
from mlpbank.errors import BankFileError, InvalidTypeError, InvalidValueError, UnknownKeyError
from mlpbank.files._atomic import atomic_writer
from mlpbank.files._described import (
    architecture_of,
    copy_json,
    described,
    described_names,
    described_shift,
    json_object,
    key_of_json,
    names_of,
    shift_of,
)
from mlpbank.files._looks import beginning_of
from mlpbank.files._named import named
from mlpbank.typing import Key, Weights

FORMAT, VERSION = "mlpbank-plain", 1
# One entry holds all metadata: safetensors keeps no order among several, and equal banks are to be
# equal bytes.
_ENTRY = "mlpbank"
_EXTRA = "extra."


@dataclass(frozen=True)
class PlainBank:
    """What a plain bank file holds.

    Attributes
    ----------
    architecture : Architecture
        Shared by all N models.
    weights : dict of str to float32 array
        ``"layer_<i>"`` (N, input_size, output_size) and ``"layer_<i>.bias"`` (N, output_size) of
        every layer: what `BatchedWeights.load_stacked` takes. Perhaps with ``"input_shift"``.
    keys : list of str, int or tuples, or None
        One for each model, all different; None if it was saved without.
    versions : list of str or None
        One for each model.
    fallback : str, int, tuple or None
        The key of the model that answers for unknown keys.
    extra, metadata : dict
        Further arrays, and further information of JSON types.
    feature_names, classes : tuple or None
        As of `Bank`.
    """

    architecture: Architecture
    weights: Weights
    keys: list[Key] | None
    versions: list[str | None]
    fallback: Key | None
    extra: dict[str, npt.NDArray[Any]]
    metadata: dict[str, Any]
    feature_names: Names | None
    classes: Classes | None


def save_plain(
    path: str | os.PathLike[str],
    keys: Sequence[Key] | None,
    architecture: Architecture,
    weights: Mapping[str, Any],
    *,
    versions: Sequence[str | None] | None = None,
    fallback: Key | None = None,
    extra: Mapping[str, npt.ArrayLike] | None = None,
    metadata: Mapping[str, Any] | None = None,
    feature_names: Names | None = None,
    classes: Classes | None = None,
) -> None:
    """Save models in the plain form. The file appears complete or not at all.

    Parameters
    ----------
    path : path-like
        Where to; its folder exists.
    keys : sequence of str, int or tuples, or None
        A different one for each model, all of one type.
    architecture : Architecture
        Shared by all N models.
    weights : mapping of str to array
        ``"layer_<i>"`` (N, input_size, output_size) and, optionally, ``"layer_<i>.bias"`` (N,
        output_size), zeros where it is missing. Converted to float32. With ``"input_shift"``
        (input_size,) they take ``x - input_shift``.
    versions : sequence of str or None, optional
        One for each model.
    fallback : str, int or tuple, optional
        The key of the model that answers for unknown keys.
    extra, metadata : mapping, optional
        Further arrays, of any shape, and further information of JSON types.
    feature_names, classes : tuple, optional
        As of `Bank`.

    Raises
    ------
    KeyError, TypeError, ValueError
        `weights` lacks a layer or has an unknown key, an array or key does not fit, or `metadata`
        is not JSON.
    OSError
        Writing failed; an older file is still there.
    """
    shapes = array_shapes(architecture)
    weights, shift = without_shift(weights, architecture.input_size)
    if unknown := sorted(weights.keys() - shapes.keys()):
        raise UnknownKeyError(f"weights: expected keys {', '.join(shapes)}, got {unknown[0]!r}")
    arrays = {key: as_float32(weights[key], key) for key in shapes if key in weights}
    tensors: dict[str, npt.NDArray[Any]] = {}
    for key, shape in shapes.items():
        if key not in arrays and not key.endswith(".bias"):  # biases are zeros then
            raise UnknownKeyError(f"weights: missing key {key!r}")
        n = arrays["layer_0"].shape[:1]
        array = arrays[key] if key in arrays else np.zeros(n + shape, np.float32)
        if array.shape != n + shape:
            raise InvalidValueError(f"{key}: expected shape {n + shape}, got {array.shape}")
        tensors[_tensor(key)] = array
    for key, values in (extra or {}).items():
        values = as_array(values, f"extra[{key!r}]")
        if values.dtype.kind not in "fiub":
            raise InvalidTypeError(
                f"extra[{key!r}]: expected numbers or booleans, got dtype {values.dtype}"
            )
        # safetensors takes the buffer as it lies, so it has to be native and in C order.
        tensors[_EXTRA + key] = np.require(values, values.dtype.newbyteorder("="), "C")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": described(architecture),
        "keys": None if keys is None else _checked_keys(keys, len(arrays["layer_0"])),
        "versions": _checked_versions(list(versions), len(arrays["layer_0"]))
        if versions and any(versions)
        else None,
        "fallback": fallback,
        "metadata": dict(metadata or {}),
        **described_shift(shift),
        **described_names(feature_names, classes),
    }
    text = json.dumps(header, allow_nan=False)
    try:
        data = to_safetensors(tensors, {_ENTRY: text})
    except SafetensorError as error:  # its header has a limit
        raise InvalidValueError(
            f"keys, versions and metadata: expected what safetensors can hold, got {len(text)} "
            f"bytes ({error})"
        ) from None
    with atomic_writer(path) as file:
        file.write(data)


def load_plain(path: str | os.PathLike[str]) -> PlainBank:
    """Load a bank from the plain form.

    Parameters
    ----------
    path : path-like
        A file in the plain form.

    Returns
    -------
    PlainBank

    Raises
    ------
    BankFileError
        The file is not a valid plain bank, whatever the reason.
    OSError
        It cannot be opened or read.
    """
    try:
        with named(path), safe_open(os.fspath(path), framework="numpy") as file:
            header = _header((file.metadata() or {}).get(_ENTRY))
            architecture = architecture_of(_typed(header, "architecture", list))
            weights: dict[str, Any] = {}
            if (shift := shift_of(header, architecture)) is not None:
                weights["input_shift"] = shift
            names = set(file.keys())
            n = (
                tuple(file.get_slice("layer_0.weight").get_shape()[:1])
                if "layer_0.weight" in names
                else ()
            )
            for key, shape in array_shapes(architecture).items():
                name = _tensor(key)
                if name not in names:
                    raise InvalidValueError(f"expected a tensor {name!r}, got none")
                names.remove(name)
                stored = file.get_slice(name)
                found = stored.get_dtype(), tuple(stored.get_shape())
                if found != ("F32", n + shape):
                    raise InvalidValueError(
                        f"{name}: expected F32 of shape {n + shape}, "
                        f"got {found[0]} of shape {found[1]}"
                    )
                weights[key] = file.get_tensor(name)
            extra: dict[str, npt.NDArray[Any]] = {}
            for name in sorted(names):
                if not name.startswith(_EXTRA):
                    raise InvalidValueError(
                        f"expected tensors of {architecture} or {_EXTRA}*, got {name!r}"
                    )
                extra[name.removeprefix(_EXTRA)] = _extra_array(file, name)
            keys = (
                None
                if header.get("keys") is None
                else _checked_keys(_typed(header, "keys", list), n[0])
            )
            if header.get("versions") is None:
                versions: list[str | None] = [None] * n[0]
            else:
                versions = _checked_versions(_typed(header, "versions", list), n[0])
            fallback = key_of_json(header.get("fallback"))
            if fallback is not None:
                check_key(fallback, kind_of(keys[0]) if keys else None, "fallback")
            metadata = copy_json(_typed(header, "metadata", dict))
            return PlainBank(
                architecture,
                weights,
                keys,
                versions,
                fallback,
                extra,
                metadata,
                *names_of(header, architecture),
            )
    # RecursionError: JSON nested without end. The others are what the checks here, LayerSpec and
    # safetensors raise.
    except (SafetensorError, ValueError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, OSError):  # of the two kinds that are also a ValueError
            raise
        got = beginning_of(path) if isinstance(error, SafetensorError) else None
        what = f"expected a safetensors file, got {got}" if got else error
        raise BankFileError(f"{os.fspath(path)}: {what}") from error


def _tensor(key: str) -> str:
    return key if "." in key else f"{key}.weight"


def _header(text: str | None) -> dict[str, Any]:
    if text is None:
        raise InvalidValueError(f"expected metadata {_ENTRY!r}, got none")
    header = json_object(text, f"metadata {_ENTRY!r}")
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise InvalidValueError(
            f"metadata {_ENTRY!r}: expected format {FORMAT!r}, version {VERSION}, got {text[:80]}"
        )
    return header


def _typed(header: dict[str, Any], name: str, kind: type) -> Any:
    value = header.get(name)
    if not isinstance(value, kind):
        raise InvalidValueError(
            f"{name}: expected a JSON {kind.__name__}, got {type(value).__name__}"
        )
    return value


def _extra_array(file: Any, name: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = file.get_tensor(name)
    except (TypeError, AttributeError):
        # safetensors has bfloat16 and the like, NumPy does not.
        array = np.empty(0, np.void)
    if array.dtype.kind not in "fiub":  # or has them from ml_dtypes, where that was imported
        raise InvalidValueError(
            f"{name}: expected a dtype of NumPy, got {file.get_slice(name).get_dtype()}"
        )
    return array


def _checked_keys(keys: Sequence[Any], n: int) -> list[Key]:
    if len(keys) != n:
        raise InvalidValueError(f"keys: expected one for each of {n} models, got {len(keys)}")
    return list(table_keys(make_table(list(map(key_of_json, keys)))))


def _checked_versions(versions: list[Any], n: int) -> list[str | None]:
    for i, version in enumerate(versions):
        check_version(version, f"versions[{i}]")
    if len(versions) != n:
        raise InvalidValueError(
            f"versions: expected one for each of {n} models, got {len(versions)}"
        )
    return versions
