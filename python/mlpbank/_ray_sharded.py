"""ShardedBank: a bank that does not fit one machine, in actors of Ray.

Actors keep nothing but what is in files: every call says which version of which shards it wants,
by the path of a folder and the fingerprint of its page. So an actor that Ray starts anew, on
whatever machine, answers like any other, or says that it does not have these files; then another
replica is asked.
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
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mlpbank._arrays import as_float32
from mlpbank._key_columns import as_keys, expect_kind
from mlpbank._shard_host import Host, Version, open_shard
from mlpbank.architecture import positive_int
from mlpbank.bank import LiveBank
from mlpbank.bank._shards import Manifest, shards_of
from mlpbank.errors import (
    BankFileError,
    InvalidValueError,
    MlpbankError,
    QueueFullError,
    UnknownModelError,
)
from mlpbank.typing import Float32Array, Int64Array, Key, Missing

_PATIENCE = 2.0  # seconds until another replica is asked as well


class ShardUnavailableError(MlpbankError, ConnectionError):
    """No replica of a shard answered in time. Nothing was computed for the keys in `keys`."""

    def __init__(self, keys: Sequence[Key], why: str) -> None:
        shown = ", ".join(map(repr, keys[:3])) + (", ..." if len(keys) > 3 else "")
        super().__init__(f"no replica of the shards of {len(keys)} keys answered: {shown}; {why}")
        self.keys = list(keys)


class _Present(NamedTuple):
    """One version of all shards, as this process knows it."""

    version: Version
    manifest: Manifest


class _Part(NamedTuple):
    """The rows of a call that go to one group of shards."""

    rows: Int64Array
    keys: list[list[Key]]  # by shard of the group
    shards: list[int]
    x: Float32Array


class ShardedBank:
    """A bank whose models are on several machines, for what does not fit one.

    ``mlpbank split FILE FOLDER --shards 256`` makes the folder. Each machine has it, or at least
    ``shards.json`` and the shards that it is to serve, under the path that `folder` gives there.
    With ``--live`` shards are live banks, whose models change one by one. Each group of shards
    has `replicas` actors, on different machines; Ray starts them again when they or their machines
    die. A call sends the rows of each group to one of them, and asks the others where it fails.

    Parameters
    ----------
    folder : str
        Environment variables in it, ``"$BANKS/shops-1"``, are those of each machine.
    replicas : int
        Actors of each shard, each on another machine. As many machines have to be there at first.
    groups : int
        Groups of shards, each with actors of its own; by default one for each machine with CPUs.
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
        self._present = self._read(folder)
        machines = sum(
            node["Alive"] and node["Resources"].get("CPU", 0) >= num_cpus for node in ray.nodes()
        )
        self._shards = len(self._present.manifest.fingerprints)
        self._groups = min(positive_int(groups or max(1, machines), "groups"), self._shards)
        self._replicas = positive_int(replicas, "replicas")
        self._timeout = timeout
        self._max_waiting = positive_int(max_waiting, "max_waiting")
        self._waiting = 0
        self._lock = threading.Lock()
        self._turn = itertools.count()
        self._places: list[Any] = []
        self._hosts: list[list[Any]] = []
        actor = ray.remote(Host)
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
                    actor.options(
                        num_cpus=num_cpus,
                        max_restarts=-1,
                        scheduling_strategy=PlacementGroupSchedulingStrategy(place, i),
                    ).remote()
                    for i in range(self._replicas)
                ]
                self._hosts.append(hosts)
            self._prepare(self._present.version)
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> str:
        """The folder of the version that calls see."""
        return self._present.version.folder

    @property
    def key_type(self) -> Any:
        """The type of all keys."""
        return self._present.manifest.key_type

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
        present = self._present  # once: a call never mixes two
        manifest = present.manifest
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
            y, known = self._answer(present, names, rows)
            unknown = np.flatnonzero(~known)
            if len(unknown) == 0 or missing == "nan":
                return y
            if missing == "error" or manifest.fallback is None:
                raise UnknownModelError([names[i] for i in unknown.tolist()], len(names), "keys")
            others = [manifest.fallback] * len(unknown)
            y[unknown], known = self._answer(present, others, rows[unknown])
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
        present = self._read(folder)
        for name in ("key_type", "input_size", "output_size"):
            old, new = (getattr(some.manifest, name) for some in (self._present, present))
            if old != new:
                raise InvalidValueError(f"{folder}: {name}: expected {old}, got {new}")
        if len(present.manifest.fingerprints) != self._shards:
            raise InvalidValueError(
                f"{folder}: expected {self._shards} shards, got "
                f"{len(present.manifest.fingerprints)}"
            )
        self._prepare(present.version)
        self._present = present

    @staticmethod
    def open_shard(folder: str, key: Key) -> LiveBank:
        """Open the live bank of this machine that has a key, or is to have it, to change it.

        Actors of this machine see each change with their next call. Those of other machines have
        copies of their own, which are to be changed as well.

        Parameters
        ----------
        folder : str
            As of `ShardedBank`, made by ``mlpbank split --live``.
        key : str, int or tuple

        Raises
        ------
        ValueError
            The shards are files, not live banks.
        BankFileError, OSError, TypeError
            As for `Bank.open` and `Bank.predict`.
        """
        manifest = ShardedBank._read(folder).manifest
        if not manifest.live:
            raise InvalidValueError(
                f"{folder}: its shards are files, which cannot be changed; mlpbank split --live "
                "makes live banks"
            )
        expect_kind(as_keys([key]), manifest.key_type)
        (shard,) = shards_of([key], manifest.key_type, len(manifest.fingerprints))
        if shard < 0:
            raise InvalidValueError(f"key: expected a key, got {key!r}")
        bank = open_shard(os.path.expandvars(folder), manifest, int(shard), writable=True)
        assert isinstance(bank, LiveBank)
        return bank

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
    def _read(folder: str) -> _Present:
        manifest = Manifest.read(os.path.expandvars(folder))
        return _Present(Version(folder, manifest.fingerprint), manifest)

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

    def _prepare(self, version: Version) -> None:
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
        self, present: _Present, keys: list[Any], x: Float32Array
    ) -> tuple[Float32Array, Any]:
        version, manifest = present
        y = np.full((*x.shape[:-1], manifest.output_size), np.nan, np.float32)
        known = np.zeros(len(keys), bool)
        open_parts = self._parts(manifest, keys, x)
        deadline, turn, why = time.monotonic() + self._timeout, next(self._turn), "none in time"
        asked: dict[Any, tuple[int, int]] = {}  # group and replica, by reference
        attempt = 0
        while open_parts:
            replica = (turn + attempt) % self._replicas
            for group, part in open_parts.items():
                if (group, replica) not in asked.values():
                    host = self._hosts[group][replica]
                    reference = host.predict.remote(version, part.shards, part.keys, part.x)
                    asked[reference] = group, replica
            # A replica that says nothing for a while may be cut off: the next is asked as well.
            until, failed = min(deadline, time.monotonic() + _PATIENCE), False
            while not failed and (left := until - time.monotonic()) > 0:
                waiting = [one for one, (group, _) in asked.items() if group in open_parts]
                if not waiting:
                    break
                for reference in ray.wait(waiting, timeout=left)[0]:
                    group, _ = asked.pop(reference)
                    answer = _answer_of(reference)
                    if isinstance(answer, str):
                        failed, why = True, answer
                    else:
                        rows = open_parts.pop(group).rows
                        y[rows], known[rows] = answer
            if open_parts and time.monotonic() >= deadline:
                lost = [key for part in open_parts.values() for some in part.keys for key in some]
                raise ShardUnavailableError(lost, why)
            if failed and replica == (turn - 1) % self._replicas:  # all were asked
                time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
            attempt += 1
        return y, known

    def _parts(self, manifest: Manifest, keys: list[Any], x: Float32Array) -> dict[int, _Part]:
        """Return the rows of each group, those of a shard together."""
        shards = shards_of(keys, manifest.key_type, self._shards)
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


def _answer_of(reference: Any) -> tuple[Float32Array, Any] | str:
    """Return what a replica has answered, or why another one is to be asked."""
    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except (OSError, BankFileError) as error:  # its machine lacks the shard
        return _cause(error)
    except RayTaskError:
        raise
    except RayError as error:  # it died, or its answer was lost with its machine
        return _cause(error)


def _cause(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
