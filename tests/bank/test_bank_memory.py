"""Opened bank files: little memory of their own, only pages that are asked for, shared by all."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.sections import open as open_section

MODELS, KEYS = 100_000, 100
PAGE = 4096


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return open_section.measure(MODELS, KEYS, tmp_path_factory.mktemp("banks"))


def test_opening_takes_little_memory_of_its_own(measured: dict[str, float]) -> None:
    """60 MB for a million models."""
    assert measured["open_private"] < 60 * MODELS


def reads_ahead_anyway(folder: Path) -> bool:
    """Tell if one page of a mapping brings others that it was told not to, as in qemu-user."""
    path = folder / "pages"
    path.write_bytes(bytes(1000 * PAGE))
    open_section.evict(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        assert mapped[500 * PAGE] == 0
    return open_section.resident_bytes(path) > 2 * PAGE


def test_only_pages_that_are_needed_are_read(measured: dict[str, float], tmp_path: Path) -> None:
    if measured["evicted_but"] > 0:
        pytest.skip("this filesystem keeps evicted pages in memory")
    if reads_ahead_anyway(tmp_path):
        pytest.skip("madvise is without effect here")
    assert measured["open_read"] <= 2 * PAGE
    # For each key: a tile of 3.8 kB, slots, offsets and bytes, each of which can begin on one page
    # and end on the next.
    assert KEYS * PAGE < measured["predict_read"] <= measured["open_read"] + 8 * KEYS * PAGE
    assert measured["predict_read"] < measured["file"] / 10


def test_processes_share_the_file(measured: dict[str, float]) -> None:
    assert measured["alone_Rss"] > measured["file"] * 0.85
    assert measured["alone_Anonymous"] == 0, "nothing of the mapping was copied"
    assert measured["other_Shared_Clean"] > measured["file"] * 0.85
    assert measured["other_Pss"] < measured["other_Rss"] * 0.6
