"""The schema of a bank file: tensors and description, once for writing, reading and verifying.

docs/format.md describes the file. `TENSORS` is its table of tensors. A file is untrusted:
everything in the header must be as this version writes it, and the tensors must cover the file
exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._columns import ModelColumns
from mlpbank._names import Classes, Names
from mlpbank.architecture import Architecture
from mlpbank.errors import InvalidValueError
from mlpbank.files._described import (
    architecture_of,
    described,
    described_names,
    described_shift,
    described_type,
    expect,
    expect_in,
    fallback_of,
    json_object,
    key_type_of,
    names_of,
    shift_of,
)
from mlpbank.files._looks import LOOKED_AT, looks_like
from mlpbank.typing import Float64Array, Key

FORMAT, VERSION = "mlpbank", 2
_ENTRY = "mlpbank"  # of the safetensors metadata
_PAGE = 4096  # the data starts at a multiple of it
_MAX_HEADER = 16 << 20  # bytes
_MAX_MODELS = 2**32 - 2  # a bucket of the key table has 32 bits
_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in (
        ("U8", "<u1"),
        ("U32", "<u4"),
        ("U64", "<u8"),
        ("I64", "<i8"),
        ("F64", "<f8"),
    )
}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Contents:
    """What a bank file holds, as views into it.

    Attributes
    ----------
    architecture : Architecture
    dtype, layout : str
        How the weights are stored.
    models : int
        How many.
    blocks : uint8 array
        The packed weights of all models; see cpp/kernels/kernel.h.
    columns : ModelColumns
        Keys, versions, revisions and times of loading; model i is that of the key at position i.
    fallback : str, int, tuple or None
    metadata : dict
        The user's.
    checksums : dict of str to str
        CRC-32 of each tensor in hexadecimal.
    is_mapped : bool
        Whether `blocks` lie in a mapped file.
    input_shift : float64 array (input_size,), or None
        What is subtracted from rows.
    feature_names : tuple of input_size str, or None
    classes : tuple of str, int, float or bool, or None
    """

    architecture: Architecture
    dtype: str
    layout: str
    models: int
    blocks: npt.NDArray[np.uint8]
    columns: ModelColumns
    fallback: Key | None
    metadata: dict[str, Any]
    checksums: dict[str, str]
    is_mapped: bool = False
    input_shift: Float64Array | None = None
    feature_names: Names | None = None
    classes: Classes | None = None

    @property
    def table(self) -> Any:
        """The key table; None if there never was a key."""
        return self.columns.table

    @property
    def key_type(self) -> Any:
        """``str``, ``int``, ``tuple[...]``, or None if there never was a key."""
        return self.columns.key_type


class Sizes(NamedTuple):
    """The numbers that the shapes of tensors come from."""

    models: int
    blocks: int
    block_bytes: int

    @property
    def buckets(self) -> int:
        """Of the key table: a power of two, at least twice as many as keys."""
        return max(2, 1 << (2 * self.models - 1).bit_length()) if self.models else 2


class Tensor(NamedTuple):
    """One tensor of a bank file."""

    name: str
    dtype: str
    # Files of banks with these types of keys have it. None: there never was a key.
    key_types: tuple[type | None, ...]  # tuple: of any parts
    # None: bytes of text, whose number the file alone knows.
    shape: Callable[[Sizes], list[int]] | None
    of: Callable[[Contents], Array]


_ANY = (None, str, int, tuple)
# In the order of the file. Wider elements come before narrower ones, so that all are aligned.
TENSORS = (
    Tensor("weights", "U8", _ANY, lambda n: [n.blocks, n.block_bytes], lambda c: c.blocks),
    Tensor("generation", "I64", _ANY, lambda n: [n.models], lambda c: c.columns.revisions),
    Tensor("loaded_at", "F64", _ANY, lambda n: [n.models], lambda c: c.columns.loaded_at),
    Tensor(
        "version.offsets",
        "U64",
        _ANY,
        lambda n: [n.models + 1],
        lambda c: c.columns.version_offsets,
    ),
    Tensor("keys", "I64", (int,), lambda n: [n.models], lambda c: c.table.values),
    Tensor(
        "keys.offsets", "U64", (str, tuple), lambda n: [n.models + 1], lambda c: c.table.offsets
    ),
    Tensor(
        "keys.slots", "U32", (str, int, tuple), lambda n: [n.buckets], lambda c: c.table.buckets
    ),
    Tensor("keys.bytes", "U8", (str, tuple), None, lambda c: c.table.bytes),
    Tensor("version.bytes", "U8", _ANY, None, lambda c: c.columns.version_bytes),
)


def tensors_of(key_type: Any) -> tuple[Tensor, ...]:
    """Return the tensors of a file whose keys are of one type, in their order."""
    kind = key_type if key_type in (None, str, int) else tuple
    return tuple(tensor for tensor in TENSORS if kind in tensor.key_types)


def sizes_of(models: int, architecture: Architecture, layout: str, dtype: str) -> Sizes:
    """Return the sizes of a file of `models` models."""
    block = _core.block_of(architecture._core, layout, dtype)
    return Sizes(models, -(-models // block.models), block.bytes)


def as_bytes(array: Array) -> memoryview:
    """Return the memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


