"""Bank files: what is saved comes back, open files stay, and errors leave a whole file."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cases import DTYPES, RunProgram, assert_same_bits, one_model, raises, random_weights
from mlpbank import Architecture, Bank, BankFileError, MlpbankError
from mlpbank.files import _mapped

ARCH = Architecture.mlp(3, 5, 2, activation="tanh")
STR_KEYS = ["", "a", "é", "x" * 300, *(f"k{i}" for i in range(30))]
INT_KEYS = [0, -5, 2**63 - 1, -(2**63), *range(100, 130)]


def make_bank(
    layout: str = "auto", dtype: str = "float32", keys: list[str] | list[int] = STR_KEYS
) -> Bank:
    weights = random_weights(ARCH, len(keys), np.random.default_rng(3))
    return Bank.from_stacked(keys, ARCH, weights, layout=layout, dtype=dtype, version="1.0")


def outputs(bank: Bank) -> np.ndarray:
    """Answers of all models, in the order of the keys."""
    keys = list(bank)
    x = np.random.default_rng(4).standard_normal((1, 2, 3)).astype(np.float32)
    return bank.predict(keys, np.repeat(x, len(keys), axis=0))


def verify(path: Path) -> None:
    _mapped.verify(_mapped.open_file(path, map_file=True))


def assert_same_bank(actual: Bank, expected: Bank) -> None:
    assert actual.keys() == expected.keys()
    assert (actual.architecture, actual.dtype, actual.layout) == (
        expected.architecture,
        expected.dtype,
        expected.layout,
    )
    assert (actual.fallback, actual.metadata) == (expected.fallback, expected.metadata)
    assert [actual.info(key) for key in actual] == [expected.info(key) for key in expected]
    assert_same_bits(outputs(actual), outputs(expected))


@pytest.mark.parametrize("map_file", [True, False])
@pytest.mark.parametrize("keys", [STR_KEYS, INT_KEYS], ids=["str", "int"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(
    tmp_path: Path, layout: str, dtype: str, keys: list[str], map_file: bool
) -> None:
    bank = make_bank(layout, dtype, keys)
    bank.fallback, bank.metadata = keys[2], {"a": [1, {"b": None}], "ü": "\U0001f6eb"}
    path = tmp_path / "bank"
    bank.save(path)
    verify(path)
    opened = Bank.open(path, mmap=map_file)
    assert_same_bank(opened, bank)
    other = "none" if isinstance(keys[0], str) else 99
    np.testing.assert_array_equal(
        opened.predict(other, [1, 2, 3]), bank.predict(keys[2], [1, 2, 3])
    )
    opened.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("keys", [STR_KEYS, INT_KEYS], ids=["str", "int"])
def test_changed_banks_come_back_as_they_are(tmp_path: Path, layout: str, keys: list[str]) -> None:
    """Opened, changed and saved over the very file they map, again and again."""
    path = tmp_path / "bank"
    make_bank(layout, keys=keys).save(path)
    rng = np.random.default_rng(5)
    weights = random_weights(ARCH, 64, rng)
    is_str = isinstance(keys[0], str)
    for turn in range(12):
        bank = Bank.open(path)
        for _ in range(15):
            number = int(rng.integers(0, 40))
            key = (
                (f"k{number}" if is_str else 100 + number)
                if rng.random() < 0.8
                else keys[number % 4]
            )
            if rng.random() < 0.4 and key in bank:
                del bank[key]
            else:
                version = None if rng.random() < 0.5 else f"v{turn}"
                bank.add(key, one_model(weights, int(rng.integers(64))), version=version)
        bank.save(path)
        verify(path)
        assert_same_bank(Bank.open(path), bank)
        copy = pickle.loads(pickle.dumps(bank))
        assert_same_bank(copy, bank)
        assert _mapped.open_file(path, map_file=True).models == len(bank)


def test_revisions_and_versions_count_on(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    make_bank().save(path)
    bank = Bank.open(path)
    bank.add("a", bank["é"], version="2.0")
    bank["k3"] = bank["é"]
    bank["new"] = bank["é"]
    del bank["k1"]
    bank["k1"] = bank["é"]  # begins anew
    expected = {
        "a": ("2.0", 2),
        "k3": (None, 2),
        "new": (None, 1),
        "k1": (None, 1),
        "k2": ("1.0", 1),
    }
    for b in (bank, (bank.save(path), Bank.open(path))[1]):
        for key, known in expected.items():
            assert (b.info(key).version, b.info(key).revision) == known, key
    bank = Bank.open(path)
    bank["a"] = bank["k1"]
    assert bank.info("a").revision == 3


@pytest.mark.parametrize("key", ["a", 5])
def test_empty_banks_keep_their_fallback_and_kind(
    tmp_path: Path, layout: str, key: str | int
) -> None:
    path = tmp_path / "bank"
    weights = one_model(random_weights(ARCH, 1, np.random.default_rng(6)), 0)
    bank = Bank(ARCH, layout=layout, fallback=key)
    for _ in range(2):
        bank.save(path)
        verify(path)
        bank = Bank.open(path)
        assert (len(bank), list(bank), bank.fallback) == (0, [], key)
        kind, other = ("str", 1) if key == "a" else ("int", "b")
        expected = rf"^key: expected {kind} like the bank's other keys, got {other!r}; "
        with pytest.raises(TypeError, match=expected):
            bank[other] = weights
        bank[key] = weights
        del bank[key]  # a bank that was emptied is an empty bank


@pytest.mark.parametrize("map_file", [True, False])
def test_an_opened_empty_bank_can_do_what_others_can(
    tmp_path: Path, layout: str, map_file: bool
) -> None:
    Bank(ARCH, layout=layout).save(tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank", mmap=map_file)
    none, x = np.empty(0, np.int64), np.empty((0, 3), np.float32)
    assert bank.predict([], x).shape == (0, 2)
    assert bank.predict([], x, missing="nan").shape == (0, 2)
    assert bank.predict_handles(none, x).shape == (0, 2)
    assert np.isnan(bank.predict(["a"], np.ones((1, 3)), missing="nan")).all()
    with raises(IndexError, "handles[0]: expected one of Bank.handles, got 0"):
        bank.predict_handles([0], np.ones((1, 3)))
    for again in (pickle.loads(pickle.dumps(bank)), copy.deepcopy(bank)):
        assert list(again) == []
    bank.save(tmp_path / "again")
    verify(tmp_path / "again")
    bank["a"] = one_model(random_weights(ARCH, 1, np.random.default_rng(6)), 0)
    assert outputs(bank).shape == (1, 2, 2)


def test_a_bank_whose_models_were_all_deleted(tmp_path: Path) -> None:
    """Whether it was made or opened: the keys that it began with are not in its file."""
    path = tmp_path / "bank"
    make_bank().save(path)
    for bank in (make_bank(), Bank.open(path)):
        for key in STR_KEYS:
            del bank[key]
        bank.save(path)
        verify(path)
        opened = Bank.open(path)
        assert (list(opened), opened.key_type) == ([], str)
        make_bank().save(path)


def test_a_bank_without_any_key_takes_either_kind(tmp_path: Path) -> None:
    Bank(ARCH).save(tmp_path / "bank")
    for key in ("a", 7):
        bank = Bank.open(tmp_path / "bank")
        assert len(bank) == 0
        bank[key] = one_model(random_weights(ARCH, 1, np.random.default_rng(6)), 0)
        bank.save(tmp_path / "one")
        assert list(Bank.open(tmp_path / "one")) == [key]


def test_an_opened_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    old = make_bank()
    old.save(path)
    mapped, read = Bank.open(path), Bank.open(path, mmap=False)
    before = outputs(mapped)
    new = make_bank(keys=STR_KEYS[:3])
    new.save(path)
    for bank in (mapped, read):
        assert_same_bits(outputs(bank), before)
    assert_same_bank(Bank.open(path), new)
    mapped.save(path)  # back over the file, from the one that is no longer there
    assert_same_bank(Bank.open(path), old)


def test_saving_over_a_file_that_another_process_has_mapped(
    tmp_path: Path, run_program: RunProgram
) -> None:
    path = tmp_path / "bank"
    before = make_bank()
    before.save(path)
    bank = Bank.open(path)
    run_program("save_while_mapped", path)
    assert_same_bank(bank, before)
    new = Bank.open(path)
    assert len(new) == 2
    assert new["a"]["layer_1.bias"].tolist() == [7, 8]
    verify(path)


def test_metadata_nested_too_deeply_is_refused_by_mlpbank_itself() -> None:
    """Writing JSON and reading it reach Python's limit at different depths."""
    bank = make_bank()

    def is_refused(depth: int) -> bool:
        nested: dict[str, object] = {}
        for _ in range(depth):
            nested = {"a": nested}
        try:
            bank.metadata = nested
        except MlpbankError:
            return True
        return False

    # Each CPython has a limit of its own.
    taken, refused = 1, 200_000
    assert not is_refused(taken)
    assert is_refused(refused)
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if is_refused(middle):
            refused = middle
        else:
            taken = middle
    for depth in range(max(1, refused - 100), refused + 100):
        is_refused(depth)  # no other error


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ([1], TypeError, "metadata: expected a dict, got [1]"),
        ({"a": float("nan")}, ValueError, None),
        ({"a": {1, 2}}, TypeError, None),
        ({"a": {1: 2, "1": 3}}, ValueError, "metadata: expected JSON, got a key that comes twice"),
        ({"a": 10**5000}, ValueError, None),
        ({"a": "x" * (17 << 20)}, ValueError, None),
    ],
    ids=["list", "nan", "set", "twice", "long number", "too long"],
)
def test_metadata_that_could_not_be_read_back_is_refused(
    tmp_path: Path, metadata: dict[str, object], error: type[Exception], message: str | None
) -> None:
    bank = make_bank()
    path = tmp_path / "bank"
    bank.save(path)
    before = path.read_bytes()

    def set_and_save() -> None:
        bank.metadata = metadata
        bank.save(path)  # only this sees that the header is too long

    def change_and_save() -> None:
        bank.metadata.update(metadata)
        bank.save(path)

    for change in (
        (set_and_save, change_and_save) if isinstance(metadata, dict) else (set_and_save,)
    ):
        with pytest.raises(error, match=r"^metadata: ") as caught:
            change()
        assert message in (None, str(caught.value))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]


