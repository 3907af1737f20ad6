"""Making a live folder."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from mlpbank import _core
from mlpbank.bank._files import BankFiles
from mlpbank.files import _live_folder
from mlpbank.files._atomic import atomic_writer, sync_folder
from mlpbank.files._described import copy_json
from mlpbank.files._live_description import Description
from mlpbank.files._live_index import About, Index
from mlpbank.files._named import named


def create(bank: BankFiles, path: str | os.PathLike[str], progress: bool) -> None:
    """Make the folder of a live bank that has the models of `bank`, complete or not at all."""
    folder = Path(os.path.abspath(path))
    with named(path):
        if not folder.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder.parent))
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            what = "a live bank" if _live_folder.index_path(folder).exists() else "something else"
            raise FileExistsError(
                errno.EEXIST,
                f"expected a new folder, there is {what} (open it with writable=True to change it)",
                str(folder),
            )
    _live_folder.refuse_network(folder.parent)
    made = folder.with_name(f".mlpbank.{secrets.token_hex(8)}.tmp")
    with named(path, made):
        made.mkdir()
        try:
            _fill(bank, made, progress)
            sync_folder(made)
            sync_folder(folder.parent)  # a disk that fails is noticed before the folder is there
            os.rename(made, folder)  # takes the place of an empty folder
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    with suppress(OSError):  # the folder is there, so this is no failure
        sync_folder(folder.parent)


def _fill(bank: BankFiles, folder: Path, progress: bool) -> None:
    snapshot, slots, columns = bank._now().slot_map.freeze()
    with atomic_writer(_live_folder.base_path(folder, 1)) as file:
        bank._write_frozen(file, snapshot, slots, columns, progress)
    known = bank._decided_now()
    described = bank._known if known is None else known
    about = Description(
        architecture=bank.architecture,
        dtype=bank.dtype,
        layout=bank.layout,
        key_type=columns.key_type,
        fallback=bank.fallback,
        metadata=copy_json(bank.metadata),
        is_decided=known is not None,
        input_shift=described.input_shift,
        feature_names=described.feature_names,
        classes=described.classes,
        repeated=described.repeated,
    )
    block = _core.block_of(bank.architecture._core, bank.layout, bank.dtype)
    base_bytes = -(-len(slots) // block.models) * block.bytes
    Index.create(
        _live_folder.index_path(folder),
        About(
            identity=secrets.token_hex(16),
            description=about.to_json(),
            sequence=0,
            synced=0,
            base=1,
            base_sequence=0,
            next_base=2,
            segment_bytes=_live_folder.segment_size(block.bytes, base_bytes),
            segment=1,
            tail=0,
        ),
    )
    _live_folder.create_head(folder, 0)
