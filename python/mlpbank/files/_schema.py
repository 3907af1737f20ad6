"""The schema of a bank file: tensors and description, once for writing, reading and verifying.

docs/format.md describes the file. `TENSORS` is its table of tensors. `_read.py` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._columns import ModelColumns
from mlpbank._names import Classes, Names
from mlpbank.architecture import Architecture
from mlpbank.errors import InvalidValueError
from mlpbank.files._described import (
    described,
    described_names,
    described_shift,
    described_type,
)
from mlpbank.typing import Float64Array, Key

FORMAT, VERSION = "mlpbank", 2
ENTRY = "mlpbank"  # of the safetensors metadata
PAGE = 4096  # the data starts at a multiple of it
MAX_HEADER = 16 << 20  # bytes
MAX_MODELS = 2**32 - 2  # a bucket of the key table has 32 bits
DTYPES: dict[str, np.dtype[Any]] = {
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
        How many slots, those without a model included.
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
    header : uint8 array
        The bytes before the tensors, of a file that was read.
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
    header: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))

    @property
    def table(self) -> Any:
        """The key table; None if there never was a key."""
        return self.columns.table

    @property
    def key_type(self) -> Any:
        """``str``, ``int``, ``tuple[...]``, or None if there never was a key."""
        return self.columns.key_type

    @property
    def has_slots(self) -> bool:
        """Whether the file keeps slots without a model, and reuse counts."""
        return self.columns.reuse_counts is not None

    @property
    def sizes(self) -> Sizes:
        """The numbers that the shapes of its tensors come from."""
        return sizes_of(
            self.models, self.architecture, self.layout, self.dtype, len(self.columns.vacant)
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its tensors in their order."""
        return tensors_of(self.key_type, self.has_slots)


class Sizes(NamedTuple):
    """The numbers that the shapes of tensors come from."""

    models: int
    blocks: int
    block_bytes: int
    vacant: int = 0

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
    of_slots: bool = False  # files that keep slots without a model have it


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
    Tensor(
        "vacant",
        "U32",
        _ANY,
        lambda n: [n.vacant],
        lambda c: np.array(c.columns.vacant, np.uint32),
        of_slots=True,
    ),
    Tensor(
        "reuse_counts",
        "U32",
        _ANY,
        lambda n: [n.models],
        lambda c: np.asarray(c.columns.reuse_counts, np.uint32),
        of_slots=True,
    ),
    Tensor("keys.bytes", "U8", (str, tuple), None, lambda c: c.table.bytes),
    Tensor("version.bytes", "U8", _ANY, None, lambda c: c.columns.version_bytes),
)


def tensors_of(key_type: Any, of_slots: bool) -> tuple[Tensor, ...]:
    """Return the tensors of a file whose keys are of one type, in their order."""
    kind = key_type if key_type in (None, str, int) else tuple
    return tuple(
        tensor
        for tensor in TENSORS
        if kind in tensor.key_types and (of_slots or not tensor.of_slots)
    )


def sizes_of(
    models: int, architecture: Architecture, layout: str, dtype: str, vacant: int = 0
) -> Sizes:
    """Return the sizes of a file of `models` slots, of which some are vacant."""
    block = _core.block_of(architecture._core, layout, dtype)
    return Sizes(models, -(-models // block.models), block.bytes, vacant)


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
        **({"vacant": len(contents.columns.vacant)} if contents.has_slots else {}),
        "keys": described_type(key_type),
        "seed": None if seed is None else seed.hex(),
        **({} if seed is None else {"tags": contents.table.has_tags}),
        "fallback": contents.fallback,
        "metadata": contents.metadata,
        **described_shift(contents.input_shift),
        **described_names(contents.feature_names, contents.classes),
        "crc32": {name: f"{checksum:08x}" for name, checksum in checksums.items()},
    }
    header: dict[str, Any] = {"__metadata__": {ENTRY: json.dumps(description, allow_nan=False)}}
    sizes = contents.sizes
    end = 0
    for tensor in contents.tensors:
        shape = tensor.shape(sizes) if tensor.shape else list(arrays[tensor.name].shape)
        begin, end = end, end + nbytes(tensor.dtype, shape)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    if len(text) > MAX_HEADER:
        raise InvalidValueError(
            f"metadata: expected at most {MAX_HEADER} bytes with the header, got {len(text)}"
        )
    return len(text).to_bytes(8, "little") + text


def nbytes(dtype: str, shape: list[int]) -> int:
    count: int = DTYPES[dtype].itemsize
    for size in shape:
        count *= size
    return count
