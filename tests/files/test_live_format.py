"""docs/format.md suffices to read live folders, and a folder of each version stays readable."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import DTYPES, Weights, assert_same_bits, one_model, random_weights, sweep
from format_reader import BankFile
from live_reader import LiveFolder
from mlpbank import Architecture, Bank, LayerSpec, LiveBank

ARCHITECTURES = {
    "4-8-2": Architecture.mlp(4, 8, 2),
    "3-19-1": Architecture([LayerSpec(3, 19, "tanh"), LayerSpec(19, 1, "softplus")]),
}
KEYS: dict[str, list[Any]] = {
    "str": ["", "Zürich", "a\0b", "x" * 300, *(f"k{i}" for i in range(36))],
    "int": [0, -1, 2**63 - 1, -(2**63), *range(10, 46)],
    "tuple": [("", 0), ("é", -1), ("", -(2**63)), ("a", 2**63 - 1), *(("t", i) for i in range(36))],
}
MANY = 30  # of the keys are there from the start, the others come later


def a_folder(
    folder: Path, arch: Architecture, layout: str, dtype: str, kind: str
) -> tuple[LiveBank, list[Weights]]:
    """Return a writer, and weights enough for everything."""
    stacked = random_weights(arch, 100, np.random.default_rng(5))
    weights = [one_model(stacked, i) for i in range(100)]
    bank = Bank.from_stacked(
        KEYS[kind][:MANY],
        arch,
        {name: array[:MANY] for name, array in stacked.items()},
        layout=layout,
        dtype=dtype,
        version="v1",
    )
    bank.save(folder, live=True)
    writer = Bank.open(folder, writable=True, sync="off")
    assert isinstance(writer, LiveBank)
    return writer, weights


def assert_same(reader: LiveFolder, bank: LiveBank) -> None:
    assert reader.bank["sequence"] == bank.sequence == reader.head
    assert set(reader.models) == set(bank)
    keys = list(reader.models)
    assert [reader.handle(key) for key in keys] == bank.handles(keys).tolist()
    for key, model in reader.models.items():
        info = bank.info(key)
        assert (model.version or None, model.revision) == (info.version, info.revision)
        assert model.loaded_at == pytest.approx(info.loaded_at.timestamp(), abs=1e-5)
        stored, read = bank[key], reader.model(key)
        assert stored.keys() == read.keys()
        for part in stored:
            assert_same_bits(read[part], stored[part])
    width = reader.base.block_models
    if width > 1:
        marks = dict.fromkeys(reader.blocks, 0)
        for model in reader.models.values():
            marks[model.slot // width] |= 1 << model.slot % width
        assert {tile: reader.mark(tile) for tile in reader.blocks} == marks
    assert reader.about["fallback"] == (
        list(bank.fallback) if isinstance(bank.fallback, tuple) else bank.fallback
    )
    assert reader.about["metadata"] == bank.metadata
    for row in reader.rows:
        if (recent := reader.recent(row.sequence)) is not None:
            assert recent.pop("is_checked") in (False, True)
            expected = vars(row)
            assert recent == {name: expected[name] for name in recent}
            assert row.sequence > reader.bank["base_sequence"]


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("dtype", sweep(DTYPES, every=3))
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reader_of_the_documented_format_follows_a_live_bank(
    tmp_path: Path, name: str, layout: str, dtype: str, kind: str
) -> None:
    folder, keys = tmp_path / "live", KEYS[kind]
    writer, weights = a_folder(folder, ARCHITECTURES[name], layout, dtype, kind)
    reader = LiveFolder(folder)
    assert not reader.refresh()
    assert_same(reader, writer)

    def check() -> None:
        """Compare one that has followed, and one that begins here."""
        assert reader.refresh()
        for one in (reader, LiveFolder(folder)):
            assert_same(one, writer)

    new = iter(weights)
    writer.add(keys[3], next(new), version="zwei")  # replaced
    writer[keys[MANY]] = next(new)  # a new slot
    check()
    del writer[keys[0]], writer[keys[17]]
    check()
    assert reader.recent(2) is not None
    assert reader.recent(3) is not None
    assert reader.recent(5) is None
    removed = {reader.base.keys().index(keys[i]) for i in (0, 17)}
    writer[keys[MANY + 1]] = next(new)  # a slot that was used before
    check()
    assert reader.models[keys[MANY + 1]].slot in removed
    with writer.transaction() as changes:
        del changes[keys[5]]
        changes[keys[5]] = next(new)
        for key in keys[10:14]:
            changes.add(key, next(new), version="drei")
        for key in keys[MANY + 2 :]:
            changes[key] = next(new)
        del changes[keys[2]]
    check()
    writer.fallback = keys[1]
    writer.metadata = {"written": "für Fremde"}
    check()
    handles = writer.handles(keys[20:30])
    for _ in range(2):
        del writer[keys[25]]
        writer.compact()
        check()
        assert reader.base.vacant() == sorted(set(range(reader.used)) - slots_of(reader))
        assert reader.base.about["vacant"] == len(reader.base.vacant()) > 0
        writer[keys[25]] = next(new)
        check()
    assert [reader.handle(key) for key in keys[20:25]] == handles[:5].tolist()
    writer.clear()
    check()
    writer.compact()
    check()
    writer[keys[7]] = next(new)
    check()
    writer.close()
    assert_same(LiveFolder(folder), Bank.open(folder))  # type: ignore[arg-type]


def slots_of(reader: LiveFolder) -> set[int]:
    return {model.slot for model in reader.models.values()}


def test_segments_that_are_full_and_blocks_that_do_not_fit(tmp_path: Path, layout: str) -> None:
    arch = Architecture.mlp(40, 300, 3)
    writer, weights = a_folder(tmp_path / "live", arch, layout, "float32", "int")
    reader = LiveFolder(tmp_path / "live")
    for i in range(40):
        with writer.transaction() as changes:
            changes.update(dict(zip(KEYS["int"], weights[i : i + 3], strict=False)))
            changes[KEYS["int"][i]] = weights[i]
    assert reader.refresh()
    assert_same(reader, writer)
    assert len(list((tmp_path / "live").glob("blocks-*.bin"))) > 2
    writer.compact()
    assert reader.refresh()
    assert_same(reader, writer)


def test_a_bank_that_begins_empty(tmp_path: Path, layout: str) -> None:
    arch = ARCHITECTURES["4-8-2"]
    Bank(arch, layout=layout).save(tmp_path / "live", live=True)
    reader = LiveFolder(tmp_path / "live")
    assert (reader.models, reader.about["keys"], reader.about["is_decided"]) == ({}, None, False)
    writer = Bank.open(tmp_path / "live", writable=True)
    assert isinstance(writer, LiveBank)
    writer[("a", 1)] = one_model(random_weights(arch, 1, np.random.default_rng(0)), 0)
    assert reader.refresh()
    assert_same(reader, writer)
    assert (reader.about["keys"], reader.about["is_decided"]) == (["str", "int"], True)


def test_what_the_page_says_of_the_order_of_rows(tmp_path: Path, layout: str) -> None:
    """Transactions are ranges of numbers; rows of a tile name one block, other rows other ones."""
    writer, weights = a_folder(tmp_path / "live", ARCHITECTURES["4-8-2"], layout, "float32", "str")
    keys = KEYS["str"]
    for i in range(0, 20, 5):
        writer.update(dict(zip(keys[i : i + 5], weights, strict=False)))
    del writer[keys[3]]
    reader = LiveFolder(tmp_path / "live")
    bank, rows = reader._read(0)
    assert [row.sequence for row in rows] == list(range(1, 22))
    assert [row.last for row in rows] == [5] * 5 + [10] * 5 + [15] * 5 + [20] * 5 + [21]
    places = {(row.last, row.slot // reader.base.block_models): row.offset for row in rows}
    placed = [offset for offset in places.values() if offset is not None]
    assert len(set(placed)) == len(placed)
    assert (bank["segment"], bank["tail"]) == (1, len(placed) * reader.base.block_bytes)
    assert bank["segment_bytes"] == (tmp_path / "live" / "blocks-000001.bin").stat().st_size


# The golden folder: made once by data/make_golden.py. Its weights are those of the golden file, see
# test_format.py: h = relu(x W0 + b0), y = h W1 + b1 with s = 1, 2, 3, ... and x = (1, 2).
DATA = Path(__file__).parents[1] / "data"


def answer(s: float) -> float:
    """Of y: the second of h is always 0."""
    return max(0.0, 5 * s + 0.25) + s


GOLDEN = {"one": 1, "zwei \u2461": 5, "": 3, "later": 4, "again": 6}


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_golden_folders(tmp_path: Path, layout: str) -> None:
    """A copy is opened: SQLite writes beside its file."""
    folder = tmp_path / "live"
    shutil.copytree(DATA / f"live_v1_{layout}", folder)
    follower, writer = Bank.open(folder), Bank.open(folder, writable=True)
    assert isinstance(follower, LiveBank)
    assert isinstance(writer, LiveBank)
    x = np.tile(np.float32([1, 2]), (len(GOLDEN), 1))
    expected = [answer(s) for s in GOLDEN.values()]
    assert sorted(follower) == sorted(GOLDEN)
    assert follower.predict(list(GOLDEN), x)[:, 0].tolist() == expected
    assert (follower.fallback, follower.metadata) == ("one", {"golden": [1, None]})
    assert follower.predict("?", [1.0, 2.0]).tolist() == [answer(1)]
    assert (follower.layout, follower.dtype) == (layout, "float32")
    info = {key: follower.info(key) for key in GOLDEN}
    assert [(i.version, i.revision) for i in info.values()] == [
        ("2026-11", 1),
        (None, 2),
        ("ü", 1),
        (None, 1),
        (None, 1),
    ]
    assert all(i.loaded_at.timestamp() == 1_700_000_000 for i in info.values())
    handles = follower.handles(list(GOLDEN)).tolist()
    assert handles == [0, 1, 2, 3 | 1 << 32, 4 | 2 << 32]
    assert_same(LiveFolder(folder), follower)
    base = BankFile(folder / "base-000002.mlpbank")
    assert (base.keys(), base.vacant()) == (["one", "zwei \u2461", "", None, None], [3, 4])
    assert base.reuse_counts() == [0, 0, 0, 1, 2]
    writer["one"] = writer["later"]
    assert follower.predict("one", [1.0, 2.0]).tolist() == [answer(4)]
    writer.compact()
    assert follower.handles(list(GOLDEN)).tolist() == handles


@pytest.mark.parametrize("layout", ["panel", "lane"])
@pytest.mark.parametrize("map_file", [True, False])
def test_a_golden_file_with_vacant_slots(map_file: bool, layout: str) -> None:
    path = DATA / f"live_v1_{layout}" / "base-000002.mlpbank"
    bank = Bank.open(path, mmap=map_file)
    golden = {"one": 1, "zwei \u2461": 2, "": 3}
    assert list(bank) == list(golden)
    assert "later" not in bank
    x = np.tile(np.float32([1, 2]), (3, 1))
    assert bank.predict(list(golden), x)[:, 0].tolist() == [answer(s) for s in golden.values()]
    file = BankFile(path)
    assert [file.find(key) for key in golden] == [0, 1, 2]
    assert file.find("later") is None
    for slot in file.vacant():
        assert not any(array.any() for array in file.model(slot).values())
        for name in ("generation", "loaded_at"):
            assert file.tensors[name][slot] == 0
    assert file.marks() == [7] if layout == "lane" else file.block_models == 1


def test_golden_folders_are_whole_without_what_sqlite_writes_beside() -> None:
    for layout in ("panel", "lane"):
        names = sorted(path.name for path in (DATA / f"live_v1_{layout}").iterdir())
        assert names == ["base-000002.mlpbank", "blocks-000001.bin", "head", "index.sqlite"]


def test_the_golden_folder_is_what_is_written_today(tmp_path: Path) -> None:
    """Byte for byte, and of the index row by row: its pages are SQLite's."""
    from data.make_golden import make_live

    for layout in ("panel", "lane"):
        made, golden = tmp_path / layout, DATA / f"live_v1_{layout}"
        make_live(made, layout)
        assert sorted(path.name for path in made.iterdir()) == sorted(
            path.name for path in golden.iterdir()
        )
        for path in golden.iterdir():
            if path.name == "head":  # that of the golden folder has no room for recent changes
                assert (made / path.name).read_bytes()[:4096] == path.read_bytes()
            elif path.name != "index.sqlite":
                assert (made / path.name).read_bytes() == path.read_bytes(), path.name
        mine, theirs = (list(dumped(folder)) for folder in (made, golden))
        assert mine == theirs


def dumped(folder: Path) -> list[str]:
    """Return the index as statements, without touching the folder."""
    copy = sqlite3.connect(f"file:{folder / 'index.sqlite'}?mode=ro&immutable=1", uri=True)
    try:
        return [*copy.iterdump(), *map(str, itertools.chain(*pragmas(copy)))]
    finally:
        copy.close()


def pragmas(index: sqlite3.Connection) -> list[tuple[int]]:
    names = ("application_id", "user_version")
    return [index.execute(f"PRAGMA {name}").fetchone() for name in names]
