"""Live banks in several processes: handles, first models, pickles, forks and other users."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import RunProgram
from live_folders import (
    ARCHITECTURE,
    KEYS,
    X,
    live_folder,
    open_live,
    some_bank,
    value,
    weights,
)
from live_process import Remote
from mlpbank import Bank, Engine, InvalidTypeError, UnknownModelError


@pytest.fixture
def folder(tmp_path: Path, layout: str) -> Path:
    """A folder with the models a, b and c, in each layout."""
    some_bank(3, layout=layout).save(tmp_path / "bank.live", live=True)
    return tmp_path / "bank.live"


def test_handles_in_all_processes_and_through_compaction(folder: Path) -> None:
    bank = open_live(folder)
    with Remote(folder, writable=True) as other:
        other("add", "d", weights(4))
        handles = bank.handles(["a", "d", "b"])
        np.testing.assert_array_equal(other("handles", ["a", "d", "b"]), handles)
        rows = np.array([X, X, X])
        expected = bank.predict(["a", "d", "b"], rows)
        for _ in range(3):
            np.testing.assert_array_equal(bank.predict_handles(handles, rows), expected)
            np.testing.assert_array_equal(other("predict_handles", handles, rows), expected)
            other("compact")
        other("add", "d", weights(5))  # the same model, replaced
        assert bank.predict_handles(handles[1:2], rows[:1]).tolist() == [[5, 5]]
        other("pop", "d")
        other("add", "e", weights(6))  # in the same slot
        other("compact")
        for call in (bank.predict_handles, lambda *args: other("predict_handles", *args)):
            with pytest.raises(UnknownModelError):
                call(handles, rows)
            with pytest.raises(UnknownModelError):
                call(handles[1:2], rows[:1])
            np.testing.assert_array_equal(call(handles[[0, 2]], rows[:2]), expected[[0, 2]])
        late = bank.handles(["e"])
        assert other("predict_handles", late, rows[:1]).tolist() == [[6, 6]]
        again = open_live(folder)
        np.testing.assert_array_equal(again.handles(["a", "e"]), [handles[0], late[0]])
        with pytest.raises(UnknownModelError):
            again.predict_handles(handles, rows)


@pytest.mark.parametrize("kind", ["str", "int", "tuple"])
def test_the_first_model_comes_from_another_process(tmp_path: Path, kind: str, layout: Any) -> None:
    folder = tmp_path / "bank.live"
    Bank(ARCHITECTURE, layout=layout).save(folder, live=True)
    bank, writer = open_live(folder), open_live(folder, writable=True)
    key, second, third, fourth = KEYS[kind]
    for empty in (bank, writer):
        assert (len(empty), list(empty), empty.key_type, key in empty) == (0, [], None, False)
        if kind != "tuple":  # without a model, a bank cannot tell tuples from columns of parts
            with pytest.raises(UnknownModelError):
                empty.predict(key, X)
            assert np.isnan(empty.predict([key], [X], missing="nan")).all()
    with Remote(folder, writable=True) as other:
        other("add", key, weights(1), version="first")
        for now in (bank, writer, open_live(folder)):
            assert (value(now, key), list(now), now.info(key).version) == (1, [key], "first")
            assert now.key_type is not None
        with pytest.raises(InvalidTypeError):
            writer[3.5] = weights(1)
        wrong: Any = 7 if kind == "str" else "text"
        with pytest.raises(InvalidTypeError):
            writer[wrong] = weights(1)
        with pytest.raises(InvalidTypeError):
            bank.predict(wrong, X)
        writer.update({second: weights(2), third: weights(3)})
        assert other("predict", [third, key], [X, X])[:, 0].tolist() == [3, 1]
        other("compact")
        other("add", fourth, weights(4))
        other("pop", key)
        assert bank.predict([fourth, second, third], [X] * 3)[:, 0].tolist() == [4, 2, 3]
        assert sorted(bank) == sorted(KEYS[kind][1:])  # type: ignore[type-var]
        other("clear")
        assert (len(bank), bank.key_type) == (0, writer.key_type)
        other("compact")
        assert len(open_live(folder)) == 0
        other("add", key, weights(5))
        assert value(bank, key) == value(open_live(folder), key) == 5


def test_a_pickle_is_the_way_to_the_folder(folder: Path) -> None:
    bank = open_live(folder, engine=Engine(num_threads=1))
    data = pickle.dumps(bank)
    assert len(data) < 1000
    with open_live(folder, writable=True, sync="off") as writer:
        writer["a"] = weights(1)
        again = pickle.loads(data)
        assert value(again, "a") == 1
        assert again.engine == bank.engine or again.engine.num_threads == 1
        assert (again.path, again.writable) == (bank.path, False)
        writer["a"] = weights(2)
        assert value(again, "a") == 2
        other = pickle.loads(pickle.dumps(writer))
        other["a"] = weights(3)
        assert (value(writer, "a"), other.writable, other._sync) == (3, True, "off")
        manual = pickle.loads(pickle.dumps(open_live(folder, refresh="manual")))
        writer["a"] = weights(4)
        assert (value(manual, "a"), value(again, "a")) == (3, 4)
        for copied in (copy.copy(bank), copy.deepcopy(bank)):
            assert copied is not bank
            assert value(copied, "a") == 4
        assert type(pickle.loads(pickle.dumps(writer.metadata))) is dict
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)


def test_a_pickle_of_a_closed_bank_opens_its_folder(folder: Path) -> None:
    bank = open_live(folder)
    bank.close()
    assert len(pickle.loads(pickle.dumps(bank))) == 3


@pytest.mark.threads
@pytest.mark.parametrize("sync", ["commit", "interval", "off"])
def test_fork(run_program: RunProgram, tmp_path: Path, sync: str) -> None:
    assert run_program("live_fork", tmp_path, sync, timeout=300) == "done"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A live folder that every user can reach, with -wal and -shm gone."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    above = Path(tempfile.mkdtemp(prefix="live-"))
    above.chmod(0o755)
    yield live_folder(above / "bank.live")
    shutil.rmtree(above)


@pytest.mark.parametrize("writer", ["none", "before", "after"])
def test_a_user_who_may_only_read(run_program: RunProgram, open_folder: Path, writer: str) -> None:
    """The folder of another user: it is followed, and never written to."""
    assert run_program("live_reader_only", open_folder, writer) == "done"
    assert value(open_live(open_folder), "b") == (4 if writer == "none" else 9)


def test_a_user_who_may_not_read(run_program: RunProgram, open_folder: Path) -> None:
    (open_folder / "base-000001.mlpbank").chmod(0o600)
    assert run_program("live_reader_only", open_folder, "refused") == "done"
    (open_folder / "base-000001.mlpbank").chmod(0o644)
    (open_folder / "index.sqlite").chmod(0o600)
    assert run_program("live_reader_only", open_folder, "refused") == "done"
    (open_folder / "index.sqlite").chmod(0o644)
    (open_folder / "head").chmod(0o600)
    assert run_program("live_reader_only", open_folder, "refused") == "done"
    open_folder.chmod(0o700)
    assert run_program("live_reader_only", open_folder, "refused") == "done"