# --- Writing.


def header_of(
    contents: Contents, arrays: Mapping[str, Array], checksums: Mapping[str, int]
) -> bytes:
    """Return the header of a file.

    Parameters
    ----------
    contents : Contents
        Its `blocks` and `checksums` are not looked at.
    arrays : mapping of str to array
        All tensors but the weights.
    checksums : mapping of str to int
        CRC-32 of each tensor. They take the same room whatever they are.
    """
    seed = None if contents.table is None else contents.table.seed
    key_type = contents.key_type
    description = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": described(contents.architecture),
        "dtype": contents.dtype,
        "layout": contents.layout,
        "models": contents.models,
        "keys": described_type(key_type),
        "seed": None if seed is None else seed.hex(),
        **({} if seed is None else {"tags": contents.table.has_tags}),
        "fallback": contents.fallback,
        "metadata": contents.metadata,
        **described_shift(contents.input_shift),
        **described_names(contents.feature_names, contents.classes),
        "crc32": {name: f"{checksum:08x}" for name, checksum in checksums.items()},
    }
    header: dict[str, Any] = {"__metadata__": {_ENTRY: json.dumps(description, allow_nan=False)}}
    sizes = sizes_of(contents.models, contents.architecture, contents.layout, contents.dtype)
    end = 0
    for tensor in tensors_of(key_type):
        shape = tensor.shape(sizes) if tensor.shape else list(arrays[tensor.name].shape)
        begin, end = end, end + _nbytes(tensor.dtype, shape)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _PAGE)
    if len(text) > _MAX_HEADER:
        raise InvalidValueError(
            f"metadata: expected at most {_MAX_HEADER} bytes with the header, got {len(text)}"
        )
    return len(text).to_bytes(8, "little") + text


def _nbytes(dtype: str, shape: list[int]) -> int:
    count: int = _DTYPES[dtype].itemsize
    for size in shape:
        count *= size
    return count


# --- Reading.


def read(data: npt.NDArray[np.uint8], *, is_mapped: bool) -> Contents:
    """Return the contents of a whole bank file, as views into it.

    Raises
    ------
    TypeError, ValueError, KeyError, OverflowError, RecursionError
        It is not a valid bank file.
    """
    header, start = _read_header(data)
    entry = header.pop("__metadata__", None)
    if not isinstance(entry, dict) or not isinstance(entry.get(_ENTRY), str):
        raise InvalidValueError(f"expected metadata {_ENTRY!r}, got none")
    about = json_object(entry[_ENTRY], f"metadata {_ENTRY!r}")
    version = _version(about)
    architecture = architecture_of(expect_in(about, "architecture", list))
    dtype, layout = expect_in(about, "dtype", str), expect_in(about, "layout", str)
    if layout not in ("panel", "lane"):
        raise InvalidValueError(f"layout: expected 'panel' or 'lane', got {layout!r}")
    _core.block_of(architecture._core, layout, dtype)  # knows the dtypes and complains
    models = expect_in(about, "models", int)
    if not 0 <= models <= _MAX_MODELS:
        raise InvalidValueError(f"models: expected 0 to {_MAX_MODELS}, got {models}")
    key_type = key_type_of(about, models, version)
    expected = tensors_of(key_type)
    sizes = sizes_of(models, architecture, layout, dtype)
    arrays = dict(_arrays(data[start:], header, expected, sizes))
    seed = _seed(about) if version > 1 and key_type is not None else None
    has_tags = version > 1 and _tags(about, seed)
    fallback = fallback_of(about, key_type)
    checksums = expect_in(about, "crc32", dict)
    names = [tensor.name for tensor in expected]
    if checksums.keys() != set(names) or not all(isinstance(c, str) for c in checksums.values()):
        raise InvalidValueError(
            f"crc32: expected one for each of {', '.join(names)}, got {', '.join(checksums)}"
        )
    feature_names, classes = names_of(about, architecture) if version > 1 else (None, None)
    return Contents(
        architecture=architecture,
        dtype=dtype,
        layout=layout,
        models=models,
        blocks=arrays["weights"].reshape(-1),
        columns=ModelColumns(
            _key_table(arrays, key_type, seed, is_mapped, has_tags),
            arrays["generation"],
            arrays["loaded_at"],
            arrays["version.offsets"],
            arrays["version.bytes"],
        ),
        fallback=fallback,
        metadata=expect_in(about, "metadata", dict),
        checksums=checksums,
        is_mapped=is_mapped,
        input_shift=shift_of(about, architecture) if version > 1 else None,
        feature_names=feature_names,
        classes=classes,
    )


