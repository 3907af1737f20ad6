"""Writing files so that they appear complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from mlpbank.files._named import named

# What a file system says that cannot sync a file (FUSE). Anything else tells of lost data.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
# Folders are often refused, and in many ways (CIFS, VirtualBox). These alone tell of lost data.
_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)


@contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` as a whole or not at all, power cuts included.

    The data goes to a temporary file in the same folder. That file takes the place of `path` when
    the block ends without an error. A process that has the old file open or mapped keeps it. A
    process that is killed leaves its temporary file behind, ``.mlpbank.<16 hex digits>.tmp``.

    After an error `path` holds the old file, or none if there was none. Write one byte after the
    other: some file systems cannot go back. The new file gets owner and mode of the old one, and
    the rename is synced, as far as the file system can do that; where it cannot, the file is
    complete all the same.

    Raises
    ------
    OSError
        It names `path`, whatever failed.
    """
    with named(path):
        target = os.path.realpath(os.fspath(path))  # a link stays one
        folder = os.path.dirname(target)
        old = None
        if os.path.lexists(target):
            old = os.stat(target)
            if not stat.S_ISREG(old.st_mode):
                raise OSError(errno.EINVAL, "expected a regular file to replace", os.fspath(path))
        elif os.fspath(path).endswith(os.sep) or not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        # Not made from the target's name, which may have all of the 255 bytes that file systems
        # allow.
        temporary = os.path.join(folder, f".mlpbank.{os.urandom(8).hex()}.tmp")
    with named(path, temporary):
        try:
            with open(temporary, "xb", opener=None if old is None else _like(old)) as file:
                if old is not None:
                    _copy_owner_and_mode(file.fileno(), old)
                yield file
                file.flush()
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    if error.errno not in _NO_SYNC:
                        raise
            sync_folder(folder)  # a disk that fails is noticed while the old file is there
            _replace(temporary, target, path)
        except BaseException:
            with suppress(OSError):  # the first error is the one to tell
                os.unlink(temporary)
            raise
    with suppress(OSError):  # the new file is there, so this is no failure
        sync_folder(folder)  # the rename itself


def _like(old: os.stat_result) -> Callable[[str, int], int]:
    """Return an opener whose files nobody may read who may not read `old`."""
    return lambda name, flags: os.open(name, flags, stat.S_IMODE(old.st_mode) & 0o666)


def _copy_owner_and_mode(descriptor: int, old: os.stat_result) -> None:
    """Give a new file the owner and mode of the old one, where that is possible."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(OSError):  # only root may
            os.fchown(descriptor, old.st_uid, old.st_gid)
    with suppress(OSError):  # CIFS, FUSE: all files have the mode of the mount
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def sync_folder(path: str | os.PathLike[str]) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder to write to but not to list
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _LOST:
            raise
    finally:
        os.close(descriptor)


def _replace(temporary: str, target: str, path: str | os.PathLike[str]) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        raise OSError(
            error.errno,
            f"{error.strerror}: it cannot be replaced in one step, as a file that is mounted by "
            "itself cannot; mount its folder instead (docs/serving.md), or save under another name",
            os.fspath(path),
        ) from error
