"""Live folders for tests: small ones, and ones that are damaged on purpose."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from cases import random_weights
from mlpbank import Architecture, Bank, LiveBank

ARCHITECTURE = Architecture.mlp(3, 4, 2)
KEYS: dict[str, list[Any]] = {
    "str": ["a", "b", "c", "d"],
    "int": [7, -1, 2**60, 0],
    "tuple": [("a", 1), ("a", 2), ("", -5), ("z", 0)],
}


def weights(value: float) -> dict[str, Any]:
    """Return a model that answers `value` whatever it is asked."""
    return {
        "layer_0": np.zeros((3, 4)),
        "layer_1": np.zeros((4, 2)),
        "layer_1.bias": np.full(2, value),
    }


X = np.random.default_rng(3).standard_normal(3).astype(np.float32)


def value(bank: Bank, key: Any) -> float:
    """Return what a model of `weights` answers."""
    first, second = bank.predict(key, X).tolist()
    assert first == second
    return float(first)


def some_bank(models: int = 3, kind: str = "str", **how: Any) -> Bank:
    """Return a bank of random models with keys of a kind."""
    keys = KEYS[kind][:models]
    stacked = random_weights(ARCHITECTURE, models, np.random.default_rng(0))
    return Bank.from_stacked(keys, ARCHITECTURE, stacked, version="v1", **how)


def live(bank: Bank) -> LiveBank:
    """Say that a bank is a live one."""
    assert isinstance(bank, LiveBank)
    return bank


def open_live(folder: Path, **how: Any) -> LiveBank:
    """Open a folder."""
    return live(Bank.open(folder, **how))


def forget_recent(folder: Path) -> None:
    """Take the room for recent changes from a new folder: all is read in the index."""
    os.truncate(folder / "head", 4096)


def live_folder(folder: Path, kind: str = "str", recent: bool = True, **how: Any) -> Path:
    """Make a folder of three models with six changes since its base, some of them in one.

    `recent`: whether changes can be read in its head, too.
    """
    some_bank(3, kind, **how).save(folder, live=True)
    if not recent:
        forget_recent(folder)
    a, b, _, d = KEYS[kind]
    with open_live(folder, writable=True) as writer:
        writer[a] = weights(1)
        with writer.transaction() as changes:
            changes.add(d, weights(2), version="v2")
            changes[b] = weights(3)
            del changes[a]
        writer.metadata = {"note": 1}
        writer[b] = weights(4)
    return folder


def change_index(folder: Path, *statements: str) -> None:
    """Change the index behind the back of mlpbank."""
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def describe(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return a damage that changes the description of all models."""

    def damage(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
            (text,) = connection.execute("SELECT description FROM bank").fetchone()
            about = json.loads(text)
            change(about)
            connection.execute("UPDATE bank SET description = ?", (json.dumps(about),))
            connection.commit()

    return damage


def index(*statements: str) -> Callable[[Path], None]:
    """Return a damage of the index by statements."""
    return lambda folder: change_index(folder, *statements)


def rows(columns: str) -> Callable[[Path], None]:
    """Return a damage of the change 3, which loads b in a transaction of three."""
    return index(f"UPDATE changes SET {columns} WHERE sequence = 3")


def last_row(columns: str) -> Callable[[Path], None]:
    """Return a damage of the last change, which loads b again."""
    return index(f"UPDATE changes SET {columns} WHERE sequence = 6")


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a damage of a file, which is replaced: banks that have it mapped keep the old one."""

    def damage(folder: Path) -> None:
        new = folder.parent / "new"
        new.write_bytes(change((folder / name).read_bytes()))
        new.rename(folder / name)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    """Return a damage that takes a file away."""
    return lambda folder: (folder / name).unlink()


def flipped(at: int) -> Callable[[bytes], bytes]:
    """Return a change of one byte."""

    def change(data: bytes) -> bytes:
        copy = bytearray(data)
        copy[at] ^= 0xFF
        return bytes(copy)

    return change


HEAD, BASE, SEGMENT, INDEX = "head", "base-000001.mlpbank", "blocks-000001.bin", "index.sqlite"

# What may be wrong with a folder, and what opening says of it. What verify says is here only where
# opening finds nothing, since it reads only what it uses.
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no index": (remove(INDEX), "got a folder without index.sqlite"),
    "an empty index": (rewrite(INDEX, lambda _: b""), "got another database"),
    "an index of garbage": (rewrite(INDEX, lambda _: b"garbage " * 1000), "not a database"),
    "half an index": (rewrite(INDEX, lambda data: data[: len(data) // 2]), "damaged: "),
    "another database": (index("PRAGMA application_id = 7"), "got another database"),
    "an index of the future": (index("PRAGMA user_version = 9"), "a newer mlpbank wrote it"),
    "no table of changes": (index("DROP TABLE changes"), "no such table: changes"),
    "no row about the bank": (index("DELETE FROM bank"), "expected a row about the bank"),
    "text for a number": (index("UPDATE bank SET base = 'one'"), "expected numbers"),
    "a negative number": (index("UPDATE bank SET tail = -1"), "expected numbers"),
    "a number for text": (index("UPDATE bank SET identity = x'00'"), "expected text"),
    "no description": (index("UPDATE bank SET description = 'no JSON'"), "description"),
    "another format": (describe(lambda a: a.update(format="x")), "format: expected"),
    "a description of the future": (
        describe(lambda a: a.update(version=9)),
        "a newer mlpbank wrote it",
    ),
    "a description without layers": (
        describe(lambda a: a.update(architecture=[])),
        "expected at least one layer",
    ),
    "another architecture": (
        describe(lambda a: a["architecture"][0].__setitem__(2, "tanh")),
        f"{BASE}: architecture: expected",
    ),
    "another dtype": (describe(lambda a: a.update(dtype="int8")), f"{BASE}: dtype: expected"),
    "an unknown dtype": (describe(lambda a: a.update(dtype="x")), "dtype"),
    "an unknown layout": (describe(lambda a: a.update(layout="x")), "layout: expected"),
    "another type of keys": (describe(lambda a: a.update(keys="int")), f"{BASE}: keys: expected"),
    "no type of keys": (describe(lambda a: a.update(keys=None)), "keys: expected"),
    "a shift of another size": (
        describe(lambda a: a.update(input_shift=[1.0])),
        "input_shift",
    ),
    "a slot far away": (rows("slot = 100"), "slot"),
    "a negative slot": (rows("slot = -1"), "slot"),
    "a slot of another key": (rows("slot = 2"), "slot"),
    "a slot of text": (rows("slot = 'x'"), "damaged"),
    "a slot of many bits": (rows("slot = 4611686018427387904"), "slot"),
    "a key of another type": (rows("key = 7"), "damaged"),
    "a key of bytes": (rows("key = x'62'"), "damaged"),
    "no key": (rows("key = NULL"), "damaged"),
    "a version of bytes": (rows("version = x'ff'"), "damaged"),
    "a revision of text": (rows("revision = 'x'"), "damaged"),
    "a time of text": (rows("loaded_at = 'x'"), "damaged"),
    "a negative reuse count": (rows("reuse_count = -1"), "damaged"),
    "no reuse count": (rows("reuse_count = NULL"), "damaged"),
    "a load without a block": (rows("segment = NULL, offset = NULL"), "damaged"),
    "an offset outside": (rows("offset = 1048576"), "damaged"),
    "a negative offset": (rows("offset = -64"), "damaged"),
    "an offset between": (rows("offset = 8"), "damaged"),
    "an offset of text": (rows("offset = 'x'"), "damaged"),
    "no offset": (rows("offset = NULL"), "damaged"),
    "a segment that is not there": (rows("segment = 9"), "blocks-000009.bin"),
    "a segment of text": (rows("segment = '../x'"), "damaged"),
    "another checksum": (last_row("checksum = checksum + 1"), "do not have CRC-32"),
    "no checksum": (last_row("checksum = NULL"), "do not have CRC-32"),
    "a key that was removed": (index("UPDATE changes SET key = 'no' WHERE kind = 'remove'"), ""),
    "no base": (remove(BASE), BASE),
    "half a base": (rewrite(BASE, lambda data: data[: len(data) // 2]), BASE),
    "a base of garbage": (rewrite(BASE, lambda data: b"x" * len(data)), BASE),
    "no segment": (remove(SEGMENT), SEGMENT),
    "half a segment": (rewrite(SEGMENT, lambda data: data[: len(data) // 2]), SEGMENT),
    "no head": (remove(HEAD), "mlpbank create"),
    "half a head": (rewrite(HEAD, lambda data: data[:100]), "mlpbank create"),
    "a head of garbage": (rewrite(HEAD, lambda data: b"x" * len(data)), "mlpbank create"),
}
