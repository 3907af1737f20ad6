"""Banks in shards: a bank file or a live bank for each part of the keys, and their list."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank._columns import ModelColumns
from mlpbank._key_tables import empty_table, make_table, table_keys
from mlpbank._progress import progress_bar
from mlpbank.bank._bank import Bank
from mlpbank.bank._live import open_live
from mlpbank.errors import BankFileError, InvalidValueError
from mlpbank.files import _mapped
from mlpbank.files._atomic import atomic_writer
from mlpbank.files._described import (
    described_type,
    expect_in,
    fallback_of,
    json_object,
    key_type_of,
)
from mlpbank.typing import Int64Array, Key

MANIFEST = "shards.json"
_FORMAT, _VERSION = "mlpbank-shards", 1
_MOST = 256


def shards_of(keys: Sequence[Key | None], kind: Any, shards: int) -> Int64Array:
    """Return the shard of each key, -1 for None; docs/format.md has the formula."""
    numbers = _core.shards_of(list(keys), kind)
    return np.where(numbers < 0, -1, numbers * shards // _MOST)


def shard_name(shard: int, live: bool = False) -> str:
    """Return the name of the file of a shard, or of its folder."""
    return f"shard-{shard:03}.{'live' if live else 'mlpbank'}"


@dataclass(frozen=True)
class Manifest:
    """What is the same for all shards, and what tells their files from others.

    Attributes
    ----------
    key_type : type
    fallback : str, int, tuple or None
    input_size, output_size : int
    fingerprints : tuple of str
        Of the bank file of each shard; of live banks their identities.
    live : bool
        Whether each shard is the folder of a live bank.
    """

    key_type: Any
    fallback: Key | None
    input_size: int
    output_size: int
    fingerprints: tuple[str, ...]
    live: bool = False

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Read the page of a folder.

        Raises
        ------
        BankFileError
            It is none.
        OSError
            It cannot be read.
        """
        path = Path(folder) / MANIFEST
        try:
            about = json_object(path.read_text(encoding="utf-8"), MANIFEST)
            if about.get("format") != _FORMAT or about.get("version") != _VERSION:
                raise InvalidValueError(
                    f"expected {_FORMAT!r} of version {_VERSION}, got "
                    f"{about.get('format')!r:.80} of version {about.get('version')!r:.80}"
                )
            fingerprints = expect_in(about, "fingerprints", list)
            if not 1 <= len(fingerprints) <= _MOST or set(map(type, fingerprints)) != {str}:
                raise InvalidValueError(f"fingerprints: expected 1 to {_MOST} strings")
            key_type = key_type_of(about, 1, 2)
            return cls(
                key_type,
                fallback_of(about, key_type),
                expect_in(about, "input_size", int),
                expect_in(about, "output_size", int),
                tuple(fingerprints),
                expect_in(about, "live", bool),
            )
        except (TypeError, ValueError) as error:
            raise BankFileError(f"{path}: {error}") from error

    def write(self, folder: Path) -> None:
        """Write the page."""
        with atomic_writer(folder / MANIFEST) as file:
            file.write(self._page())

    @property
    def fingerprint(self) -> str:
        """What tells this page, and with it all shards, from others."""
        return sha256(self._page()).hexdigest()[:32]

    def _page(self) -> bytes:
        about = {
            "format": _FORMAT,
            "version": _VERSION,
            "keys": described_type(self.key_type),
            "fallback": self.fallback,
            "input_size": self.input_size,
            "output_size": self.output_size,
            "live": self.live,
            "fingerprints": self.fingerprints,
        }
        return json.dumps(about, indent=1).encode()


def split(
    bank: Bank,
    folder: str | os.PathLike[str],
    shards: int,
    progress: bool = False,
    live: bool = False,
) -> None:
    """Write a bank as one file or live bank for each shard, and a page that lists them.

    Parameters
    ----------
    bank : Bank
    folder : path-like
        A new or empty one.
    shards : int
        1 to 256.
    progress : bool
        Show a bar.
    live : bool
        Make a live bank of each shard.
    """
    if not 1 <= shards <= _MOST:
        raise InvalidValueError(f"shards: expected 1 to {_MOST}, got {shards}")
    path = Path(folder)
    path.mkdir(exist_ok=True)
    if any(path.iterdir()):
        raise InvalidValueError(f"{path}: expected a new or empty folder, got one with files")
    snapshot, slots, columns = bank._now().slot_map.freeze()
    kind = columns.key_type
    if kind is None:
        raise InvalidValueError("bank: expected models, got a bank that never had one")
    assert columns.table is not None
    keys = table_keys(columns.table)
    numbers = shards_of(keys, kind, shards)
    fingerprints = []
    for shard in progress_bar(range(shards), "splitting", progress, unit="shard"):
        chosen = np.flatnonzero(numbers == shard)
        part = _part(columns, keys, kind, chosen)
        file_path = path / shard_name(shard)
        with atomic_writer(file_path) as file:
            bank._write_frozen(file, snapshot, slots[chosen], part, False)
        if live:
            fingerprints.append(_into_live(file_path, path / shard_name(shard, live)))
        else:
            fingerprints.append(_mapped.fingerprint(_mapped.open_somehow(file_path).header))
    architecture = bank.architecture
    Manifest(
        kind,
        bank.fallback,
        architecture.input_size,
        architecture.output_size,
        tuple(fingerprints),
        live,
    ).write(path)  # last: without it the folder is none


def _into_live(file: Path, folder: Path) -> str:
    """Make a live bank of a bank file, which is removed, and return its identity."""
    Bank.open(file).save(folder, live=True)
    file.unlink()
    with open_live(folder) as bank:
        return bank.identity


def _part(
    columns: ModelColumns, keys: Sequence[Key], kind: Any, chosen: Int64Array
) -> ModelColumns:
    """Return the columns of some models."""
    versions = [(columns.version(i) or "").encode() for i in chosen.tolist()]
    offsets = np.zeros(len(chosen) + 1, np.uint64)
    np.cumsum([len(version) for version in versions], out=offsets[1:])
    return ModelColumns(
        make_table([keys[i] for i in chosen.tolist()]) if len(chosen) else empty_table(kind),
        columns.revisions[chosen],
        columns.loaded_at[chosen],
        offsets,
        np.frombuffer(b"".join(versions), np.uint8),
    )
