"""Reading a bank file: from its bytes to what it holds, as views into them.

Files are untrusted: everything in the header must be as this version writes it, and the tensors
must cover the file exactly.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._columns import ModelColumns
from mlpbank.errors import InvalidValueError
from mlpbank.files._described import (
    architecture_of,
    expect,
    expect_in,
    fallback_of,
    json_object,
    key_type_of,
    names_of,
    shift_of,
)
from mlpbank.files._looks import LOOKED_AT, looks_like
from mlpbank.files._schema import (
    DTYPES,
    ENTRY,
    FORMAT,
    MAX_HEADER,
    MAX_MODELS,
    PAGE,
    VERSION,
    Array,
    Contents,
    Sizes,
    Tensor,
    nbytes,
    sizes_of,
    tensors_of,
)


def read(data: npt.NDArray[np.uint8], *, is_mapped: bool) -> Contents:
    """Return the contents of a whole bank file, as views into it.

    Raises
    ------
    TypeError, ValueError, KeyError, OverflowError, RecursionError
        It is not a valid bank file.
    """
    header, start = _read_header(data)
    entry = header.pop("__metadata__", None)
    if not isinstance(entry, dict) or not isinstance(entry.get(ENTRY), str):
        raise InvalidValueError(f"expected metadata {ENTRY!r}, got none")
    about = json_object(entry[ENTRY], f"metadata {ENTRY!r}")
    version = _version(about)
    architecture = architecture_of(expect_in(about, "architecture", list))
    dtype, layout = expect_in(about, "dtype", str), expect_in(about, "layout", str)
    if layout not in ("panel", "lane"):
        raise InvalidValueError(f"layout: expected 'panel' or 'lane', got {layout!r}")
    _core.block_of(architecture._core, layout, dtype)  # knows the dtypes and complains
    models = expect_in(about, "models", int)
    if not 0 <= models <= MAX_MODELS:
        raise InvalidValueError(f"models: expected 0 to {MAX_MODELS}, got {models}")
    key_type = key_type_of(about, models, version)
    vacant = _num_vacant(about, models) if version > 1 else None
    expected = tensors_of(key_type, vacant is not None)
    sizes = sizes_of(models, architecture, layout, dtype, vacant or 0)
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
            _key_table(arrays, key_type, seed, is_mapped, has_tags, _vacant(arrays, models)),
            arrays["generation"],
            arrays["loaded_at"],
            arrays["version.offsets"],
            arrays["version.bytes"],
            arrays.get("reuse_counts"),
        ),
        fallback=fallback,
        metadata=expect_in(about, "metadata", dict),
        checksums=checksums,
        is_mapped=is_mapped,
        input_shift=shift_of(about, architecture) if version > 1 else None,
        feature_names=feature_names,
        classes=classes,
        header=data[:start],
    )


def metadata_of(header: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return the metadata of a file that was read, from its header."""
    entries = json_object(header[8:].tobytes().decode(), "header")
    metadata: dict[str, Any] = json_object(entries["__metadata__"][ENTRY], "")["metadata"]
    return metadata


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


def _num_vacant(about: Mapping[str, Any], models: int) -> int | None:
    """Return how many slots have no model, None if the file does not keep such ones."""
    if "vacant" not in about:
        return None
    vacant: int = expect_in(about, "vacant", int)
    if not 0 <= vacant <= models:
        raise InvalidValueError(f"vacant: expected 0 to {models}, got {vacant}")
    return vacant


def _vacant(arrays: Mapping[str, Array], models: int) -> list[int]:
    slots: list[int] = arrays["vacant"].tolist() if "vacant" in arrays else []
    if any(a >= b for a, b in itertools.pairwise([-1, *slots, models])):
        raise InvalidValueError("vacant: expected slots that ascend")
    return slots


def _key_table(
    arrays: Mapping[str, Array],
    key_type: Any,
    seed: bytes | None,
    is_mapped: bool,
    has_tags: bool,
    vacant: list[int],
) -> Any:
    if key_type is None:
        if vacant:
            raise InvalidValueError("vacant: expected none where there are no keys")
        return None
    how = is_mapped, has_tags, vacant
    if key_type is int:
        return _core.IntTable(arrays["keys"], arrays["keys.slots"], seed, *how)
    texts = arrays["keys.offsets"], arrays["keys.bytes"], arrays["keys.slots"], seed
    if key_type is str:
        return _core.StringTable(*texts, *how)
    return _core.TupleTable(*texts, key_type, *how)


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
        begin, end = end, end + nbytes(tensor.dtype, shape)
        wanted = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [begin, end]}
        if entry != wanted or not all(
            type(n) is int for n in (*entry["shape"], *entry["data_offsets"])
        ):
            raise InvalidValueError(f"{name}: expected {wanted}, got {entry!r:.200}")
        if end > len(data):
            raise InvalidValueError(f"{name}: expected bytes up to {end}, got {len(data)}")
        yield name, data[begin:end].view(DTYPES[tensor.dtype]).reshape(shape)
    if end != len(data):
        raise InvalidValueError(f"expected {end} bytes of data, got {len(data)}")


def _read_header(data: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """Return the safetensors header and where the data starts."""
    if len(data) < 8:
        raise InvalidValueError(f"expected a header, got {len(data)} bytes")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 2 <= length <= min(len(data) - 8, MAX_HEADER) or (8 + length) % PAGE != 0:
        if got := looks_like(data[:LOOKED_AT].tobytes()):
            raise InvalidValueError(f"expected a bank file, got {got}")
        raise InvalidValueError(
            f"expected a header that ends at a multiple of {PAGE} within the file's "
            f"{len(data)} bytes, got a length of {length}"
        )
    return json_object(data[8 : 8 + length].tobytes().decode(), "header"), 8 + length
