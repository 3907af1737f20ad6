"""Bank files: packed weights as they lie in memory, so that opening one is mapping it. docs/format.md describes them.

Files are untrusted. Everything in the header must be as this version writes it for the stated
architecture, dtype and numbers of models and bytes; then the tensors' places follow, and they must
cover the file exactly. Nothing is allocated in proportion to what a header says, and nothing is
ever unpickled.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._columns import ModelColumns
from mlpbank._keys import Table, as_keys, check_key, decode_strings, table_keys
from mlpbank._progress import progress_bar
from mlpbank.architecture import Architecture, LayerSpec
from mlpbank.errors import BankFileError, InvalidTypeError, InvalidValueError, ModelNotLoadedError
from mlpbank.typing import Key

FORMAT, VERSION = "mlpbank", 2
_ENTRY = "mlpbank"  # of the safetensors metadata
_PAGE = 4096  # where the data starts, at a multiple of it
_MAX_HEADER = 16 << 20  # bytes
_MAX_MODELS = 2**32 - 2  # slots are 32 bits wide
_YEAR_9999 = 253370764800.0  # seconds since 1970: what a datetime can still hold
_WRITE_BYTES = 8 << 20  # at a time
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
        The packed weights of all models; see cpp/kernel.h.
    columns : ModelColumns
        Keys, versions, revisions and times of loading; model i is that of the key at position i.
    fallback : str, int or None
    metadata : dict
        The user's.
    checksums : dict of str to str
        CRC-32 of each tensor in hexadecimal.
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


def tensors_of(contents: Contents) -> dict[str, Array]:
    """Return all tensors but the weights, in the order of the file: the widest elements first, so all are aligned."""
    columns = contents.columns
    tensors: dict[str, Array] = {
        "generation": columns.revisions,
        "loaded_at": columns.loaded_at,
        "version.offsets": columns.version_offsets,
    }
    table = columns.table
    if isinstance(table, _core.IntTable):
        tensors |= {"keys": table.values, "keys.slots": table.buckets}
    elif table is not None:
        tensors |= {
            "keys.offsets": table.offsets,
            "keys.slots": table.buckets,
            "keys.bytes": table.bytes,
        }
    return tensors | {"version.bytes": columns.version_bytes}


def write(
    file: BinaryIO,
    contents: Contents,
    copy_blocks: Callable[[int, int], npt.NDArray[np.uint8]],
    progress: bool,
) -> None:
    """Write a bank file.

    Parameters
    ----------
    file : binary file
        At its beginning, seekable.
    contents : Contents
        Its `blocks` and `checksums` are not looked at.
    copy_blocks : callable
        ``copy_blocks(first, count)`` gives blocks as bytes. They are asked for in parts: the
        weights of a large bank are never in memory twice.
    progress : bool
        Show a bar.
    """
    block = _core.block_of(contents.architecture._core, contents.layout, contents.dtype)
    blocks = -(-contents.models // block.models)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors_of(contents).items()}
    checksums = dict.fromkeys(("weights", *tensors), 0)
    shapes = {"weights": ("U8", [blocks, block.bytes])} | {
        name: (
            next(key for key, dtype in _DTYPES.items() if dtype == array.dtype),
            list(array.shape),
        )
        for name, array in tensors.items()
    }
    # Checksums have a fixed width, so the header can be written before they are known and again
    # afterwards.
    file.write(_header(contents, shapes, checksums))
    step = max(1, _WRITE_BYTES // block.bytes)
    with_bar = progress_bar(
        range(0, blocks, step), "saving", progress, unit_scale=step * block.bytes, unit="B"
    )
    for first in with_bar:
        data = copy_blocks(first, min(step, blocks - first)).data
        checksums["weights"] = zlib.crc32(data, checksums["weights"])
        file.write(data)
    for name, array in tensors.items():
        data = _bytes(array)
        checksums[name] = zlib.crc32(data)
        file.write(data)
    file.seek(0)
    file.write(_header(contents, shapes, checksums))


def _header(
    contents: Contents, shapes: Mapping[str, tuple[str, list[int]]], checksums: Mapping[str, int]
) -> bytes:
    table = contents.columns.table
    description = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": [
            [s.input_size, s.output_size, s.activation.value] for s in contents.architecture.layers
        ],
        "dtype": contents.dtype,
        "layout": contents.layout,
        "models": contents.models,
        "keys": None if table is None else "int" if isinstance(table, _core.IntTable) else "str",
        "seed": None if table is None or table.seed is None else table.seed.hex(),
        "fallback": contents.fallback,
        "metadata": contents.metadata,
        "crc32": {name: f"{checksum:08x}" for name, checksum in checksums.items()},
    }
    header: dict[str, Any] = {"__metadata__": {_ENTRY: json.dumps(description, allow_nan=False)}}
    end = 0
    for name, (dtype, shape) in shapes.items():
        begin, end = end, end + _nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _PAGE)
    if len(text) > _MAX_HEADER:
        raise InvalidValueError(
            f"metadata: expected at most {_MAX_HEADER} bytes with the header, got {len(text)}"
        )
    return len(text).to_bytes(8, "little") + text


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def copy_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return a copy that nobody changes, as reading it from a file gives it."""
    if not isinstance(metadata, dict):
        raise InvalidTypeError(f"metadata: expected a dict, got {metadata!r:.80}")
    try:
        text = json.dumps(metadata, allow_nan=False)
    except RecursionError:
        raise InvalidValueError("metadata: expected JSON that is not nested so deeply") from None
    except (TypeError, ValueError) as error:
        kind = InvalidTypeError if isinstance(error, TypeError) else InvalidValueError
        raise kind(f"metadata: expected what JSON can hold, got an error: {error}") from None
    return _json_object(text, "metadata")


