"""A bank is a mutable mapping, and its constructors accept what its methods return."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, MutableMapping, ValuesView
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import assert_same_bits, raises, random_weights
from mlpbank import (
    Architecture,
    Bank,
    BankFileError,
    InvalidValueError,
    StackedModels,
    UnknownKeyError,
    UnknownModelError,
)

ARCH = Architecture.mlp(3, 5, 2, activation="tanh")
STR_KEYS: list[Any] = ["a", "ü", "", "b" * 300]
INT_KEYS: list[Any] = [7, -(2**63), 0, 2**63 - 1]


def make_bank(keys: list[Any], **options: Any) -> Bank:
    return Bank.from_stacked(
        keys, ARCH, random_weights(ARCH, len(keys), np.random.default_rng(0)), **options
    )


def weights_of(number: float) -> dict[str, Any]:
    return {"layer_0": np.full((3, 5), number), "layer_1": np.full((5, 2), number)}


def is_filled_with(weights: dict[str, Any], number: float) -> bool:
    return bool((weights["layer_0"] == number).all() and (weights["layer_1"] == number).all())


@pytest.mark.parametrize("keys", [STR_KEYS, INT_KEYS], ids=["str", "int"])
def test_contract_of_a_mutable_mapping(keys: list[Any], layout: str) -> None:
    bank = make_bank(keys, layout=layout)
    assert isinstance(bank, MutableMapping)
    views = bank.keys(), bank.values(), bank.items()
    assert [type(view) for view in views] == [KeysView, ValuesView, ItemsView]
    assert list(bank) == list(bank.keys()) == keys
    assert [len(view) for view in views] == [4] * 3
    assert keys[2] in views[0]
    assert "other" not in views[0]
    for (key, weights), value in zip(bank.items(), bank.values(), strict=True):
        for name, array in bank[key].items():
            assert_same_bits(weights[name], array)
            assert_same_bits(value[name], array)

    new: Any = "new" if isinstance(keys[0], str) else 1
    assert bank.get(new) is None
    assert bank.get(new, 5) == 5
    assert is_filled_with(bank.setdefault(new, weights_of(1)), 1)
    assert is_filled_with(bank.setdefault(new, weights_of(2)), 1)
    bank.update({new: weights_of(3), keys[0]: weights_of(4)})
    bank.update([(keys[1], weights_of(5))])
    assert [bank[key]["layer_1"][0, 0] for key in (new, keys[0], keys[1])] == [3, 4, 5]
    assert bank.info(new).revision == 2

    assert is_filled_with(bank.pop(new), 3)
    assert new not in bank
    assert bank.pop(new, None) is None
    with pytest.raises(UnknownModelError):
        bank.pop(new)
    with pytest.raises(UnknownModelError):
        del bank[new]
    key, weights = bank.popitem()
    assert key not in bank
    assert set(weights) == {"layer_0", "layer_0.bias", "layer_1", "layer_1.bias"}
    bank.clear()
    assert not bank
    assert list(bank.items()) == []


def test_update_stops_at_the_first_model_that_does_not_fit() -> None:
    bank = make_bank(["a"])
    with raises(ValueError, "layer_0: expected shape (3, 5) or (15,), got (2,)"):
        bank.update(
            {
                "b": weights_of(1),
                "c": {"layer_0": [1, 2], "layer_1": np.ones((5, 2))},
                "d": weights_of(1),
            }
        )
    assert list(bank) == ["a", "b"]


def test_a_bank_equals_itself_only() -> None:
    bank, same = make_bank(["a"]), make_bank(["a"])
    assert bank == bank
    assert bank != same
    assert len({bank, same, bank}) == 2


@pytest.mark.parametrize("keys", [STR_KEYS, INT_KEYS], ids=["str", "int"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_what_to_stacked_gives_makes_the_bank_again(
    keys: list[Any], dtype: Any, layout: str
) -> None:
    bank = make_bank(keys, dtype=dtype, layout=layout)
    bank[keys[1]] = weights_of(2)
    del bank[keys[0]]
    stacked = bank.to_stacked()
    assert isinstance(stacked, StackedModels)
    assert stacked.keys == list(bank)
    assert stacked.architecture == ARCH
    again = Bank.from_stacked(*stacked, dtype=dtype, layout=layout)
    x = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    assert_same_bits(again.predict(list(bank), x), bank.predict(list(bank), x))
    for i, key in enumerate(stacked.keys):
        for name, array in bank[key].items():
            assert_same_bits(stacked.weights[name][i], array)


def test_to_stacked_of_more_models_than_are_unpacked_at_once(
    monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr("mlpbank.bank._files._CHUNK_MODELS", 32)
    keys = list(range(1, 71))
    bank = make_bank(keys, layout=layout)
    stacked = bank.to_stacked()
    assert stacked.keys == keys
    for key in keys:
        for name, array in bank[key].items():
            assert_same_bits(stacked.weights[name][key - 1], array)


def test_to_stacked_of_an_empty_bank() -> None:
    keys, architecture, weights = Bank(ARCH).to_stacked()
    assert (keys, architecture) == ([], ARCH)
    assert [array.shape for array in weights.values()] == [(0, 3, 5), (0, 5), (0, 5, 2), (0, 2)]


@pytest.mark.parametrize("keys", [STR_KEYS, INT_KEYS], ids=["str", "int"])
def test_plain_form_keeps_keys_versions_fallback_and_metadata(
    keys: list[Any], tmp_path: Path
) -> None:
    bank = make_bank(keys, fallback=keys[3], version=["1", None, "ü", "1"])
    bank.metadata = {"features": ["a", "b", "c"]}
    bank.to_safetensors(tmp_path / "plain")
    again = Bank.from_safetensors(tmp_path / "plain", layout="panel")
    assert list(again) == keys
    assert again.key_type is type(keys[0])
    assert [again.info(key).version for key in again] == ["1", None, "ü", "1"]
    assert again.fallback == keys[3]
    assert again.metadata == bank.metadata
    assert again.layout == "panel"
    x = np.ones((4, 3), np.float32)
    assert_same_bits(again.predict(keys, x), bank.predict(keys, x))


def test_plain_files_that_a_bank_cannot_hold_are_refused(tmp_path: Path) -> None:
    from mlpbank.files._plain import save_plain

    path, weights = tmp_path / "plain", random_weights(ARCH, 2, np.random.default_rng(0))
    save_plain(path, None, ARCH, weights)
    with raises(BankFileError, f"{path}: expected keys, got a file without"):
        Bank.from_safetensors(path)
    save_plain(path, ["a", "b"], ARCH, weights, extra={"mean": [1.0]})
    with raises(BankFileError, f"{path}: expected no further arrays, got extra.mean"):
        Bank.from_safetensors(path)


def test_versions_of_each_model_are_checked() -> None:
    with raises(ValueError, "version: expected one for each of 2 models, got 1"):
        make_bank(["a", "b"], version=["1"])
    with raises(TypeError, "version[1]: expected a str, got 2"):
        make_bank(["a", "b"], version=["1", 2])


@pytest.mark.parametrize("keys", [STR_KEYS, INT_KEYS], ids=["str", "int"])
def test_missing_means_the_same_for_handles_and_keys(keys: list[Any]) -> None:
    bank = make_bank(keys)
    handles = bank.handles(keys)
    x = np.ones((4, 3), np.float32)
    del bank[keys[1]]
    assert bank.predict_handles(handles[[0, 2]], x[:2]).shape == (2, 2)
    with pytest.raises(
        UnknownModelError, match=rf"^no such model: {handles[1]} \(1 of 4 handles\)$"
    ):
        bank.predict_handles(handles, x)
    for predict, given in ((bank.predict, keys), (bank.predict_handles, handles)):
        y = predict(given, x, missing="nan")
        assert np.isnan(y).any(axis=1).tolist() == [False, True, False, False]
        with pytest.raises(UnknownModelError):
            predict(given, x, missing="error")
        with pytest.raises(UnknownModelError):  # there is none
            predict(given, x, missing="fallback")
        with raises(ValueError, "missing: expected one of 'error', 'nan', 'fallback', got 'other'"):
            predict(given, x, missing="other")
    bank.fallback = keys[0]
    expected = bank.predict([keys[0], keys[0], *keys[2:]], x)
    assert_same_bits(bank.predict_handles(handles, x), expected)
    assert_same_bits(bank.predict_handles(handles, x, missing="fallback"), expected)
    with pytest.raises(UnknownModelError):
        bank.predict_handles(handles, x, missing="error")


def test_dtypes_of_numpy_are_dtypes() -> None:
    for dtype, name in (
        (np.float32, "float32"),
        (np.dtype("float16"), "float16"),
        (np.int8, "int8"),
    ):
        assert Bank(ARCH, dtype=dtype).dtype == make_bank(["a"], dtype=dtype).dtype == name
    with pytest.warns(UserWarning, match="^int8 weights lose accuracy"):
        make_bank(["a"], dtype=np.int8, input_scaler=(np.zeros(3), np.ones(3)))


def test_clear_and_pop_while_others_remove() -> None:
    """A key that another thread has just removed ends neither."""
    bank = make_bank(list(range(9)))

    class Racing(Bank):
        def __getitem__(self, key: Any) -> dict[str, Any]:
            weights = super().__getitem__(key)
            Bank.__delitem__(self, key)
            return weights

        def __delitem__(self, key: Any) -> None:
            if key == 0:
                super().__delitem__(1)
            super().__delitem__(key)

    bank.__class__ = Racing
    assert bank.pop(8, None) is None
    with pytest.raises(UnknownModelError):
        bank.pop(7)
    bank.clear()
    assert list(bank) == []


def test_popitem_of_an_empty_bank() -> None:
    with pytest.raises(UnknownKeyError, match="popitem: expected a model, got a bank without"):
        Bank(ARCH).popitem()


def test_clear_goes_through_the_keys_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank(list(range(9)))
    listed = 0
    keys = bank._slot_map.keys

    def counted() -> Any:
        nonlocal listed
        listed += 1
        return keys()

    monkeypatch.setattr(bank._slot_map, "keys", counted)
    bank.clear()
    assert listed == 1
    assert not bank


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_plain_files_with_metadata_that_no_bank_has_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "plain"
    bank = make_bank(["a"])
    bank.metadata = {"a": "here"}
    bank.to_safetensors(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].decode().replace(r"\"here\"", value)
    header = text.encode() + b" " * (-len(text) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    with pytest.raises(BankFileError):
        Bank.from_safetensors(path)


def test_metadata_too_long_for_the_plain_form_is_refused(tmp_path: Path) -> None:
    bank = make_bank(["a"])
    bank.metadata = {"a": "x" * (101 << 20)}
    with pytest.raises(InvalidValueError, match=r"^keys, versions and metadata: expected what"):
        bank.to_safetensors(tmp_path / "plain")
    assert list(tmp_path.iterdir()) == []


def test_versions_are_checked_before_anything_is_made() -> None:
    with raises(TypeError, "version: expected a str or a list of one for each model, got 5"):
        Bank.from_stacked([], ARCH, {}, version=5)  # type: ignore[arg-type]
    with raises(ValueError, "version: expected one for each of 1 models, got 2"):
        Bank.from_stacked(["a"], ARCH, {"layer_0": "never looked at"}, version=["1", "2"])