def test_metadata_may_change_while_a_bank_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = make_bank()
    bank.metadata = {"n": 1}
    write = _mapped.write

    def change_and_write(*args: object) -> None:
        bank.metadata["more"] = "x" * 10_000
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_mapped, "write", change_and_write)
    bank.save(tmp_path / "bank")
    verify(tmp_path / "bank")
    assert Bank.open(tmp_path / "bank").metadata == {"n": 1}


def test_fallback_of_another_kind_is_refused_before_there_is_a_file() -> None:
    bank = make_bank()
    for wrong in (7, True, b"a", 1.5):
        with pytest.raises(TypeError, match=r"^key: expected "):
            bank.fallback = wrong  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^key: expected a str that UTF-8 can hold"):
        bank.fallback = "\ud800"
    assert bank.fallback is None


@pytest.mark.parametrize("map_file", [True, False])
def test_errors_name_the_file(tmp_path: Path, map_file: bool) -> None:
    path = tmp_path / "bank"
    for data, message in (
        (b"", "expected a bank file, got an empty file"),
        (b"\x80\x04", "expected a bank file, got a Python pickle"),
        (b"x" * 5000, "expected a bank file, got text that begins with 'xxxx"),
        (
            b"\1\xff" * 2500,
            "expected a header that ends at a multiple of 4096 within the file's 5000 bytes, "
            "got a length of",
        ),
    ):
        path.write_bytes(data)
        with pytest.raises(BankFileError) as caught:
            Bank.open(path, mmap=map_file)
        assert str(caught.value).startswith(f"{path}: {message}")
    with pytest.raises(FileNotFoundError):
        Bank.open(tmp_path / "none", mmap=map_file)
    with pytest.raises(BankFileError, match="or the folder of a live bank, got a folder without"):
        Bank.open(tmp_path, mmap=map_file)


