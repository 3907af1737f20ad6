"""Banks in shards: which shard a key has, and the files that `mlpbank split` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, BankFileError, InvalidValueError, LiveBank
from mlpbank.bank import _shards

ARCHITECTURE = Architecture.mlp(2, 1)


def documented_shard(key: Any) -> int:
    """What docs/format.md says: the upper byte of the hash without a seed, mixed once more."""
    mask = 2**64 - 1

    def mix(k: int) -> int:
        h = (k + 0x9E3779B97F4A7C15) & mask
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
        return h ^ (h >> 31)

    def fnv(data: bytes) -> int:
        h = 0xCBF29CE484222325
        for c in data:
            h = ((h ^ c) * 0x100000001B3) & mask
        return h ^ (h >> 32)

    if isinstance(key, int):
        hashed = mix(key & mask)
    elif isinstance(key, str):
        hashed = fnv(key.encode())
    else:
        parts = [
            part.to_bytes(8, "little", signed=True)
            if isinstance(part, int)
            else len(part.encode()).to_bytes(4, "little") + part.encode()
            for part in key
        ]
        hashed = fnv(b"".join(parts))
    return mix(hashed) >> 56


KEYS: dict[str, tuple[Any, list[Any]]] = {
    "str": (str, [f"shop-{i}" for i in range(10_000)]),
    "int": (int, list(range(-5_000, 5_000))),
    "tuple": (tuple[str, int], [(f"köln {i % 100}", i) for i in range(3_000)]),
}


@pytest.mark.parametrize("name", KEYS)
def test_shards_are_as_documented_and_even(name: str) -> None:
    kind, keys = KEYS[name]
    shards = _shards.shards_of(keys, kind, 256)
    assert shards.tolist() == [documented_shard(key) for key in keys]
    counts = np.bincount(shards, minlength=256)
    assert counts.min() > 0
    assert counts.max() < 3 * len(keys) / 256
    for few in (1, 3, 8, 255):
        fewer = _shards.shards_of(keys, kind, few)
        np.testing.assert_array_equal(fewer, shards * few // 256)
    assert _shards.shards_of([None, keys[0]], kind, 4)[0] == -1


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_the_shards_of_a_bank_together_are_the_bank(tmp_path: Path, name: str, layout: Any) -> None:
    kind, keys = KEYS[name]
    keys = keys[:300]
    rng = np.random.default_rng(0)
    bank = Bank.from_stacked(
        keys,
        ARCHITECTURE,
        {"layer_0": rng.normal(size=(300, 2, 1))},
        layout=layout,
        version=[f"v{i}" for i in range(300)],
        fallback=keys[3],
    )
    bank.add(keys[5], bank[keys[6]], version="new")
    _shards.split(bank, tmp_path / "shards", 16)
    manifest = _shards.Manifest.read(tmp_path / "shards")
    assert (manifest.key_type, manifest.fallback) == (kind, keys[3])
    found = []
    x = rng.normal(size=(300, 2)).astype(np.float32)
    for shard in range(16):
        part = Bank.open(tmp_path / "shards" / _shards.shard_name(shard))
        own = list(part)
        found += own
        assert set(_shards.shards_of(own, kind, 16)) <= {shard}
        for key in own:
            assert part.info(key) == bank.info(key)
        if own:
            rows = x[: len(own)]
            np.testing.assert_array_equal(part.predict(own, rows), bank.predict(own, rows))
    assert sorted(found) == sorted(keys)


def test_shards_that_are_live_banks(tmp_path: Path) -> None:
    weights = {"layer_0": np.arange(8.0).reshape(4, 2, 1)}
    bank = Bank.from_stacked(
        [1, 2, 3, 4], ARCHITECTURE, weights, dtype="float16", version="v", fallback=2
    )
    _shards.split(bank, tmp_path / "shards", 64, live=True)
    manifest = _shards.Manifest.read(tmp_path / "shards")
    assert manifest.live
    found = []
    for shard, identity in enumerate(manifest.fingerprints):
        name = _shards.shard_name(shard, live=True)
        with Bank.open(tmp_path / "shards" / name, writable=True) as part:
            assert isinstance(part, LiveBank)
            assert part.identity == identity
            found += list(part)
            for key in part:
                assert part.info(key) == bank.info(key)
            # Most had no model, but know what their keys are.
            with pytest.raises(TypeError, match="expected int"):
                part["a"] = bank[1]
    assert sorted(found) == [1, 2, 3, 4]
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert names == {_shards.MANIFEST, *(_shards.shard_name(i, live=True) for i in range(64))}
    other = _shards.Manifest.read(tmp_path / "shards")
    assert other.fingerprint == manifest.fingerprint


def test_what_cannot_be_split(tmp_path: Path) -> None:
    bank = Bank.from_stacked([1], ARCHITECTURE, {"layer_0": np.ones((1, 2, 1))})
    for shards in (0, 257):
        with pytest.raises(InvalidValueError, match="expected 1 to 256"):
            _shards.split(bank, tmp_path / "new", shards)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(InvalidValueError, match="new or empty folder"):
        _shards.split(bank, tmp_path / "used", 2)
    with pytest.raises(InvalidValueError, match="never had one"):
        _shards.split(Bank(ARCHITECTURE), tmp_path / "new", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "mlpbank-shards"),
        ({"version": 2}, "version 2"),
        ({"fingerprints": []}, "fingerprints"),
        ({"fingerprints": [1]}, "fingerprints"),
        ({"keys": "float"}, "keys"),
        ({"input_size": "2"}, "input_size"),
        ({"fallback": "a"}, "fallback"),
        ({"live": 1}, "live"),
    ],
)
def test_a_damaged_manifest_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    bank = Bank.from_stacked([1], ARCHITECTURE, {"layer_0": np.ones((1, 2, 1))})
    _shards.split(bank, tmp_path / "shards", 2)
    path = tmp_path / "shards" / _shards.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BankFileError, match=message):
        _shards.Manifest.read(tmp_path / "shards")
    path.write_text("[")
    with pytest.raises(BankFileError, match="expected JSON"):
        _shards.Manifest.read(tmp_path / "shards")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        _shards.Manifest.read(tmp_path / "shards")
