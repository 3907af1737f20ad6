"""The files of a live folder: where they lie, how segments grow, and the head."""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank.errors import BankFileError, InvalidValueError
from mlpbank.files import _live_index
from mlpbank.files._atomic import sync_folder

HEAD = "head"
HEAD_BYTES = _core.Head.nbytes  # of new ones
_LEAST_HEAD_BYTES = 4096  # without room for recent changes
_MAGIC = b"mlpbank head 1\n\0"  # 16 bytes, before the word that `_core.Head` reads
_LEAST_SEGMENT, _MOST_SEGMENT = 1 << 20, 256 << 20  # bytes
_MOST_BUFFERS = 512  # of one write
# Bytes of zeros that are written at once, and how many transactions find room in them at least.
_AHEAD, _SELDOM = 16 << 20, 512
_OWN = re.compile(r"(base-([0-9]{6,})\.mlpbank|blocks-([0-9]{6,})\.bin)")
_TEMPORARY = re.compile(r"\.mlpbank\.[0-9a-f]{16}\.tmp")
# Where two machines may have a folder at once, or mappings of one file differ.
_NETWORK = re.compile(
    r"(nfs|nfs4|cifs|smb3?|smbfs|9p|afs|ceph|glusterfs|lustre|gpfs|beegfs|ocfs2|gfs2|virtiofs|"
    r"vboxsf|fuse\.(sshfs|glusterfs|s3fs|gcsfuse|rclone|ceph.*|juicefs|blobfuse2?|goofys))"
)

# What has been written to is written to again in its place, so zeros ahead are of use. (btrfs and
# others would look for new room, which may have become full.)
_IN_PLACE = ("ext4", "xfs")

Bytes = npt.NDArray[np.uint8]


def index_path(folder: Path) -> Path:
    """Return where the index lies."""
    return folder / _live_index.NAME


def base_path(folder: Path, number: int) -> Path:
    """Return where a base lies."""
    return folder / f"base-{number:06d}.mlpbank"


def segment_path(folder: Path, number: int) -> Path:
    """Return where a segment lies."""
    return folder / f"blocks-{number:06d}.bin"


