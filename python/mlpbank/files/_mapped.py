"""Bank files: packed weights as they lie in memory, so that opening one is mapping it.

Files are untrusted. Nothing is allocated in proportion to what a header says, and nothing is ever
unpickled.
"""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._keys import as_keys, decode_strings, table_keys
from mlpbank._progress import progress_bar
from mlpbank.errors import BankFileError, ModelNotLoadedError
from mlpbank.files._schema import Contents, as_bytes, header_of, read, sizes_of, tensors_of

_YEAR_9999 = 253370764800.0  # seconds since 1970: the last that a datetime can hold
_WRITE_BYTES = 8 << 20  # at a time


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
    sizes = sizes_of(contents.models, contents.architecture, contents.layout, contents.dtype)
    arrays = {
        tensor.name: np.ascontiguousarray(tensor.of(contents))
        for tensor in tensors_of(contents.key_type)
        if tensor.name != "weights"
    }
    checksums = dict.fromkeys(("weights", *arrays), 0)
    # The header is written before the checksums are known, and again afterwards.
    file.write(header_of(contents, arrays, checksums))
    step = max(1, _WRITE_BYTES // sizes.block_bytes)
    with_bar = progress_bar(
        range(0, sizes.blocks, step),
        "saving",
        progress,
        unit_scale=step * sizes.block_bytes,
        unit="B",
    )
    for first in with_bar:
        data = copy_blocks(first, min(step, sizes.blocks - first)).data
        checksums["weights"] = zlib.crc32(data, checksums["weights"])
        file.write(data)
    for name, array in arrays.items():
        data = as_bytes(array)
        checksums[name] = zlib.crc32(data)
        file.write(data)
    file.seek(0)
    file.write(header_of(contents, arrays, checksums))


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
        return _parse(data)
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
    return _parse(copy)


def _parse(data: npt.NDArray[np.uint8]) -> Contents:
    """Return the contents of a whole bank file, as views into it."""
    try:
        return read(data)
    # RecursionError: JSON nested without end. The others are what LayerSpec, Architecture and json
    # raise.
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BankFileError(f"{str(error) or type(error).__name__:.400}") from error


def verify(contents: Contents, progress: bool = False) -> None:
    """Check what opening leaves out for speed.

    Checksums, keys, versions, and that the weights of every model are finite.

    Raises
    ------
    BankFileError
        Something is not as it was written, or a weight is not finite; the message names the model.
    """
    for tensor in tensors_of(contents.key_type):
        expected = contents.checksums[tensor.name]
        checksum = f"{zlib.crc32(as_bytes(tensor.of(contents))):08x}"
        if checksum != expected:
            raise BankFileError(f"{tensor.name}: expected CRC-32 {expected}, got {checksum}")
    columns = contents.columns
    if contents.models == 0 or columns.table is None:
        return
    keys = table_keys(columns.table)
    positions, unknown = columns.table.find(as_keys(keys)[0])
    if columns.table.is_rebuilt:
        raise BankFileError(
            "keys.slots: expected every key within 512 steps, got a table in which searches are "
            "longer"
        )
    if unknown or not np.array_equal(positions, np.arange(contents.models)):
        bad = int(np.argmax(positions != np.arange(contents.models)))
        raise BankFileError(
            f"keys: expected to find {keys[bad]!r} at position {bad}, got {positions[bad]}"
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
            arrays = [a for layer in weights.get(i) for a in layer if a is not None]
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