def test_what_is_no_regular_file_is_neither_replaced_nor_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="regular file"):
        make_bank().save(pipe)
    with pytest.raises(BankFileError, match="regular file"):
        Bank.open(pipe)
    for folder in ("missing/bank", "bank/"):
        with pytest.raises(FileNotFoundError, match=folder):
            make_bank().save(f"{tmp_path}/{folder}")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_replaced_file_keeps_its_mode_and_names_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    make_bank().save(path)
    path.chmod(0o600)
    make_bank().save(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_pickle_that_was_cut_is_a_bank_file_error() -> None:
    _, (data, engine) = make_bank().__reduce_ex__(4)
    with pytest.raises(BankFileError):
        Bank._from_bytes(data[:-1], engine)


@pytest.mark.parametrize(
    "part", ["weights", "keys.bytes", "generation", "loaded_at", "keys.slots", "version.bytes"]
)
def test_verify_finds_a_changed_byte(tmp_path: Path, part: str) -> None:
    path = tmp_path / "bank"
    make_bank().save(path)
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[part]["data_offsets"]
    for position in (begin, (begin + end) // 2, end - 1):
        damaged = bytearray(data)
        damaged[8 + length + position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(BankFileError, match=rf"^{part}: expected CRC-32 [0-9a-f]{{8}}, got "):
            verify(path)


def test_verify_finds_weights_that_are_not_finite(tmp_path: Path) -> None:
    bank = make_bank()
    bank["a"] = bank["a"] | {"layer_1.bias": np.float32([1, np.inf])}
    bank.save(tmp_path / "bank")
    with raises(BankFileError, "weights: expected finite ones, got others in model 'a'"):
        verify(tmp_path / "bank")


@pytest.mark.parametrize("map_file", [True, False])
def test_bytes_of_an_opened_bank_are_those_of_its_weights_and_of_what_was_loaded_since(
    tmp_path: Path, layout: str, map_file: bool
) -> None:
    arch = Architecture.mlp(8, 16, 4)
    weights = random_weights(arch, 64, np.random.default_rng(0))
    made = Bank.from_stacked(range(64), arch, weights, layout=layout)
    made.save(tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank", mmap=map_file)
    assert 64 * arch.num_parameters * 4 <= bank.nbytes <= made.nbytes
    before = bank.nbytes
    bank[3] = bank[5]
    assert bank.nbytes > before
