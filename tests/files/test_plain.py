"""Plain bank files: what is saved comes back, and broken files do no harm."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cases import Weights, assert_same_bits, raises, random_weights
from mlpbank import Architecture, BankFileError, BatchedInference, LayerSpec
from mlpbank.files._plain import load_plain, save_plain

ARCH = Architecture([LayerSpec(3, 4, "tanh"), LayerSpec(4, 2, "relu")])
EXTRA = {"x": np.arange(6).reshape(2, 3)}
METADATA = {"a": [1, {"b": None}]}
KEYS = ["N14228", "", '\N{AIRPLANE} \0 "*']


def stacked() -> Weights:
    return random_weights(ARCH, len(KEYS), np.random.default_rng(1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved bank."""
    path = tmp_path / "bank.safetensors"
    save_plain(path, KEYS, ARCH, stacked(), extra=EXTRA, metadata=METADATA)
    return path


def header_of(data: bytes) -> dict[str, Any]:
    """Return the safetensors header: 8 bytes of length, then JSON."""
    header: dict[str, Any] = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return header


def with_header(data: bytes, header: dict[str, Any]) -> bytes:
    """Return the file with another header before the same tensor bytes."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + struct.unpack("<Q", data[:8])[0] :]


def change_metadata(path: Path, **changes: Any) -> None:
    """Change entries of our JSON metadata; None removes one."""
    header = header_of(path.read_bytes())
    ours = json.loads(header["__metadata__"]["mlpbank"]) | changes
    ours = {name: value for name, value in ours.items() if value is not None}
    header["__metadata__"] = {"mlpbank": json.dumps(ours)}
    path.write_bytes(with_header(path.read_bytes(), header))


def rejects(path: Path, message: str) -> None:
    """Check that loading fails with the path and this message."""
    with pytest.raises(BankFileError, match=f"^{re.escape(f'{path}: {message}')}"):
        load_plain(path)


def test_round_trip_is_exact(path: Path) -> None:
    bank = load_plain(path)
    assert bank.architecture == ARCH
    assert bank.keys == KEYS
    assert bank.metadata == METADATA
    assert list(bank.extra) == ["x"]
    assert bank.extra["x"].dtype == np.int64
    np.testing.assert_array_equal(bank.extra["x"], [[0, 1, 2], [3, 4, 5]])
    assert list(bank.weights) == ["layer_0", "layer_0.bias", "layer_1", "layer_1.bias"]
    for name, array in stacked().items():
        assert_same_bits(bank.weights[name], array)


def test_loaded_weights_go_straight_into_an_inference(path: Path) -> None:
    bank = load_plain(path)
    inference = BatchedInference(len(KEYS), bank.architecture)
    inference.weights.load_stacked(bank.weights)
    assert_same_bits(inference.weights.get(2)["layer_1"], stacked()["layer_1"][2])


def test_any_safetensors_reader_finds_the_documented_names_and_shapes(path: Path) -> None:
    tensors = load_file(path)
    assert {name: (array.dtype.name, array.shape) for name, array in tensors.items()} == {
        "layer_0.weight": ("float32", (3, 3, 4)),
        "layer_0.bias": ("float32", (3, 4)),
        "layer_1.weight": ("float32", (3, 4, 2)),
        "layer_1.bias": ("float32", (3, 2)),
        "extra.x": ("int64", (2, 3)),
    }


def test_equal_banks_are_equal_bytes(path: Path) -> None:
    first = path.read_bytes()
    for _ in range(5):
        save_plain(
            path, KEYS, ARCH, dict(reversed(stacked().items())), extra=EXTRA, metadata=METADATA
        )
        assert path.read_bytes() == first


def test_missing_bias_is_zero_and_keys_are_optional(path: Path) -> None:
    weights = {name: array for name, array in stacked().items() if name != "layer_0.bias"}
    save_plain(path, None, ARCH, weights)
    bank = load_plain(str(path))
    assert bank.keys is None
    assert bank.extra == bank.metadata == {}
    assert_same_bits(bank.weights["layer_0.bias"], np.zeros((3, 4), np.float32))


def test_any_memory_order_and_number_type_is_saved_right(path: Path) -> None:
    weights: dict[str, Any] = dict(stacked())
    weights["layer_0"] = np.asfortranarray(weights["layer_0"]).astype(">f4")
    weights["layer_1"] = weights["layer_1"].tolist()
    extra = {
        "t": np.arange(6, dtype=">i2").reshape(2, 3).T,
        "flags": [True, False],
        "half": np.float16(1.5),
    }
    save_plain(path, None, ARCH, weights, extra=extra)
    bank = load_plain(path)
    for name, array in stacked().items():
        assert_same_bits(bank.weights[name], array)
    for name, array in extra.items():
        np.testing.assert_array_equal(bank.extra[name], array)
    assert bank.extra["half"].dtype == np.float16


def test_saving_what_does_not_fit_fails_and_leaves_the_old_file_alone(path: Path) -> None:
    before = path.read_bytes()
    good: dict[str, Any] = stacked()
    with raises(
        KeyError,
        "weights: expected keys layer_0, layer_0.bias, layer_1, layer_1.bias, got 'layer_0.biass'",
    ):
        save_plain(path, None, ARCH, {**good, "layer_0.biass": 0})
    with raises(KeyError, "weights: missing key 'layer_1'"):
        save_plain(path, None, ARCH, {"layer_0": good["layer_0"]})
    with raises(ValueError, "layer_1: expected shape (3, 4, 2), got (2, 4, 2)"):
        save_plain(path, None, ARCH, {**good, "layer_1": good["layer_1"][:2]})
    with raises(ValueError, "layer_0: expected shape (3, 3, 4), got (3, 4)"):
        save_plain(path, None, ARCH, {**good, "layer_0": good["layer_0"][0]})
    with raises(ValueError, "keys: expected one for each of 3 models, got 2"):
        save_plain(path, ["a", "b"], ARCH, good)
    with raises(ValueError, "keys: expected one for each of 3 models, got 0"):
        save_plain(path, [], ARCH, good)
    with raises(ValueError, "keys: expected different ones, got 'a' again at position 2"):
        save_plain(path, ["a", "b", "a"], ARCH, good)
    with raises(
        TypeError,
        "keys[2]: expected a str, like the keys before, got 1; use str(key), for a column "
        "astype(str)",
    ):
        save_plain(path, ["a", "b", 1], ARCH, good)
    with raises(
        ValueError,
        r"keys[2]: expected a str that UTF-8 can hold, got '\ud800' (surrogates not allowed)",
    ):
        save_plain(path, ["a", "b", "\ud800"], ARCH, good)
    with raises(ValueError, "versions: expected one for each of 3 models, got 1"):
        save_plain(path, None, ARCH, good, versions=["a"])
    with raises(TypeError, "versions[1]: expected a str, got 1"):
        save_plain(path, None, ARCH, good, versions=["a", 1, None])  # type: ignore[list-item]
    with raises(TypeError, "extra['x']: expected numbers or booleans, got dtype object"):
        save_plain(path, None, ARCH, good, extra={"x": np.array([None])})
    with raises(
        TypeError, "extra['x']: expected an array without mask, got a masked array; fill it first"
    ):
        save_plain(path, None, ARCH, good, extra={"x": [[np.ma.masked, 1]]})
    with pytest.raises(ValueError, match="JSON compliant"):
        save_plain(path, None, ARCH, good, metadata={"x": float("nan")})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_plain(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        save_plain(tmp_path / "none" / "bank", None, ARCH, stacked())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": "mlpbank-packed"},
            "metadata 'mlpbank': expected format 'mlpbank-plain', version 1, got {",
        ),
        ({"version": 2}, "metadata 'mlpbank': expected format 'mlpbank-plain', version 1, got {"),
        (
            {"version": None},
            "metadata 'mlpbank': expected format 'mlpbank-plain', version 1, got {",
        ),
        ({"architecture": None}, "architecture: expected a JSON list, got NoneType"),
        ({"architecture": []}, ""),
        ({"architecture": "3-4-2"}, "architecture: expected a JSON list, got str"),
        ({"version": 0}, "metadata 'mlpbank': expected format 'mlpbank-plain', version 1, got {"),
        (
            {"architecture": [[3, 4, "tanh", 0], [4, 2, "relu"]]},
            "architecture: expected [input_size, output_size, activation] and perhaps an object of "
            "parameters for each layer, got [3, 4, 'tanh', 0]",
        ),
        (
            {"architecture": [[3, 4]]},
            "architecture: expected [input_size, output_size, activation] and perhaps an object of "
            "parameters for each layer, got [3, 4]",
        ),
        ({"architecture": [[3, 4, "tanh"], [5, 2, "relu"]]}, ""),
        (
            {"architecture": [[3, 4, "tanh"], [4, -2, "relu"]]},
            "output_size: expected a positive integer, got -2",
        ),
        (
            {"architecture": [[3, 4, "tanh"], [4, 2.0, "relu"]]},
            "output_size: expected a positive integer, got 2.0",
        ),
        ({"architecture": [[3, 4, "tanh"], [4, 2**63, "relu"]]}, "output_size: "),
        ({"architecture": [[3, 2**62, "tanh"], [2**62, 2, "relu"]]}, ""),
        ({"architecture": [[3, 4, "tan"], [4, 2, "relu"]]}, "activation: expected one of"),
        ({"architecture": [[3, 4, {}], [4, 2, "relu"]]}, ""),
        (
            {"architecture": [[3, 5, "tanh"], [5, 2, "relu"]]},
            "layer_0.weight: expected F32 of shape (3, 3, 5), got",
        ),
        (
            {"architecture": [[3, 4, "tanh"]]},
            "expected tensors of Architecture([LayerSpec(3, 4, 'tanh')]) or extra.*",
        ),
        (
            {"architecture": [[3, 4, "tanh"], [4, 2, "relu"], [2, 1, "none"]]},
            "expected a tensor 'layer_2.weight'",
        ),
        ({"keys": ["a", "b"]}, "keys: expected one for each of 3 models, got 2"),
        ({"keys": ["a", "b", "a"]}, "keys: expected different ones, got 'a' again at position 2"),
        ({"keys": ["a", "b", ["c"]]}, "keys[2]: expected a str, like the keys before, got ('c',)"),
        ({"keys": {"a": 0}}, "keys: expected a JSON list, got dict"),
        ({"keys": []}, "keys: expected one for each of 3 models, got 0"),
        ({"keys": {}}, "keys: expected a JSON list, got dict"),
        ({"keys": ""}, "keys: expected a JSON list, got str"),
        ({"metadata": None}, "metadata: expected a JSON dict, got NoneType"),
    ],
)
def test_metadata_that_does_not_fit_is_rejected(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    change_metadata(path, **changes)
    rejects(path, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected metadata 'mlpbank', got none"),
        ("", "metadata 'mlpbank': expected JSON, got "),
        ("{", "metadata 'mlpbank': expected JSON, got "),
        ("[1]", "metadata 'mlpbank': expected a JSON object, got list"),
        (
            '{"format": 1, "format": 1}',
            "metadata 'mlpbank': expected JSON, got a key that comes twice",
        ),
        ("[" * 1_000_000, ""),
        ('{"version": ' + "9" * 10_000 + "}", ""),
    ],
    ids=["none", "empty", "cut", "list", "twice", "deep", "long number"],
)
def test_metadata_that_is_not_ours_is_rejected(path: Path, text: str | None, message: str) -> None:
    header = header_of(path.read_bytes())
    header["__metadata__"] = {} if text is None else {"mlpbank": text}
    path.write_bytes(with_header(path.read_bytes(), header))
    rejects(path, message)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "layer_0.bias",
            {"dtype": "I32"},
            "layer_0.bias: expected F32 of shape (3, 4), got I32 of shape (3, 4)",
        ),
        (
            "layer_0.bias",
            {"dtype": "BF16", "shape": [3, 8]},
            "layer_0.bias: expected F32 of shape (3, 4), got BF16",
        ),
        (
            "layer_0.bias",
            {"shape": [4, 3]},
            "layer_0.bias: expected F32 of shape (3, 4), got F32 of shape (4, 3)",
        ),
        (
            "layer_0.weight",
            {"shape": [1, 9, 4]},
            "layer_0.weight: expected F32 of shape (1, 3, 4), got",
        ),
        (
            "layer_0.weight",
            {"shape": [36]},
            "layer_0.weight: expected F32 of shape (36, 3, 4), got F32 of shape (36,)",
        ),
        (
            "layer_1.bias",
            {"shape": [1, 6]},
            "layer_1.bias: expected F32 of shape (3, 2), got F32 of shape (1, 6)",
        ),
        ("layer_0.weight", {"shape": [2**63, 2**63]}, ""),
        (
            "extra.x",
            {"dtype": "BF16", "shape": [4, 6]},
            "extra.x: expected a dtype of NumPy, got BF16",
        ),
        ("extra.x", {"dtype": "O"}, ""),
        ("extra.x", {"data_offsets": [8, 56]}, ""),
    ],
)
def test_tensors_that_do_not_fit_are_rejected(
    path: Path, name: str, entry: dict[str, Any], message: str
) -> None:
    header = header_of(path.read_bytes())
    header[name] |= entry
    path.write_bytes(with_header(path.read_bytes(), header))
    rejects(path, message)


def test_missing_and_unknown_tensors_are_rejected(path: Path) -> None:
    data = path.read_bytes()
    for old, new, message in (
        ("layer_1.bias", "layer_1.biass", "expected a tensor 'layer_1.bias', got none"),
        ("layer_0.weight", "layer_0", "expected a tensor 'layer_0.weight', got none"),
        ("extra.x", "x", f"expected tensors of {ARCH} or extra.*, got 'x'"),
    ):
        header = {new if name == old else name: entry for name, entry in header_of(data).items()}
        path.write_bytes(with_header(data, header))
        rejects(path, message)


def test_a_file_cut_anywhere_is_rejected(path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        rejects(path, "")
    path.write_bytes(data + b"\0")
    rejects(path, "")


def test_no_damaged_byte_does_harm(path: Path) -> None:
    """A changed byte of the header gives another valid bank or BankFileError, nothing else."""
    data = path.read_bytes()
    rejected = 0
    rng = np.random.default_rng(1)
    for position in range(8 + struct.unpack("<Q", data[:8])[0]):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert load_plain(path).architecture.input_size == 3
        except BankFileError:
            rejected += 1
    assert rejected > 100


def test_names_and_classes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "named.safetensors"
    save_plain(path, None, ARCH, stacked(), feature_names=("c", "a", "b"), classes=(1, "x"))
    bank = load_plain(path)
    assert (bank.feature_names, bank.classes) == (("c", "a", "b"), (1, "x"))
    change_metadata(path, feature_names=["c", "a"])
    rejects(path, "feature_names: expected 3, one for each input, got 2: ['c', 'a']")
    change_metadata(path, feature_names=None, classes=[1, [2]])
    rejects(path, "classes[1]: expected a str, int, float or bool, got [2]")
    change_metadata(path, classes=7)
    rejects(path, "classes: expected list, got 7")


def test_files_without_names_stay_as_they_are(path: Path) -> None:
    about = json.loads(header_of(path.read_bytes())["__metadata__"]["mlpbank"])
    assert about.keys().isdisjoint({"feature_names", "classes"})
