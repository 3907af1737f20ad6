"""docs/format.md suffices to read what Bank writes, and a file of each version stays readable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from cases import DTYPES, LAYOUTS, Weights, assert_same_bits, random_weights
from format_reader import BankFile, hash_int, hash_str
from mlpbank import Architecture, Bank, LayerSpec

ARCHITECTURES = {
    "4-8-2": Architecture.mlp(4, 8, 2),
    "3-19-1": Architecture([LayerSpec(3, 19, "tanh"), LayerSpec(19, 1, "softplus")]),
    "1-1": Architecture.mlp(1, 1),
    "33-16-40-17": Architecture.mlp(33, 16, 40, 17, output_activation="softmax"),
}
KEYS = {
    "str": [
        "",
        "a",
        "N14228",
        "Zürich",
        "東京",
        "\U0001f6eb",
        "x" * 1000,
        "a\0b",
        *(f"k{i}" for i in range(25)),
    ],
    "int": [0, -1, 1, 2**63 - 1, -(2**63), *range(1000, 1028)],
}


def a_bank(arch: Architecture, layout: str, dtype: str, kind: str) -> tuple[Bank, Weights]:
    keys = KEYS[kind]
    weights = random_weights(arch, len(keys), np.random.default_rng(len(keys)))
    return Bank.from_stacked(keys, arch, weights, layout=layout, dtype=dtype, version="v1"), weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reader_of_the_documented_format_gives_the_weights_of_the_bank(
    tmp_path: Path, name: str, layout: str, dtype: str
) -> None:
    arch = ARCHITECTURES[name]
    for kind, keys in KEYS.items():
        bank, weights = a_bank(arch, layout, dtype, kind)
        bank.metadata = {"written": "für Fremde"}
        bank.fallback = keys[3]
        bank.save(tmp_path / "bank")
        file = BankFile(tmp_path / "bank")
        assert file.about["architecture"] == [
            [s.input_size, s.output_size, s.activation.value] for s in arch.layers
        ]
        assert (file.about["dtype"], file.about["layout"], file.about["keys"]) == (
            dtype,
            layout,
            kind,
        )
        assert (file.about["metadata"], file.about["fallback"]) == (
            {"written": "für Fremde"},
            keys[3],
        )
        assert file.keys() == keys
        assert file.versions() == ["v1"] * len(keys)
        assert file.tensors["generation"].tolist() == [1] * len(keys)
        for i, key in enumerate(keys):
            assert file.find(key) == i
            stored, read = bank[key], file.model(i)
            assert stored.keys() == read.keys()
            for part in stored:
                assert_same_bits(read[part], stored[part])
                if dtype == "float32":
                    assert_same_bits(read[part], weights[part][i])
        assert file.find("none" if kind == "str" else 77) is None
        if layout == "lane":
            assert file.marks() == [0xFFFF, 0xFFFF, 1]


def test_what_the_page_says_is_zero_is_zero(tmp_path: Path, layout: str) -> None:
    """Models of ones are removed, so that leftovers would show as bytes that are not zero."""
    arch = ARCHITECTURES["3-19-1"]
    parts = arch.num_parameters
    ones = {
        f"layer_{i}{suffix}": np.ones((33, *shape), np.float32)
        for i, s in enumerate(arch.layers)
        for suffix, shape in (("", (s.input_size, s.output_size)), (".bias", (s.output_size,)))
    }
    bank = Bank.from_stacked(KEYS["str"], arch, ones, layout=layout)
    bank.save(tmp_path / "bank")
    file = BankFile(tmp_path / "bank")
    weights = file.tensors["weights"]
    assert file.block_bytes == {"panel": 512, "lane": 6208}[layout], "the example of the page"
    assert np.count_nonzero(weights.view("<u4") == 0x3F800000) == 33 * parts
    assert np.count_nonzero(weights.view("<u4")) == 33 * parts + (3 if layout == "lane" else 0)


def test_hashes_are_those_of_the_page() -> None:
    assert (hash_str(b""), hash_str(b"a"), hash_int(0)) == (
        0xCBF29CE44FD0BFC1,
        0xAF63DC4C296230C0,
        0xE220A8397B1DCDAF,
    )


def test_an_empty_bank(tmp_path: Path, layout: str) -> None:
    Bank(ARCHITECTURES["4-8-2"], layout=layout).save(tmp_path / "bank")
    file = BankFile(tmp_path / "bank")
    assert (file.models, file.keys(), file.about["keys"]) == (0, [], None)
    assert list(file.tensors) == [
        "weights",
        "generation",
        "loaded_at",
        "version.offsets",
        "version.bytes",
    ]


def test_after_changes_a_file_holds_what_is_left(tmp_path: Path, layout: str) -> None:
    bank, _ = a_bank(ARCHITECTURES["4-8-2"], layout, "float32", "str")
    keys = [key for i, key in enumerate(KEYS["str"]) if i % 3]
    for key in set(KEYS["str"]) - set(keys):
        del bank[key]
    bank.add(keys[4], bank[keys[5]], version="v2")
    bank["new"] = bank[keys[6]]
    bank.save(tmp_path / "bank")
    file = BankFile(tmp_path / "bank")
    assert file.keys() == [*keys, "new"]
    assert file.versions() == ["v1"] * 4 + ["v2"] + ["v1"] * (len(keys) - 5) + [""]
    assert file.tensors["generation"].tolist() == [1] * 4 + [2] + [1] * (len(keys) - 4)
    for i, key in enumerate(file.keys()):
        assert file.find(key) == i
        assert_same_bits(file.model(i)["layer_1"], bank[key]["layer_1"])


@pytest.mark.parametrize("kind", KEYS)
def test_safetensors_opens_bank_files(tmp_path: Path, layout: str, kind: str) -> None:
    bank, _ = a_bank(ARCHITECTURES["4-8-2"], layout, "float32", kind)
    bank.save(tmp_path / "bank")
    mine = BankFile(tmp_path / "bank")
    with safe_open(tmp_path / "bank", framework="numpy") as file:
        assert sorted(file.keys()) == sorted(mine.tensors)
        assert json.loads(file.metadata()["mlpbank"]) == mine.about
        for name, array in mine.tensors.items():
            read = file.get_tensor(name)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)


# The golden file: made once by data/make_golden.py. Its weights are small integers over 8, which
# every dtype holds, and these are its answers, by hand: h = relu(x W0 + b0), y = h W1 + b1 with W0
# = [[1, -1], [2, 0.5]] * s, b0 = [0.25, 0], W1 = [[1], [4]], b1 = [s], for s = 1, 2, -1 and x = (1,
# 2): h = (5.25, 0), (10.25, 0), (0, 0).
GOLDEN = {"one": 6.25, "zwei \u2461": 12.25, "": -1.0}


@pytest.mark.parametrize("name", ["bank_v1", "bank_v2", "bank_v2_without_tags"])
@pytest.mark.parametrize("map_file", [True, False])
def test_golden_files(map_file: bool, name: str) -> None:
    path = Path(__file__).parents[1] / "data" / f"{name}.mlpbank"
    bank = Bank.open(path, mmap=map_file)
    assert bank.architecture == Architecture([LayerSpec(2, 2, "relu"), LayerSpec(2, 1)])
    assert (bank.dtype, bank.layout, bank.fallback, bank.metadata) == (
        "float32",
        "panel",
        "one",
        {"golden": [1, None]},
    )
    assert list(bank) == list(GOLDEN)
    assert bank.predict(list(GOLDEN), np.tile(np.float32([1, 2]), (3, 1)))[:, 0].tolist() == list(
        GOLDEN.values()
    )
    assert bank.predict("?", [1.0, 2.0]).tolist() == [6.25]
    np.testing.assert_array_equal(bank["zwei \u2461"]["layer_0"], [[2, -2], [4, 1]])
    info = [bank.info(key) for key in GOLDEN]
    assert [(i.version, i.revision) for i in info] == [("2026-11", 1), (None, 2), ("ü", 1)]
    assert all(i.loaded_at.timestamp() == 1_700_000_000 for i in info)
    file = BankFile(path)
    assert file.about["version"] == int(name[6])
    assert [file.find(key) for key in GOLDEN] == [0, 1, 2]
    assert file.model(2)["layer_1.bias"].tolist() == [-1]


def test_golden_file_is_what_is_written_today(tmp_path: Path) -> None:
    """Byte for byte: times of loading and the seed are set by the script."""
    from data.make_golden import make

    make(tmp_path / "bank")
    assert (tmp_path / "bank").read_bytes() == (
        Path(__file__).parents[1] / "data" / "bank_v2.mlpbank"
    ).read_bytes()


def test_layouts_of_the_tests_are_those_of_the_page() -> None:
    assert (LAYOUTS, DTYPES) == (("panel", "lane"), ("float32", "float16", "bfloat16", "int8"))


def test_a_bank_of_version_1_that_is_saved_again_keeps_its_table_or_gets_a_seed(
    tmp_path: Path,
) -> None:
    bank = Bank.open(Path(__file__).parents[1] / "data" / "bank_v1.mlpbank")
    bank.save(tmp_path / "same")
    assert BankFile(tmp_path / "same").about["seed"] is None
    bank["new"] = bank["one"]
    bank.save(tmp_path / "changed")
    for name, keys in (("same", [*GOLDEN]), ("changed", [*GOLDEN, "new"])):
        file = BankFile(tmp_path / name)
        assert file.about["version"] == 2
        assert [file.find(key) for key in keys] == list(range(len(keys)))
        assert list(Bank.open(tmp_path / name)) == keys
    assert len(BankFile(tmp_path / "changed").about["seed"]) == 32


def test_a_bank_without_tags_that_is_saved_again_keeps_its_table_or_gets_tags(
    tmp_path: Path,
) -> None:
    bank = Bank.open(Path(__file__).parents[1] / "data" / "bank_v2_without_tags.mlpbank")
    bank.save(tmp_path / "same")
    bank["new"] = bank["one"]
    bank.save(tmp_path / "changed")
    for name, tags, keys in (
        ("same", False, [*GOLDEN]),
        ("changed", True, [*GOLDEN, "new"]),
    ):
        file = BankFile(tmp_path / name)
        assert file.about["tags"] is tags
        assert [file.find(key) for key in keys] == list(range(len(keys)))
        assert Bank.open(tmp_path / name).handles(keys).tolist() == list(range(len(keys)))


def test_two_banks_have_two_seeds(tmp_path: Path) -> None:
    seeds = set()
    for i in range(8):
        Bank.from_stacked([1, 2], Architecture.mlp(1, 1), {"layer_0": np.ones((2, 1, 1))}).save(
            tmp_path / str(i)
        )
        seeds.add(BankFile(tmp_path / str(i)).about["seed"])
    assert len(seeds) == 8
