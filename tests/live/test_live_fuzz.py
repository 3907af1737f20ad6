"""Live folders with values and bytes changed at random: an error of mlpbank, or sound answers."""

from __future__ import annotations

import shutil
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import DTYPES, sweep
from live_folders import KEYS, X, live_folder, open_live, weights
from mlpbank import BankFileError, MlpbankError
from mlpbank.bank import _live_verify

ODD: list[Any] = [
    *(None, -1, 0, 1, 2, 3, 4, 8, 15, 63, 64, 100, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1),
    *(-(2**63), 0.5, 1e300, float("inf"), "", "x", "é" * 100, b"", b"\xff", b"a" * 70),
]
COLUMNS = {
    "bank": "identity description sequence synced base base_sequence next_base segment_bytes "
    "segment tail",
    "changes": "sequence last kind slot key version revision loaded_at reuse_count segment offset "
    "checksum",
}


def change_value(folder: Path, rng: np.random.Generator) -> str:
    """Change one value of the index; return what was changed."""
    table = "changes" if rng.random() < 0.7 else "bank"
    column = rng.choice(COLUMNS[table].split())
    value = ODD[rng.integers(len(ODD))]
    row = int(rng.integers(1, 7))
    where = f" WHERE sequence = {row}" if table == "changes" else ""
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        try:
            connection.execute(f"UPDATE {table} SET {column} = ?{where}", (value,))
            connection.commit()
        except (sqlite3.Error, UnicodeDecodeError):  # the type of the primary key, and damage
            pass
    return f"{table}.{column} = {value!r:.40}{where}"


def change_bytes(folder: Path, rng: np.random.Generator) -> str:
    """Change, cut or lengthen one file."""
    names = sorted(path.name for path in folder.iterdir())
    path = folder / names[rng.integers(len(names))]
    data = bytearray(path.read_bytes())
    how = rng.integers(3)
    if how == 0:
        for _ in range(int(rng.integers(1, 20))):
            data[rng.integers(min(len(data), 20_000))] = rng.integers(256)
    elif how == 1:
        del data[rng.integers(len(data)) :]
    else:
        data += bytes(int(rng.integers(1, 9000)))
    path.write_bytes(data)
    return f"{path.name}: {('bytes', 'cut', 'longer')[how]}"


def use(folder: Path, keys: list[Any]) -> None:
    """Do with a folder what one does; nothing but errors of mlpbank and the system may come."""
    for how in ({}, {"writable": True}):
        with open_live(folder, **how) as bank:
            x = np.array([X] * len(keys))
            for key in list(bank):
                bank.info(key)
                assert set(bank[key]) >= {"layer_0", "layer_1"}
            bank.predict(keys, x, missing="nan")
            bank.to_stacked()
            if how:
                bank[keys[0]] = weights(8)
                assert bank.predict(keys[0], X).tolist() == [8, 8] or bank.dtype == "int8"
                bank.compact()


def error_of(step: Any, folder: Path) -> str | None:
    """Return what the error of mlpbank or the system says. Any other is one of the test."""
    try:
        step(folder)
    except (MlpbankError, OSError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("seed", sweep(range(400), every=20))
def test_changes_at_random(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind: str = rng.choice(["str", "int", "tuple"])
    folder = live_folder(
        tmp_path / "bank.live",
        kind,
        recent=rng.random() < 0.5,
        layout=rng.choice(["panel", "lane"]),
        dtype=str(rng.choice(DTYPES)),
    )
    if rng.random() < 0.5:  # the last changes may not have reached the disk
        with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
            connection.execute("UPDATE bank SET synced = 2")
            connection.commit()
    keys = KEYS[kind][1:]
    x = np.array([X] * len(keys))
    spare = tmp_path / "running.live"
    shutil.copytree(folder, spare)
    running = open_live(spare)
    expected = running.predict(keys, x)
    changed = [(change_value if rng.random() < 0.7 else change_bytes)(folder, rng)]
    if rng.random() < 0.3:
        changed.append(change_value(folder, rng))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of changes that are lost
        for step in (_live_verify.verify, lambda folder: use(folder, keys)):
            error = error_of(step, folder)
            assert error is None or 0 < len(error) < 1000, (seed, changed)
    np.testing.assert_array_equal(running.predict(keys, x), expected)


def test_an_error_says_which_folder(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    (folder / "base-000001.mlpbank").write_bytes(b"\0" * 9000)
    with pytest.raises(BankFileError, match=r"bank\.live/base-000001\.mlpbank"):
        open_live(folder)
