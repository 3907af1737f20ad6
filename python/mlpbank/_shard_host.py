"""What a process does that answers for shards: it opens those it is asked for."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from mlpbank._reference import BankReference
from mlpbank.bank import Bank, LiveBank
from mlpbank.bank._shards import MANIFEST, Manifest, shard_name
from mlpbank.errors import BankFileError
from mlpbank.typing import Float32Array, Key

_VERSIONS_KEPT = 2  # by an actor: that of calls which run, and the next


class Version(NamedTuple):
    """One version of all shards, as calls name it."""

    folder: str  # environment variables are those of the machine that opens it
    fingerprint: str  # of its page, which has those of all shards


def _manifest_of(version: Version) -> Manifest:
    """Read the page of this machine."""
    folder = os.path.expandvars(version.folder)
    manifest = Manifest.read(folder)
    if manifest.fingerprint != version.fingerprint:
        raise BankFileError(
            f"{folder}: {MANIFEST} is not that of the machine that asks; copy the folder anew"
        )
    return manifest


def open_shard(folder: str, manifest: Manifest, shard: int, writable: bool) -> Bank:
    """Open a shard on this machine; a live bank that is not writable follows by `refresh`."""
    path = os.path.join(os.path.abspath(folder), shard_name(shard, manifest.live))
    mark = manifest.fingerprints[shard]
    if not manifest.live:
        return BankReference(path, mark).open(None)
    bank = Bank.open(path, writable=writable, refresh="call" if writable else "manual")
    if not isinstance(bank, LiveBank) or bank.identity != mark:
        raise BankFileError(f"{path}: expected the live bank {mark}, got another one in its place")
    return bank


class Host:
    """An actor: the shards of a group, as far as they were asked for."""

    def __init__(self) -> None:
        self._versions: dict[Version, tuple[Manifest, dict[int, Bank]]] = {}

    def prepare(self, version: Version, shards: list[int]) -> None:
        """Open shards of a version."""
        for shard in shards:
            self._bank(version, shard)

    def predict(
        self, version: Version, shards: list[int], keys: list[list[Key]], x: Float32Array
    ) -> tuple[Float32Array, Any]:
        """Return outputs, NaN for unknown keys, and which keys are known."""
        outputs, known, begin = [], [], 0
        for shard, some in zip(shards, keys, strict=True):
            bank, end = self._bank(version, shard), begin + len(some)
            if isinstance(bank, LiveBank):
                bank.refresh()  # only here, so that what follows sees one moment
            outputs.append(bank.predict(some, x[begin:end], missing="nan"))
            known.append(bank.sources(some) == "model")
            begin = end
        return np.concatenate(outputs), np.concatenate(known)

    def _bank(self, version: Version, shard: int) -> Bank:
        if version not in self._versions:
            self._versions[version] = _manifest_of(version), {}
            while len(self._versions) > _VERSIONS_KEPT:
                _, old = self._versions.pop(next(iter(self._versions)))
                for bank in old.values():
                    if isinstance(bank, LiveBank):
                        bank.close()
        manifest, banks = self._versions[version]
        if shard not in banks:
            folder = os.path.expandvars(version.folder)
            banks[shard] = open_shard(folder, manifest, shard, writable=False)
        return banks[shard]
