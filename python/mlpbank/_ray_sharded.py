"""ShardedBank: a bank that does not fit one machine, in actors of Ray.

Actors keep nothing but mapped files: every call says which version of which shards it wants, by
path and fingerprint. So an actor that Ray starts anew, on whatever machine, answers like any other,
or says that it does not have these files; then another replica is asked.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mlpbank._arrays import as_float32
from mlpbank._key_columns import as_keys, expect_kind
from mlpbank._reference import BankReference
from mlpbank.architecture import positive_int
from mlpbank.bank import Bank
from mlpbank.bank._shards import Manifest, shard_name, shards_of
from mlpbank.errors import (
    BankFileError,
    InvalidValueError,
    MlpbankError,
    QueueFullError,
    UnknownModelError,
)
from mlpbank.typing import Float32Array, Int64Array, Key, Missing

_VERSIONS_KEPT = 2  # by an actor: that of calls which run, and the next
_ROUNDS = 20  # through all replicas, while `timeout` lasts


class ShardUnavailableError(MlpbankError, ConnectionError):
    """No replica of a shard answered in time. Nothing was computed for the keys in `keys`."""

    def __init__(self, keys: Sequence[Key], why: str) -> None:
        shown = ", ".join(map(repr, keys[:3])) + (", ..." if len(keys) > 3 else "")
        super().__init__(f"no replica of the shards of {len(keys)} keys answered: {shown}; {why}")
        self.keys = list(keys)


class _Version(NamedTuple):
    """One version of all shards."""

    folder: str  # environment variables are those of the machine that opens it
    manifest: Manifest

    def reference(self, shard: int) -> BankReference:
        folder = os.path.expandvars(self.folder)
        return BankReference(
            os.path.join(folder, shard_name(shard)), self.manifest.fingerprints[shard]
        )


class _Part(NamedTuple):
    """The rows of a call that go to one group of shards."""

    rows: Int64Array
    keys: list[list[Key]]  # by shard of the group
    shards: list[int]
    x: Float32Array


class _Host:
    """An actor: the shards of a group, as far as they were asked for."""

    def __init__(self) -> None:
        self._versions: dict[_Version, dict[int, Bank]] = {}

    def prepare(self, version: _Version, shards: list[int]) -> None:
        """Open shards of a version."""
        for shard in shards:
            self._bank(version, shard)

    def predict(
        self, version: _Version, shards: list[int], keys: list[list[Key]], x: Float32Array
    ) -> tuple[Float32Array, Any]:
        """Return outputs, NaN for unknown keys, and which keys are known."""
        outputs, known, begin = [], [], 0
        for shard, some in zip(shards, keys, strict=True):
            bank, end = self._bank(version, shard), begin + len(some)
            outputs.append(bank.predict(some, x[begin:end], missing="nan"))
            known.append(bank.sources(some) == "model")
            begin = end
        return np.concatenate(outputs), np.concatenate(known)

    def _bank(self, version: _Version, shard: int) -> Bank:
        banks = self._versions.setdefault(version, {})
        if shard not in banks:
            banks[shard] = version.reference(shard).open(None)
            while len(self._versions) > _VERSIONS_KEPT:
                del self._versions[next(iter(self._versions))]
        return banks[shard]


class ShardedBank:
    """A bank whose models are on several machines, for what does not fit one.

    ``mlpbank split FILE FOLDER --shards 256`` makes the folder. Each machine has it, or at least
    the shards that it is to serve, under the path that `folder` gives there. Each group of shards
    has `replicas` actors, on different machines; Ray starts them again when they or their machines
    die. A call sends the rows of each group to one of them, and asks the others where it fails.

    Parameters
    ----------
    folder : str
        Environment variables in it, ``"$BANKS/shops-1"``, are those of each machine.
    replicas : int
        Actors of each shard, each on another machine. As many machines have to be there at first.
    groups : int
        Groups of shards, each with actors of its own; by default one for each machine.
    timeout : float
        Seconds after which a call ends, at the latest.
    max_waiting : int
        Calls that may wait at a time, in all threads of this process; more are refused.
    num_cpus : float
        Of each actor, for Ray.

    Raises
    ------
    BankFileError, OSError
        The folder of this machine is none.
    ShardUnavailableError
        There are too few machines.
    """

    def __init__(
        self,
        folder: str,
        *,
        replicas: int = 2,
        groups: int | None = None,
        timeout: float = 60.0,
        max_waiting: int = 64,
        num_cpus: float = 1.0,
    ) -> None:
        self._version = self._read(folder)
        machines = sum(node["Alive"] for node in ray.nodes())
        self._shards = len(self._version.manifest.fingerprints)
        self._groups = min(positive_int(groups or machines, "groups"), self._shards)
        self._replicas = positive_int(replicas, "replicas")
        self._timeout = timeout
        self._max_waiting = positive_int(max_waiting, "max_waiting")
        self._waiting = 0
        self._lock = threading.Lock()
        self._turn = itertools.count()
        self._places: list[Any] = []
        self._hosts: list[list[Any]] = []
        host = ray.remote(_Host)
        try:
            for _ in range(self._groups):
                bundles = [{"CPU": num_cpus}] * self._replicas
                place = placement_group(bundles, strategy="STRICT_SPREAD")
                self._places.append(place)
                if not place.wait(self._timeout):
                    raise ShardUnavailableError(
                        [], f"expected {self._replicas} machines with free CPUs, got {machines}"
                    )
                hosts = [
                    host.options(
                        num_cpus=num_cpus,
                        max_restarts=-1,
                        scheduling_strategy=PlacementGroupSchedulingStrategy(place, i),
                    ).remote()
                    for i in range(self._replicas)
                ]
                self._hosts.append(hosts)
            self._prepare(self._version)
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> str:
        """The folder of the version that calls see."""
        return self._version.folder

    @property
    def key_type(self) -> Any:
        """The type of all keys."""
        return self._version.manifest.key_type

    def predict(self, keys: Any, x: Any, *, missing: Missing | None = None) -> Float32Array:
        """Send every row through the model of its key: the same bits as `Bank.predict`.

        All rows are answered by one version of the shards.

        Parameters
        ----------
        keys : sequence or column of n str, int or tuples
        x : array_like of real numbers
            (n, input_size) or (n, rows, input_size).
        missing : {"error", "nan", "fallback"}, optional
            As for `Bank.predict`.

        Returns
        -------
        float32 array
            (n, output_size) or (n, rows, output_size).

        Raises
        ------
        ShardUnavailableError
            No replica of some shards answered.
        QueueFullError
            Too many calls wait already.
        UnknownModelError, TypeError, ValueError
            As for `Bank.predict`.
        """
        version = self._version  # once: a call never mixes two
        manifest = version.manifest
        if missing is None:
            missing = "error" if manifest.fallback is None else "fallback"
        if missing not in ("error", "nan", "fallback"):
            raise InvalidValueError(
                f"missing: expected one of 'error', 'nan', 'fallback', got {missing!r}"
            )
        given, rows = as_keys(keys), as_float32(x, "x")
        expect_kind(given, manifest.key_type)
        names: list[Any] = [given[i] for i in range(len(given))]
        size = manifest.input_size
        if rows.ndim not in (2, 3) or rows.shape[:: rows.ndim - 1] != (len(names), size):
            raise InvalidValueError(
                f"x: expected shape ({len(names)}, {size}) or ({len(names)}, rows, {size}), got "
                f"{rows.shape}"
            )
        with self._one_more():
            y, known = self._answer(version, names, rows)
            unknown = np.flatnonzero(~known)
            if len(unknown) == 0 or missing == "nan":
                return y
            if missing == "error" or manifest.fallback is None:
                raise UnknownModelError([names[i] for i in unknown.tolist()], len(names), "keys")
            others = [manifest.fallback] * len(unknown)
            y[unknown], known = self._answer(version, others, rows[unknown])
            if not known.all():
                raise UnknownModelError([manifest.fallback], len(names), "the fallback")
        return y

    def switch(self, folder: str) -> None:
        """Move to another version of all shards: opened everywhere, then seen by all calls at once.

        Calls that run end with the version they began with. Where a machine is away, its actor
        opens the version when it is back and asked.

        Raises
        ------
        ShardUnavailableError
            No replica of some shards could open it. The present version stays.
        BankFileError, OSError, ValueError
            The folder of this machine is none, or of other keys or sizes.
        """
        version = self._read(folder)
        for name in ("key_type", "input_size", "output_size"):
            old, new = (getattr(v.manifest, name) for v in (self._version, version))
            if old != new:
                raise InvalidValueError(f"{folder}: {name}: expected {old}, got {new}")
        if len(version.manifest.fingerprints) != self._shards:
            raise InvalidValueError(
                f"{folder}: expected {self._shards} shards, got "
                f"{len(version.manifest.fingerprints)}"
            )
        self._prepare(version)
        self._version = version

    def close(self) -> None:
        """End all actors."""
        for hosts in self._hosts:
            for host in hosts:
                ray.kill(host)
        for place in self._places:
            remove_placement_group(place)
        self._hosts, self._places = [], []

    def __enter__(self) -> ShardedBank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _read(folder: str) -> _Version:
        return _Version(folder, Manifest.read(os.path.expandvars(folder)))

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        with self._lock:
            if self._waiting >= self._max_waiting:
                raise QueueFullError(f"{self._waiting} calls wait already")
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _prepare(self, version: _Version) -> None:
        """Open a version in all actors that are there, at least one of each group."""
        asked = {
            host.prepare.remote(version, list(range(group, self._shards, self._groups))): group
            for group, hosts in enumerate(self._hosts)
            for host in hosts
        }
        prepared, why = set(), "there are none"
        ray.wait(list(asked), num_returns=len(asked), timeout=self._timeout)
        for reference, group in asked.items():
            try:
                ray.get(reference, timeout=0.1)
                prepared.add(group)
            except RayError as error:
                why = _cause(error)
        if len(prepared) < self._groups:
            raise ShardUnavailableError([], f"{version.folder} could not be opened: {why}")

    def _answer(
        self, version: _Version, keys: list[Any], x: Float32Array
    ) -> tuple[Float32Array, Any]:
        y = np.full((*x.shape[:-1], version.manifest.output_size), np.nan, np.float32)
        known = np.zeros(len(keys), bool)
        open_parts = self._parts(version, keys, x)
        deadline, first, why = time.monotonic() + self._timeout, next(self._turn), ""
        for attempt in range(_ROUNDS * self._replicas):
            asked = []
            for group, part in open_parts.items():
                hosts = self._hosts[group]
                host = hosts[(first + attempt) % len(hosts)]
                asked.append(
                    (group, part, host.predict.remote(version, part.shards, part.keys, part.x))
                )
            for group, part, reference in asked:
                try:
                    left = max(0.0, deadline - time.monotonic())
                    y[part.rows], known[part.rows] = ray.get(reference, timeout=left)
                    del open_parts[group]
                except (RayActorError, GetTimeoutError) as error:
                    why = _cause(error)
                except (OSError, BankFileError) as error:  # this machine lacks the shard
                    why = str(error)
            if not open_parts or time.monotonic() >= deadline:
                break
            if attempt % self._replicas == self._replicas - 1:
                time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
        if open_parts:
            lost = [key for part in open_parts.values() for some in part.keys for key in some]
            raise ShardUnavailableError(lost, why)
        return y, known

    def _parts(self, version: _Version, keys: list[Any], x: Float32Array) -> dict[int, _Part]:
        """Return the rows of each group, those of a shard together."""
        shards = shards_of(keys, version.manifest.key_type, self._shards)
        order = np.argsort(shards, kind="stable")
        order = order[shards[order] >= 0]  # keys that are missing go nowhere
        numbers, starts = np.unique(shards[order], return_index=True)
        rows_of = dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=False))
        parts = {}
        for group in {shard % self._groups for shard in rows_of}:
            some = [shard for shard in rows_of if shard % self._groups == group]
            rows = np.concatenate([rows_of[shard] for shard in some])
            names = [[keys[i] for i in rows_of[shard].tolist()] for shard in some]
            parts[group] = _Part(rows, names, some, x[rows])
        return parts


def _cause(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