def _version(about: Mapping[str, Any]) -> int:
    if about.get("format") != FORMAT:
        raise InvalidValueError(f"format: expected {FORMAT!r}, got {about.get('format')!r}")
    version = about.get("version")
    if type(version) is not int or version < 1:
        raise InvalidValueError(f"version: expected {VERSION}, got {version!r}")
    if version > VERSION:
        raise InvalidValueError(
            f"version: this mlpbank reads up to {VERSION}, got {version}; a newer mlpbank wrote it"
        )
    return version


def _key_table(
    arrays: Mapping[str, Array], key_type: Any, seed: bytes | None, is_mapped: bool, has_tags: bool
) -> Any:
    if key_type is None:
        return None
    if key_type is int:
        return _core.IntTable(arrays["keys"], arrays["keys.slots"], seed, is_mapped, has_tags)
    texts = arrays["keys.offsets"], arrays["keys.bytes"], arrays["keys.slots"], seed
    if key_type is str:
        return _core.StringTable(*texts, is_mapped, has_tags)
    return _core.TupleTable(*texts, key_type, is_mapped, has_tags)


def _tags(about: Mapping[str, Any], seed: bytes | None) -> bool:
    """Return whether buckets have tags: those of the first files of version 2 had none."""
    tags = about.get("tags", False)
    if type(tags) is not bool or (tags and seed is None):
        raise InvalidValueError(f"tags: expected true where there is a seed, got {tags!r:.80}")
    return tags


def _seed(about: Mapping[str, Any]) -> bytes | None:
    """Return the seed of the hash of keys. None: a hash without one, as in version 1."""
    text = about.get("seed")
    if text is None:
        return None
    if type(text) is not str or not re.fullmatch("[0-9a-f]{32}", text):
        raise InvalidValueError(f"seed: expected 32 hexadecimal digits, got {text!r:.80}")
    return bytes.fromhex(text)


def _arrays(
    data: npt.NDArray[np.uint8],
    header: Mapping[str, Any],
    expected: tuple[Tensor, ...],
    sizes: Sizes,
) -> Iterator[tuple[str, Array]]:
    """Yield every tensor as a view.

    Each begins where the one before ended, and the last ends the file.
    """
    names = [tensor.name for tensor in expected]
    if list(header) != names:
        raise InvalidValueError(
            f"tensors: expected {', '.join(names)}, got {', '.join(header):.200}"
        )
    end = 0
    for tensor in expected:
        name = tensor.name
        entry = expect(header[name], dict, name)
        if tensor.shape is not None:
            shape = tensor.shape(sizes)
        else:
            shape = expect_in(entry, "shape", list)
            if len(shape) != 1 or type(shape[0]) is not int or not 0 <= shape[0] <= len(data):
                raise InvalidValueError(
                    f"{name}: expected a shape of one dimension, got {shape!r:.80}"
                )
        begin, end = end, end + _nbytes(tensor.dtype, shape)
        wanted = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [begin, end]}
        if entry != wanted or not all(
            type(n) is int for n in (*entry["shape"], *entry["data_offsets"])
        ):
            raise InvalidValueError(f"{name}: expected {wanted}, got {entry!r:.200}")
        if end > len(data):
            raise InvalidValueError(f"{name}: expected bytes up to {end}, got {len(data)}")
        yield name, data[begin:end].view(_DTYPES[tensor.dtype]).reshape(shape)
    if end != len(data):
        raise InvalidValueError(f"expected {end} bytes of data, got {len(data)}")


def _read_header(data: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """Return the safetensors header and where the data starts."""
    if len(data) < 8:
        raise InvalidValueError(f"expected a header, got {len(data)} bytes")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 2 <= length <= min(len(data) - 8, _MAX_HEADER) or (8 + length) % _PAGE != 0:
        if got := looks_like(data[:LOOKED_AT].tobytes()):
            raise InvalidValueError(f"expected a bank file, got {got}")
        raise InvalidValueError(
            f"expected a header that ends at a multiple of {_PAGE} within the file's "
            f"{len(data)} bytes, got a length of {length}"
        )
    return json_object(data[8 : 8 + length].tobytes().decode(), "header"), 8 + length
