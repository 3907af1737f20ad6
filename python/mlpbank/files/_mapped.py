"""Bank files: packed weights as they lie in memory, so that opening one is mapping it.

Files are untrusted. Nothing is allocated in proportion to what a header says, and nothing is ever
unpickled.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._key_columns import as_keys
from mlpbank._key_tables import decode_strings, table_keys
from mlpbank._progress import progress_bar
from mlpbank.errors import BankFileError, ModelNotLoadedError
from mlpbank.files._looks import looks_like
from mlpbank.files._named import named
from mlpbank.files._read import read
from mlpbank.files._schema import Contents, as_bytes, header_of

YEAR_9999 = 253370764800.0  # seconds since 1970: the last that a datetime can hold
# What mmap says on file systems that have none: FUSE, 9p, some network mounts.
_CANNOT_MAP = (
    errno.ENODEV,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EPERM,
    errno.EACCES,
)
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
        At its beginning. It is written from there to the end.
    contents : Contents
        Its `blocks` and `checksums` are not looked at.
    copy_blocks : callable
        ``copy_blocks(first, count)`` gives blocks as bytes, the same ones whenever it is asked.
        They are asked for in parts: the weights of a large bank are never in memory twice.
    progress : bool
        Show a bar.
    """
    sizes = contents.sizes
    arrays = {
        tensor.name: np.ascontiguousarray(tensor.of(contents))
        for tensor in contents.tensors
        if tensor.name != "weights"
    }
    step = max(1, _WRITE_BYTES // sizes.block_bytes)
    starts = range(0, sizes.blocks, step)
    bar = progress_bar(
        itertools.chain(starts, starts),
        "saving",
        progress,
        total=2 * len(starts),
        unit_scale=step * sizes.block_bytes / 2,
        unit="B",
    )

    def parts() -> Iterator[memoryview]:
        for first in itertools.islice(bar, len(starts)):
            yield copy_blocks(first, min(step, sizes.blocks - first)).data

    # The header comes first and has the checksums. So the weights are copied twice, which costs
    # less than leaving out the file systems that cannot go back to it.
    bar = iter(bar)
    checksums = {"weights": 0}
    for data in parts():
        checksums["weights"] = _core.crc32(data, checksums["weights"])
    checksums |= {name: _core.crc32(as_bytes(array)) for name, array in arrays.items()}
    file.write(header_of(contents, arrays, checksums))
    for data in parts():
        file.write(data)
    next(bar, None)  # ends the bar
    for array in arrays.values():
        file.write(as_bytes(array))


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
    with named(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            got = looks_like(file.read(8)) or f"{size} bytes"
            raise BankFileError(f"{os.fspath(path)}: expected a bank file, got {got}")
        data = _map(file, size, path) if map_file else _read_all(file, size, path)
    try:
        return _parse(data, is_mapped=map_file)
    except BankFileError as error:
        raise BankFileError(f"{os.fspath(path)}: {error}") from error


def open_somehow(path: str | os.PathLike[str]) -> Contents:
    """Open a bank file: map it, or read all of it where the file system cannot map files."""
    try:
        return open_file(path, map_file=True)
    except OSError as error:
        if error.errno not in _CANNOT_MAP or isinstance(error, PermissionError):
            raise
        return open_file(path, map_file=False)


def _map(file: BinaryIO, size: int, path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    try:
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except ValueError as error:  # shortened in this moment
        raise BankFileError(f"{os.fspath(path)}: expected {size} bytes, got fewer") from error
    except OSError as error:
        if error.errno not in _CANNOT_MAP:
            raise
        raise OSError(
            error.errno,
            f"{error.strerror}: this file system cannot map files (mmap); "
            "open it with mmap=False, which reads all of it",
            os.fspath(path),
        ) from error
    # Read pages as they are needed, without their neighbours: a call for some models touches
    # those only.
    with suppress(OSError):
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.uint8)


def _read_all(file: BinaryIO, size: int, path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    data = aligned_empty(size)
    view = data.data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if count == 0:
            raise BankFileError(f"{os.fspath(path)}: expected {size} bytes, got {size - len(view)}")
        view = view[count:]
    return data


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


def from_bytes(data: Any) -> Contents:
    """Return the contents of a bank file in memory, which is copied where it is not aligned."""
    given = np.frombuffer(data, np.uint8)
    if given.ctypes.data % 64 != 0:
        copy = aligned_empty(len(given))
        copy[:] = given
        given = copy
    return _parse(given, is_mapped=False)


def fingerprint(header: npt.NDArray[np.uint8]) -> str:
    """Return what tells a bank file from others. Its header has the checksums of all the rest."""
    from hashlib import sha256  # takes long to import

    return sha256(header.data).hexdigest()[:32]


def has_header(path: str, header: npt.NDArray[np.uint8]) -> bool:
    """Return whether there is a file that begins with this header."""
    try:
        with open(path, "rb") as file:
            return file.read(len(header)) == header.tobytes()
    except OSError:
        return False


def _parse(data: npt.NDArray[np.uint8], *, is_mapped: bool) -> Contents:
    """Return the contents of a whole bank file, as views into it."""
    try:
        return read(data, is_mapped=is_mapped)
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
    for tensor in contents.tensors:
        expected = contents.checksums[tensor.name]
        checksum = f"{_core.crc32(as_bytes(tensor.of(contents))):08x}"
        if checksum != expected:
            raise BankFileError(f"{tensor.name}: expected CRC-32 {expected}, got {checksum}")
    columns = contents.columns
    if contents.models == 0 or columns.table is None:
        return
    of_slots = table_keys(columns.table)
    taken = np.array([i for i, key in enumerate(of_slots) if key is not None], np.int64)
    keys = [of_slots[i] for i in taken]
    given = as_keys(keys).values
    assert not isinstance(given, _core.ArrowKeys)
    positions, unknown = columns.table.find(given)
    if columns.table.is_rebuilt:
        raise BankFileError(
            "keys.slots: expected every key within 512 steps, got a table in which searches are "
            "longer"
        )
    if unknown or not np.array_equal(positions, taken):
        bad = int(np.argmax(positions != taken))
        raise BankFileError(
            f"keys: expected to find {keys[bad]!r} at position {taken[bad]}, got {positions[bad]}"
        )
    decode_strings(columns.version_offsets, columns.version_bytes, "version")
    if not (columns.revisions[taken] > 0).all():
        raise BankFileError(
            f"generation: expected positive ones, got {columns.revisions[taken].min()}"
        )
    loaded_at = columns.loaded_at[taken]
    if not ((loaded_at >= 0) & (loaded_at < YEAR_9999)).all():
        raise BankFileError("loaded_at: expected seconds since 1970, got others")
    weights = as_weights(contents)
    for i in progress_bar(taken.tolist(), "verifying", progress):
        check_finite(weights, i, of_slots[i])


def check_finite(weights: _core.BatchedWeights, slot: int, key: Any) -> None:
    """Raise BankFileError if a model is not there, or has weights that are not finite."""
    try:
        arrays = [array for layer in weights.get(slot) for array in layer if array is not None]
    except ModelNotLoadedError:
        raise BankFileError(f"weights: expected a model {key!r}, got none") from None
    if not all(np.isfinite(array).all() for array in arrays):
        raise BankFileError(f"weights: expected finite ones, got others in model {key!r}")


def as_weights(contents: Contents) -> _core.BatchedWeights:
    """Return the weights, which stay where they are."""
    return _core.BatchedWeights.from_buffer(
        contents.models,
        contents.architecture._core,
        contents.layout,
        contents.dtype,
        contents.blocks,
        contents.is_mapped,
        contents.columns.vacant,
    )
