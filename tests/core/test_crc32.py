"""The core's CRC-32 is zlib's."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from mlpbank import _core


@pytest.mark.parametrize("start", [0, 1, 7])
@pytest.mark.parametrize("before", [0, 1, 0xFFFFFFFF])
def test_all_sizes(start: int, before: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, 2000, np.uint8)
    for size in range(1500):
        part = data[start : start + size]
        assert _core.crc32(part, before) == zlib.crc32(part, before), size


def test_parts_are_as_the_whole() -> None:
    data = np.random.default_rng(1).bytes(100_000)
    for cut in (0, 1, 127, 128, 129, 50_000, 100_000):
        found = _core.crc32(memoryview(data)[cut:], _core.crc32(memoryview(data)[:cut]))
        assert found == zlib.crc32(data)


def test_each_bit_counts() -> None:
    data = np.zeros(300, np.uint8)
    found = {_core.crc32(data)}
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        found.add(_core.crc32(data))
        data[bit // 8] ^= 1 << bit % 8
    assert len(found) == 8 * len(data) + 1


def test_memory_in_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one piece of memory"):
        _core.crc32(np.zeros((8, 8), np.uint8)[:, :4])
    whole = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert _core.crc32(whole) == zlib.crc32(whole.tobytes())
    whole.flags.writeable = False
    assert _core.crc32(whole) == zlib.crc32(whole.tobytes())