def _nbytes(dtype: str, shape: list[int]) -> int:
    count: int = _DTYPES[dtype].itemsize
    for size in shape:
        count *= size
    return count


def open_file(path: str | os.PathLike[str], *, map_file: bool) -> Contents:
    """Open a bank file: map it, or read all of it.

    Raises
    ------
    BankFileError
        It is not a valid bank file, whatever the reason.
    OSError
        It cannot be opened or read.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe would wait for ever
        raise BankFileError(f"{os.fspath(path)}: expected a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise BankFileError(f"{os.fspath(path)}: expected a header, got {size} bytes")
        if map_file:
            try:
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            except ValueError as error:  # shortened in this moment
                raise BankFileError(
                    f"{os.fspath(path)}: expected {size} bytes, got fewer"
                ) from error
            # Read pages as they are needed, without their neighbours: a call for some models
            # touches those only.
            mapped.madvise(mmap.MADV_RANDOM)
            data = np.frombuffer(mapped, np.uint8)
        else:
            data = aligned_empty(size)
            view = data.data
            while view:
                count = file.readinto(view)
                if count == 0:
                    raise BankFileError(
                        f"{os.fspath(path)}: expected {size} bytes, got {size - len(view)}"
                    )
                view = view[count:]
    try:
        return parse(data)
    except BankFileError as error:
        raise BankFileError(f"{os.fspath(path)}: {error}") from error


def aligned_empty(size: int) -> npt.NDArray[np.uint8]:
    """Return memory that starts at a multiple of 64, as blocks have to."""
    memory = np.empty(size + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + size]


def aligned_zeros(size: int) -> npt.NDArray[np.uint8]:
    """Return memory like `aligned_empty`, all zero."""
    memory = aligned_empty(size)
    memory[:] = 0
    return memory


def from_bytes(data: bytes) -> Contents:
    """Return the contents of a bank file that is in memory."""
    copy = aligned_empty(len(data))
    copy[:] = np.frombuffer(data, np.uint8)
    return parse(copy)


def parse(data: npt.NDArray[np.uint8]) -> Contents:
    """Return the contents of a whole bank file, as views into it."""
    try:
        return _parse(data)
    # RecursionError: JSON nested without end. The others are what LayerSpec, Architecture and json
    # raise.
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BankFileError(f"{str(error) or type(error).__name__:.400}") from error


def _parse(data: npt.NDArray[np.uint8]) -> Contents:
    header, start = _read_header(data)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_ENTRY), str):
        raise InvalidValueError(f"expected metadata {_ENTRY!r}, got none")
    about = _json_object(metadata[_ENTRY], f"metadata {_ENTRY!r}")
    if about.get("format") != FORMAT:
        raise InvalidValueError(f"format: expected {FORMAT!r}, got {about.get('format')!r}")
    version = about.get("version")
    if type(version) is not int or version < 1:
        raise InvalidValueError(f"version: expected {VERSION}, got {version!r}")
    if version > VERSION:
        raise InvalidValueError(
            f"version: this mlpbank reads up to {VERSION}, got {version}; a newer mlpbank wrote it"
        )
    architecture = Architecture(_layer(entry) for entry in _expect_in(about, "architecture", list))
    dtype, layout = _expect_in(about, "dtype", str), _expect_in(about, "layout", str)
    if layout not in ("panel", "lane"):
        raise InvalidValueError(f"layout: expected 'panel' or 'lane', got {layout!r}")
    block = _core.block_of(architecture._core, layout, dtype)
    models = _expect_in(about, "models", int)
    if not 0 <= models <= _MAX_MODELS:
        raise InvalidValueError(f"models: expected 0 to {_MAX_MODELS}, got {models}")
    kind = about.get("keys")
    if kind not in ("str", "int", None) or (kind is None and models > 0):
        raise InvalidValueError(f"keys: expected 'str' or 'int', got {kind!r}")
    seed = _seed(about) if version > 1 and kind is not None else None

    # Numbers of bytes of text are known from the file alone.
    expected: dict[str, tuple[str, list[int] | None]] = {
        "weights": ("U8", [-(-models // block.models), block.bytes]),
        "generation": ("I64", [models]),
        "loaded_at": ("F64", [models]),
        "version.offsets": ("U64", [models + 1]),
    }
    if kind is not None:
        slots = _num_slots(models)
        keys: dict[str, tuple[str, list[int] | None]] = (
            {"keys": ("I64", [models]), "keys.slots": ("U32", [slots])}
            if kind == "int"
            else {
                "keys.offsets": ("U64", [models + 1]),
                "keys.slots": ("U32", [slots]),
                "keys.bytes": ("U8", None),
            }
        )
        expected |= keys
    expected["version.bytes"] = ("U8", None)
    tensors = dict(_tensors(data[start:], header, expected))
    table: Table | None = None
    if kind == "int":
        table = _core.IntTable(tensors["keys"], tensors["keys.slots"], seed)
    elif kind == "str":
        table = _core.StringTable(
            tensors["keys.offsets"], tensors["keys.bytes"], tensors["keys.slots"], seed
        )
    fallback = about.get("fallback")
    if fallback is not None:
        if type(fallback).__name__ != kind:
            raise InvalidValueError(f"fallback: expected a key, got {fallback!r:.80}")
        check_key(fallback, str if kind == "str" else int)
    checksums = _expect_in(about, "crc32", dict)
    if checksums.keys() != expected.keys() or not all(
        isinstance(c, str) for c in checksums.values()
    ):
        raise InvalidValueError(
            f"crc32: expected one for each of {', '.join(expected)}, got {', '.join(checksums)}"
        )
    return Contents(
        architecture=architecture,
        dtype=dtype,
        layout=layout,
        models=models,
        blocks=tensors["weights"].reshape(-1),
        columns=ModelColumns(
            table,
            tensors["generation"],
            tensors["loaded_at"],
            tensors["version.offsets"],
            tensors["version.bytes"],
        ),
        fallback=fallback,
        metadata=_expect_in(about, "metadata", dict),
        checksums=checksums,
    )


def _seed(about: Mapping[str, Any]) -> bytes | None:
    """Return the seed that keys are hashed with; None: as in version 1, whose table a bank may still have."""
    text = about.get("seed")
    if text is None:
        return None
    if type(text) is not str or not re.fullmatch("[0-9a-f]{32}", text):
        raise InvalidValueError(f"seed: expected 32 hexadecimal digits, got {text!r:.80}")
    return bytes.fromhex(text)


def _layer(entry: Any) -> LayerSpec:
    if type(entry) is not list or len(entry) != 3:
        raise InvalidValueError(
            f"architecture: expected [input_size, output_size, activation], got {entry!r:.80}"
        )
    return LayerSpec(*entry)


def _read_header(data: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """Return the safetensors header and where the data starts."""
    if len(data) < 8:
        raise InvalidValueError(f"expected a header, got {len(data)} bytes")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 2 <= length <= min(len(data) - 8, _MAX_HEADER) or (8 + length) % _PAGE != 0:
        raise InvalidValueError(
            f"expected a header that ends at a multiple of {_PAGE} within the file's {len(data)} bytes, "
            f"got a length of {length}"
        )
    return _json_object(data[8 : 8 + length].tobytes().decode(), "header"), 8 + length


def _json_object(text: str, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise InvalidValueError("a key that comes twice")
        return result

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant)
    except ValueError as error:
        raise InvalidValueError(f"{name}: expected JSON, got {error}") from None
    if not isinstance(value, dict):
        raise InvalidValueError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def _no_constant(name: str) -> None:
    raise InvalidValueError(f"{name}")


def _expect(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise InvalidValueError(f"{name}: expected {kind.__name__}, got {value!r:.80}")
    return value


def _expect_in(about: Mapping[str, Any], name: str, kind: type) -> Any:
    return _expect(about.get(name), kind, name)


def _num_slots(models: int) -> int:
    return max(2, 1 << (2 * models - 1).bit_length()) if models else 2


def _tensors(
    data: npt.NDArray[np.uint8],
    header: Mapping[str, Any],
    expected: Mapping[str, tuple[str, list[int] | None]],
) -> Iterator[tuple[str, Array]]:
    """Yield every expected tensor as a view; each begins where the one before ended, and the last ends the file."""
    if list(header) != list(expected):
        raise InvalidValueError(
            f"tensors: expected {', '.join(expected)}, got {', '.join(header):.200}"
        )
    end = 0
    for name, (dtype, shape) in expected.items():
        entry = _expect(header[name], dict, name)
        if shape is None:  # bytes of text, whose number the offsets tell
            shape = _expect_in(entry, "shape", list)
            if len(shape) != 1 or type(shape[0]) is not int or not 0 <= shape[0] <= len(data):
                raise InvalidValueError(
                    f"{name}: expected a shape of one dimension, got {shape!r:.80}"
                )
        begin, end = end, end + _nbytes(dtype, shape)
        wanted = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        if entry != wanted or not all(
            type(n) is int for n in (*entry["shape"], *entry["data_offsets"])
        ):
            raise InvalidValueError(f"{name}: expected {wanted}, got {entry!r:.200}")
        if end > len(data):
            raise InvalidValueError(f"{name}: expected bytes up to {end}, got {len(data)}")
        yield name, data[begin:end].view(_DTYPES[dtype]).reshape(shape)
    if end != len(data):
        raise InvalidValueError(f"expected {end} bytes of data, got {len(data)}")


def verify(contents: Contents, progress: bool = False) -> None:
    """Check everything that opening leaves out for speed: checksums, keys, versions, finite weights of every model.

    Raises
    ------
    BankFileError
        Something is not as it was written, or a weight is not finite; the message names the model.
    """
    for name, array in ({"weights": contents.blocks} | tensors_of(contents)).items():
        checksum = f"{zlib.crc32(_bytes(array)):08x}"
        if checksum != contents.checksums[name]:
            raise BankFileError(
                f"{name}: expected CRC-32 {contents.checksums[name]}, got {checksum}"
            )
    columns = contents.columns
    if contents.models == 0 or columns.table is None:
        return
    keys = table_keys(columns.table)
    ids, unknown = columns.table.find(as_keys(keys)[0])
    if columns.table.is_rebuilt:
        raise BankFileError(
            "keys.slots: expected every key within 512 steps, got a table in which searches are longer"
        )
    if unknown or not np.array_equal(ids, np.arange(contents.models)):
        bad = int(np.argmax(ids != np.arange(contents.models)))
        raise BankFileError(
            f"keys: expected to find {keys[bad]!r} at position {bad}, got {ids[bad]}"
        )
    decode_strings(columns.version_offsets, columns.version_bytes, "version")
    if not (columns.revisions > 0).all():
        raise BankFileError(
            f"generation: expected positive ones, got {min(columns.revisions.tolist())}"
        )
    if not ((columns.loaded_at >= 0) & (columns.loaded_at < _YEAR_9999)).all():
        raise BankFileError("loaded_at: expected seconds since 1970, got others")
    weights = as_weights(contents)
    for i in progress_bar(range(contents.models), "verifying", progress):
        try:
            arrays = [array for part in weights.get(i) for array in part]
        except ModelNotLoadedError:
            raise BankFileError(f"weights: expected a model {keys[i]!r}, got none") from None
        if not all(np.isfinite(array).all() for array in arrays):
            raise BankFileError(f"weights: expected finite ones, got others in model {keys[i]!r}")


def as_weights(contents: Contents) -> _core.BatchedWeights:
    """Return the weights, which stay where they are."""
    return _core.BatchedWeights.from_buffer(
        contents.models,
        contents.architecture._core,
        contents.layout,
        contents.dtype,
        contents.blocks,
    )
