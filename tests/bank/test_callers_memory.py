"""Arguments belong to the caller when a call returns: changing them later changes no bank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, BatchedInference, LayerSpec

ARCH = Architecture.mlp(1, 1)


def stacked(n: int) -> dict[str, Any]:
    return {
        "layer_0": np.arange(n, dtype=np.float32).reshape(n, 1, 1),
        "layer_0.bias": np.zeros((n, 1), np.float32),
    }


def answers(bank: Bank, keys: list[Any]) -> list[float]:
    return bank.predict(keys, np.ones((len(keys), 1)), missing="nan")[:, 0].tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, object])
def test_arrays_of_keys(dtype: Any, tmp_path: Any) -> None:
    keys = np.array([10, 11, 12, 13], dtype)
    bank = Bank.from_stacked(keys, ARCH, stacked(4))
    keys += 1
    assert list(bank) == [10, 11, 12, 13]
    assert answers(bank, [10, 11, 12, 13]) == [0, 1, 2, 3]
    assert np.isnan(answers(bank, [14])).all()
    bank.save(tmp_path / "bank")
    assert list(Bank.open(tmp_path / "bank")) == [10, 11, 12, 13]


def test_lists_of_keys() -> None:
    keys = ["a", "b"]
    bank = Bank.from_stacked(keys, ARCH, stacked(2))
    keys[0] = "z"
    assert list(bank) == ["a", "b"]
    list(bank).append("c")
    assert len(bank) == 2


def test_a_views_memory() -> None:
    memory = np.arange(20)
    bank = Bank.from_stacked(memory[3:7], ARCH, stacked(4))
    memory[:] = 0
    assert list(bank) == [3, 4, 5, 6]


def test_arrays_of_weights(layout: str) -> None:
    weights = stacked(3)
    bank = Bank.from_stacked([1, 2, 3], ARCH, weights, layout=layout)
    one = {"layer_0": np.ones((1, 1), np.float32)}
    bank[9] = one
    inference = BatchedInference(3, ARCH, layout=layout)
    inference.weights.load_stacked(weights)
    for array in (*weights.values(), *one.values()):
        array += 100
    assert answers(bank, [1, 2, 3, 9]) == [0, 1, 2, 1]
    assert inference.forward(np.ones((3, 1)))[:, 0].tolist() == [0, 1, 2]
    bank[9]["layer_0"][:] = 7
    assert answers(bank, [9]) == [1]


def test_metadata_is_what_it_was_when_it_was_set() -> None:
    bank = Bank(ARCH)
    given = {"columns": ["a", "b"]}
    bank.metadata = given
    given["columns"].append("c")
    given["more"] = ["d"]
    assert bank.metadata == {"columns": ["a", "b"]}
    bank.metadata["mine"] = 1
    assert bank.metadata["mine"] == 1


@pytest.mark.parametrize(
    ("wrong", "error"), [([], TypeError), ({1: object()}, TypeError), ({"x": np.nan}, ValueError)]
)
def test_metadata_that_no_file_could_hold_is_refused_when_it_is_set(
    wrong: Any, error: type[Exception]
) -> None:
    bank = Bank(ARCH)
    bank.metadata = {"kept": True}
    with pytest.raises(error, match=r"^metadata: expected "):
        bank.metadata = wrong
    assert bank.metadata == {"kept": True}


def test_layers_and_scalers() -> None:
    layers = [LayerSpec(1, 1)]
    arch = Architecture(layers)
    layers.append(LayerSpec(1, 5))
    assert len(arch.layers) == 1
    mean, scale = np.array([1.0]), np.array([2.0])
    bank = Bank(ARCH)
    bank.add("a", {"layer_0": [[4.0]]}, input_scaler=(mean, scale))
    mean += 5
    scale += 5
    assert bank.predict("a", [3.0]).tolist() == [4.0]
