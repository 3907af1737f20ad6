"""Bank files with a right header, wrong tensors and matching checksums do no harm."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bank_files import Parts, small_bank, survives, to_bytes
from cases import raises
from mlpbank import Bank, BankFileError, ModelNotLoadedError, UnknownModelError
from mlpbank.files import _mapped

DATA = {
    (kind, layout): to_bytes(small_bank(kind, layout, models=3))
    for kind in ("str", "int")
    for layout in ("lane", "panel")
}


def set_all(name: str, value: Any) -> Callable[[Parts], None]:
    def change(file: Parts) -> None:
        file.tensors[name][...] = value

    return change


def set_at(name: str, where: int, value: Any) -> Callable[[Parts], None]:
    def change(file: Parts) -> None:
        file.tensors[name].reshape(-1)[where] = value

    return change


def marks(value: int) -> Callable[[Parts], None]:
    def change(file: Parts) -> None:
        file.tensors["weights"][:, -64:-60] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)

    return change


# The kind of keys, what is done, and whether verify finds it.
FORGED: list[tuple[str, str, Callable[[Parts], None], bool]] = [
    ("slots empty", "str", set_all("keys.slots", 0), True),
    ("slots full of one key", "str", set_all("keys.slots", 1), True),
    ("slots full of the last key", "str", set_all("keys.slots", 3), True),
    ("slots just past the end", "str", set_all("keys.slots", 4), True),
    ("slots far past the end", "str", set_all("keys.slots", 2**32 - 1), True),
    ("slots of an int bank empty", "int", set_all("keys.slots", 0), True),
    ("slots of an int bank full", "int", set_all("keys.slots", 2), True),
    ("slots of an int bank past the end", "int", set_all("keys.slots", 2**31), True),
    ("keys equal", "int", set_all("keys", 10), True),
    (
        "keys equal, of text",
        "str",
        lambda f: f.tensors["keys.bytes"].__setitem__(..., f.tensors["keys.bytes"][0]),
        True,
    ),
    ("keys not UTF-8", "str", set_all("keys.bytes", 0xFF), True),
    ("keys cut within a character", "str", set_at("keys.bytes", 4, 0xC3), True),
    (
        "keys with a surrogate",
        "str",
        lambda f: f.tensors["keys.bytes"].__setitem__(slice(3), (0xED, 0xA0, 0x80)),
        True,
    ),
    ("offsets all 0", "str", set_all("keys.offsets", 0), True),
    ("offsets begin late", "str", set_at("keys.offsets", 0, 1), True),
    ("offsets end early", "str", set_at("keys.offsets", 3, 14), True),
    ("offsets end late", "str", set_at("keys.offsets", 3, 16), True),
    ("offsets descend", "str", set_at("keys.offsets", 1, 12), True),
    ("offsets of 2^63", "str", set_at("keys.offsets", 1, 2**63), True),
    ("offsets of 2^64 - 1", "str", set_all("keys.offsets", 2**64 - 1), True),
    ("offsets that wrap", "str", set_at("keys.offsets", 0, 2**64 - 5), True),
    ("versions begin late", "str", set_at("version.offsets", 0, 1), True),
    ("versions descend", "str", set_at("version.offsets", 1, 5), True),
    ("versions past the end", "str", set_all("version.offsets", 2**64 - 1), True),
    ("versions of 2^63", "str", set_at("version.offsets", 2, 2**63), True),
    ("versions not UTF-8", "str", set_all("version.bytes", 0xFF), True),
    ("generation 0", "str", set_all("generation", 0), True),
    ("generation negative", "str", set_all("generation", -(2**63)), True),
    ("generation at its end", "str", set_all("generation", 2**63 - 1), False),
    ("loaded at NaN", "str", set_all("loaded_at", np.nan), True),
    ("loaded at infinity", "str", set_all("loaded_at", np.inf), True),
    ("loaded at 1e300", "str", set_all("loaded_at", 1e300), True),
    ("loaded at -1e300", "str", set_all("loaded_at", -1e300), True),
    ("loaded before our time", "str", set_all("loaded_at", -1.0), True),
    ("loaded in the year 9999", "str", set_all("loaded_at", 253370764799.0), False),
    ("loaded in the year 10000", "str", set_all("loaded_at", 253402300800.0), True),
    ("weights NaN", "str", set_all("weights", 0xFF), True),
]
MARKS = [
    ("no marks", "str", marks(0), True),
    ("a mark missing", "str", marks(0b101), True),
    ("more marks than models", "str", marks(0xFFFF), False),
    ("more marks than lanes", "str", marks(0xFFFFFFFF), False),
]


@pytest.mark.parametrize(
    ("kind", "forge", "found"), [f[1:] for f in FORGED + MARKS], ids=[f[0] for f in FORGED + MARKS]
)
def test_forged(kind: str, forge: Callable[[Parts], None], found: bool) -> None:
    for layout in ("lane", "panel") if all(forge is not m[2] for m in MARKS) else ("lane",):
        file = Parts.of(DATA[kind, layout])
        forge(file)
        file.sign()
        data = file.join()
        assert survives(data) is not None
        if found:
            with pytest.raises(BankFileError):
                _mapped.verify(_mapped.from_bytes(data))
        else:
            _mapped.verify(_mapped.from_bytes(data))


def forged(kind: str, change: Callable[[Parts], None]) -> Bank:
    file = Parts.of(DATA[kind, "lane"])
    change(file)
    return Bank._from_bytes(file.join())


X = np.zeros((1, 2), np.float32)


def test_messages() -> None:
    bank = forged("str", set_all("loaded_at", 1e300))
    with raises(BankFileError, "loaded_at: expected seconds since 1970, got 1e+300 for 'key 0'"):
        bank.info("key 0")
    bank = forged("str", set_at("keys.offsets", 1, 12))
    with raises(BankFileError, "keys: expected offsets that ascend"):
        list(bank)
    bank = forged("str", set_all("keys.bytes", 0xFF))
    with pytest.raises(BankFileError, match=r"^keys: expected UTF-8, got b'\\xff"):
        list(bank)
    bank = forged("str", marks(0b101))
    bank["key 0"] = bank["key 2"]  # so that not all are known to be there
    with pytest.raises(ModelNotLoadedError, match=r"^model 1: no weights were loaded$"):
        bank.predict(["key 0", "key 1"], np.repeat(X, 2, 0))
    with pytest.raises(ModelNotLoadedError, match=r"^model 1: no weights were loaded$"):
        bank.predict_handles([0, 1], np.repeat(X, 2, 0))
    with pytest.raises(UnknownModelError):
        bank["key 1"]
    with pytest.raises(ModelNotLoadedError):
        pickle.dumps(bank)
    bank = forged("int", set_all("keys", 10))
    bank[5] = bank[10]
    with pytest.raises(
        BankFileError,
        match=r"^the file this bank came from is damaged: keys: expected different ones",
    ):
        pickle.dumps(bank)


def test_a_full_table_is_searched_once_around() -> None:
    """No slot is empty, so nothing but the number of slots ends a search."""

    def fill_with_first_key(file: Parts) -> None:
        slots = file.tensors["keys.slots"]
        slots[...] = slots[slots % 4 == 1][0]  # of three keys; above is a tag

    for kind, unknown in (("str", "none"), ("int", 77)):
        bank = forged(kind, fill_with_first_key)
        known = "key 0" if kind == "str" else 0
        with pytest.raises(UnknownModelError):
            bank.predict([unknown], X)
        assert bank.predict([known], X).shape == (1, 1)


def test_revisions_stay_within_64_bits() -> None:
    bank = forged("str", set_all("generation", 2**63 - 1))
    bank["key 0"] = bank["key 1"]
    assert bank.info("key 0").revision == 2**63 - 1
    assert Bank._from_bytes(to_bytes(bank)).info("key 0").revision == 2**63 - 1


def test_a_damaged_tile_can_be_repaired() -> None:
    bank = forged("str", marks(0))
    good = small_bank("str", "lane")
    for key in good:
        bank[key] = good[key]
    keys = list(good)
    np.testing.assert_array_equal(
        bank.predict(keys, np.ones((3, 2))), good.predict(keys, np.ones((3, 2)))
    )
    _mapped.verify(_mapped.from_bytes(to_bytes(bank)))
