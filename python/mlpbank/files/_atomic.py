"""Writing files so that they appear complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` as a whole or not at all, power cuts included.

    The data goes to a temporary file in the same folder. That file takes the place of `path` when
    the block ends without an error. A process that has the old file open or mapped keeps it. A
    process that is killed leaves its temporary file behind, ``.mlpbank.<16 hex digits>.tmp``.
    """
    target = Path(os.path.realpath(path))  # a link stays one
    mode = None
    if os.path.lexists(target):
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "expected a regular file to replace", os.fspath(path))
        mode = stat.S_IMODE(status.st_mode)
    elif os.fspath(path).endswith(os.sep) or not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    # Not made from the target's name, which may have all of the 255 bytes that file systems allow.
    temporary = target.with_name(f".mlpbank.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