def segment_size(block_bytes: int, base_bytes: int) -> int:
    """Return the size of segments: a quarter of the base, and room for many blocks."""
    # Of 512 changes one writes zeros for the others. Smaller blocks find room for more anyway.
    many = _SELDOM if 2048 <= block_bytes <= _AHEAD // _SELDOM else 16
    size = min(max(base_bytes // 4, _LEAST_SEGMENT, many * block_bytes), _MOST_SEGMENT)
    size = max(size, block_bytes)
    return -(-size // 4096) * 4096


def is_live(path: Path) -> bool:
    """Return whether a path is the folder of a live bank, damaged ones included."""
    return index_path(path).exists() or (path / HEAD).is_file()


def segments_of(folder: Path) -> list[int]:
    """Return the numbers of all segments that are there."""
    found = (_OWN.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[3]) for match in found if match is not None and match[3] is not None)


def bytes_on_disk(folder: Path) -> int:
    """Return the size of all files of a folder, or of a file."""
    if not folder.is_dir():
        return folder.stat().st_size
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a compaction removes files
            total += path.stat().st_size
    return total


def check_folder(folder: Path, anywhere: bool = False) -> None:
    """Raise where there is no live folder, or, unless `anywhere`, one on a network file system."""
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    if not index_path(folder).is_file():
        raise BankFileError(
            f"{folder}: expected a bank file or the folder of a live bank, got a folder without "
            f"{_live_index.NAME}"
        )
    if not anywhere:
        refuse_network(folder)


def expect_writable(folder: Path) -> None:
    """Raise PermissionError where the files of a live folder cannot be changed."""
    check_folder(folder)
    for path in (folder, index_path(folder), folder / HEAD):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def refuse_network(folder: Path) -> None:
    """Raise ValueError on file systems of several machines, where a mapping may be out of date."""
    kind = file_system(folder)
    if _NETWORK.fullmatch(kind):
        raise InvalidValueError(
            f"{folder}: expected a local file system for a live bank, got {kind}: processes of "
            "other machines would not see changes; copy it to a local disk (mlpbank create), or "
            "use a bank file"
        )


def file_system(path: Path, table: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system that a path is on, as Linux names it; '' if unknown."""
    best, kind = -1, ""
    real = os.path.realpath(path)
    try:
        lines = Path(table).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        if "-" not in fields[6:] or len(fields) < 10:
            continue
        point = fields[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # of mounts on one place the last counts
            best, kind = len(point), fields[fields.index("-", 6) + 1]
    return kind


# --- Head.


def create_head(folder: Path, sequence: int) -> None:
    """Make the head of a new folder."""
    start = _MAGIC + sequence.to_bytes(8, "little")
    with open(folder / HEAD, "xb") as file:
        file.write(start.ljust(HEAD_BYTES, b"\0"))
        file.flush()
        os.fsync(file.fileno())


def map_head(folder: Path, writable: bool) -> _core.Head:
    """Map the head, for writing if that is possible and asked for."""
    path = folder / HEAD
    way = "copy the folder to a new one: mlpbank create"
    try:
        with open(path, "r+b" if writable else "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size not in (_LEAST_HEAD_BYTES, _core.Head.nbytes):
                raise BankFileError(
                    f"{path}: expected {_core.Head.nbytes} bytes (or {_LEAST_HEAD_BYTES}), got "
                    f"{size}; {way}"
                )
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            pages = mmap.mmap(file.fileno(), size, access=access)
    except FileNotFoundError:
        raise BankFileError(f"{path}: expected the head of a live bank, got none; {way}") from None
    if pages[: len(_MAGIC)] != _MAGIC:
        raise BankFileError(f"{path}: expected the head of a live bank, got other bytes; {way}")
    return _core.Head(np.frombuffer(pages, np.uint8))


def silent_head() -> _core.Head:
    """Return a head that never says that something is new."""
    return _core.Head(np.zeros(_LEAST_HEAD_BYTES, np.uint8))


# --- Segments.


def map_segment(folder: Path, number: int, size: int) -> Bytes:
    """Map a segment for reading.

    Raises
    ------
    FileNotFoundError
        It is gone: a compaction has removed it.
    BankFileError
        It has another size.
    """
    path = segment_path(folder, number)
    with open(path, "rb") as file:
        got = os.fstat(file.fileno()).st_size
        if got != size:
            raise BankFileError(f"{path}: expected {size} bytes, got {got}")
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


class SegmentWriter:
    """Writes blocks into segments, one after the other.

    Parameters
    ----------
    folder : Path
    size : int
        Bytes of a segment.
    waits : bool
        Whether each transaction is synced. Then the disk begins with its blocks at once, and on
        some file systems small ones find zeros in their place: what has only been set aside is
        noted when it is used for the first time, and a sync that waits for that takes twice as
        long. (PostgreSQL does so with its log, see `wal_init_zero` in its documentation.)
    """

    def __init__(self, folder: Path, size: int, waits: bool = False) -> None:
        self._folder = folder
        self._size = size
        self._waits = waits
        self._fills = waits and file_system(folder) in _IN_PLACE
        self._used = 0  # up to here the room of the segment has been written to
        self._number = -1
        self._file = -1
        self._is_doubtful = False  # a write or sync has failed: the segment is left alone

    def append(
        self, number: int, tail: int, blocks: Sequence[memoryview]
    ) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """Write blocks of equal size behind the tail of a segment, and into new ones.

        A segment is made with all of its room, so that writing through its end cannot fail later.

        Parameters
        ----------
        number, tail : int
            Of the segment, and where it ends.
        blocks : sequence of memoryview of bytes

        Returns
        -------
        list of (int, int)
            Segment and offset of each block.
        (int, int)
            Segment and offset behind the last.
        """
        if tail > 0:
            self._use(number)  # so that it is synced before a new one is begun
        if self._is_doubtful:
            number, tail = number + 1, 0
        where: list[tuple[int, int]] = []
        is_small = _SELDOM * sum(map(len, blocks)) <= min(_AHEAD, self._size)
        first = 0
        while first < len(blocks):
            size = len(blocks[first])
            count = min((self._size - tail) // size, _MOST_BUFFERS, len(blocks) - first)
            if count <= 0:  # below 0 where a damaged index says that it ends behind itself
                number, tail = number + 1, 0
                continue
            self._write(number, tail, blocks[first : first + count], self._fills and is_small)
            where += [(number, tail + i * size) for i in range(count)]
            tail += count * size
            first += count
        return where, (number, tail)

    def _write(
        self, number: int, offset: int, blocks: Sequence[memoryview], goes_ahead: bool
    ) -> None:
        nbytes = sum(map(len, blocks))
        try:
            self._use(number)
            if goes_ahead and offset + nbytes > self._used:
                self._write_ahead(offset, offset + nbytes)
            written = os.pwritev(self._file, blocks, offset)
            rest = memoryview(b"")
            if written < nbytes:
                rest = memoryview(b"".join(blocks))[written:]
            while rest:
                written += (count := os.pwrite(self._file, rest, offset + written))
                rest = rest[count:]
            if self._waits:
                _core.begin_write_back(self._file, offset, nbytes)
        except OSError:
            self._is_doubtful = True
            raise
        self._is_doubtful = False

    def _write_ahead(self, tail: int, end: int) -> None:
        """Write zeros from `end` on, unless others have. Blocks go to the room from `tail` on."""
        self._used = os.lseek(self._file, tail, os.SEEK_HOLE)
        if end <= self._used:
            return
        self._used = min(end + _AHEAD, self._size)
        zeros = memoryview(bytes(min(self._used - end, 1 << 20)))
        while end < self._used:
            end += os.pwrite(self._file, zeros[: self._used - end], end)

    def sync(self, number: int, tail: int) -> None:
        """Wait until all blocks before this place are on the disk, whoever has written them."""
        if tail > 0:
            self._use(number)
        if self._file >= 0:
            self._sync_file()

    def _sync_file(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError:
            self._is_doubtful = True
            raise

    def _use(self, number: int) -> None:
        if number == self._number:
            return
        if self._file >= 0:
            self._sync_file()  # no later sync reaches the segment before
        self.close()
        path = segment_path(self._folder, number)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        file = os.open(path, flags, 0o666 & os.stat(index_path(self._folder)).st_mode)
        try:
            if os.fstat(file).st_size != self._size:
                os.posix_fallocate(file, 0, self._size)  # so that no page is without its place
            os.fsync(file)  # also where another process has made it and was killed before this
            sync_folder(self._folder)
            if os.fstat(file).st_size != self._size:
                raise BankFileError(f"{path}: expected {self._size} bytes, got more")
        except BaseException:
            os.close(file)
            raise
        self._number, self._file, self._used = number, file, 0

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            file, self._file, self._number = self._file, -1, -1
            with suppress(OSError):
                os.close(file)

    def __del__(self) -> None:
        self.close()


def temporary_files(folder: Path) -> list[Path]:
    """Return bases in the making, and what was left of some."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def remove_left_over(folder: Path, base: int, segments: Iterable[int]) -> list[Path]:
    """Remove bases and segments that no row names. Return what is removed.

    Parameters
    ----------
    base : int
        The number of the base; newer ones may be in the making and stay.
    segments : iterable of int
        Numbers of the segments to keep, and of later ones that may be in the making.
    """
    keep, removed = set(segments), []
    for path in sorted(folder.iterdir()):
        match = _OWN.fullmatch(path.name)
        if match is None:
            continue
        is_old_base = match[2] is not None and int(match[2]) < base
        is_old_segment = match[3] is not None and int(match[3]) < min(keep)
        if is_old_base or is_old_segment:
            with suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
