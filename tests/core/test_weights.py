"""BatchedWeights: its properties, loading in every form, getting back and unloading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from cases import Weights, assert_same_bits, one_model, raises, random_weights
from mlpbank import Architecture, BatchedInference, BatchedWeights, ModelNotLoadedError

ARCH = Architecture.mlp(3, 18, 2)


def stacked(num_models: int = 5) -> Weights:
    return random_weights(ARCH, num_models, np.random.default_rng(1))


def test_properties(layout: str) -> None:
    weights = BatchedWeights(5, ARCH, layout=layout)
    assert weights.num_models == 5
    assert weights.architecture is ARCH
    assert weights.layout == layout
    assert repr(weights) == f"BatchedWeights(5, {ARCH!r}, layout={layout!r})"
    for name in ("num_models", "architecture", "layout", "nbytes", "loaded"):
        with pytest.raises(AttributeError):
            setattr(weights, name, 1)


@pytest.mark.parametrize("num_models", [1, 2, 16, 17, 100_000])
def test_buffer_is_aligned_and_little_larger_than_the_weights(layout: str, num_models: int) -> None:
    weights = BatchedWeights(num_models, ARCH, layout=layout)
    assert weights._core.address % 64 == 0
    whole_tiles = -(-num_models // 16) * 16 if layout == "lane" else num_models
    padding = (
        64 * (len(ARCH.layers) + 1) * (whole_tiles if layout == "panel" else whole_tiles // 16)
    )
    assert (
        num_models * ARCH.num_parameters * 4
        <= weights.nbytes
        <= whole_tiles * ARCH.num_parameters * 4 + padding
    )


def test_auto_layout_is_lane_for_tiny_networks_and_panel_for_wide_ones() -> None:
    assert BatchedWeights(2, Architecture.mlp(4, 8, 2)).layout == "lane"
    assert BatchedWeights(2, Architecture.mlp(256, 256, 256)).layout == "panel"
    assert BatchedInference(2, Architecture.mlp(4, 8, 2)).weights.layout == "lane"


@pytest.mark.parametrize(
    ("sizes", "parameters", "auto"), [((255, 1), 256, "lane"), ((256, 1), 257, "panel")]
)
def test_auto_layout_at_its_edge(sizes: tuple[int, ...], parameters: int, auto: str) -> None:
    arch = Architecture.mlp(*sizes)
    assert arch.num_parameters == parameters
    assert BatchedWeights(2, arch).layout == BatchedInference(2, arch).weights.layout == auto


def test_loaded_tells_which_models_have_weights(layout: str) -> None:
    weights = BatchedWeights(5, ARCH, layout=layout)
    assert weights.loaded.dtype == bool
    assert weights.loaded.tolist() == [False] * 5
    weights.load(3, one_model(stacked(), 3))
    weights.load(3, one_model(stacked(), 3))
    assert weights.loaded.tolist() == [False, False, False, True, False]
    flags = weights.loaded
    flags[:] = True  # a copy
    assert weights.loaded.tolist() == [False, False, False, True, False]
    weights.load_stacked(stacked())
    assert weights.loaded.all()


def test_get_gives_new_float32_arrays_in_layer_order(layout: str) -> None:
    weights = BatchedWeights(5, ARCH, layout=layout)
    weights.load_stacked(stacked())
    got = weights.get(np.int64(2))
    assert list(got) == ["layer_0", "layer_0.bias", "layer_1", "layer_1.bias"]
    for name, array in got.items():
        assert array.dtype == np.float32
        assert_same_bits(array, stacked()[name][2])
        array[:] = 0
    for name, array in weights.get(2).items():
        assert_same_bits(array, stacked()[name][2])


FORMS: list[Callable[[Any], Any]] = [
    lambda a: a,
    lambda a: a.tolist(),
    lambda a: a.astype(np.float64),
    lambda a: np.asfortranarray(a),
    lambda a: a.astype(">f4"),
    lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    lambda a: np.flip(np.flip(a).copy()),
    lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
]
FORM_NAMES = [
    "float32",
    "list",
    "float64",
    "fortran",
    "byte-swapped",
    "strided",
    "negative-strides",
    "misaligned",
]


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("flat", [False, True])
def test_arrays_in_any_form(layout: str, form: Callable[[Any], Any], flat: bool) -> None:
    together, one_by_one = (
        BatchedWeights(5, ARCH, layout=layout),
        BatchedInference(5, ARCH, layout=layout),
    )
    all_models = stacked()
    for name in ("layer_0", "layer_1"):
        if flat:
            all_models[name] = all_models[name].reshape(5, -1)
    together.load_stacked({name: form(array) for name, array in all_models.items()})
    for m in range(5):
        one_by_one.load_weights(m, {name: form(array[m]) for name, array in all_models.items()})
    for m in range(5):
        for weights in (together, one_by_one.weights):
            for name, array in weights.get(m).items():
                assert_same_bits(array, stacked()[name][m])


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int8, np.int64, np.uint8, bool])
def test_real_dtypes_are_converted(dtype: Any) -> None:
    weights = BatchedWeights(1, Architecture.mlp(2, 2))
    values = np.array([[1, 0], [3, 2]]).astype(dtype)
    weights.load(0, {"layer_0": values, "layer_0.bias": values[0]})
    np.testing.assert_array_equal(weights.get(0)["layer_0"], values.astype(np.float32))
    np.testing.assert_array_equal(weights.get(0)["layer_0.bias"], values[0].astype(np.float32))


def test_missing_biases_are_zero(layout: str) -> None:
    weights = BatchedWeights(5, ARCH, layout=layout)
    weights.load_stacked(stacked())
    all_models = stacked()
    weights.load(1, {name: all_models[name][1] for name in ("layer_0", "layer_1", "layer_1.bias")})
    np.testing.assert_array_equal(weights.get(1)["layer_0.bias"], np.zeros(18))
    assert_same_bits(weights.get(1)["layer_1.bias"], all_models["layer_1.bias"][1])
    assert_same_bits(weights.get(2)["layer_0.bias"], all_models["layer_0.bias"][2])


def test_missing_biases_of_stacked_weights_are_zero_where_others_were(layout: str) -> None:
    """Also in memory that held the biases of models before."""
    weights = BatchedWeights(20, ARCH, layout=layout)
    all_models = stacked(20)
    without = {name: array for name, array in all_models.items() if name != "layer_1.bias"}
    for _ in range(4):
        weights.load_stacked(all_models)
        weights.load_stacked(without)
        for m in range(20):
            np.testing.assert_array_equal(weights.get(m)["layer_1.bias"], np.zeros(2))
            assert_same_bits(weights.get(m)["layer_0.bias"], all_models["layer_0.bias"][m])


class Growing(Mapping[str, Any]):
    """Weights that let their bank grow when they are looked at."""

    def __init__(self, bank: BatchedWeights, contents: Weights) -> None:
        self.bank, self.contents = bank, contents

    def __getitem__(self, name: str) -> Any:
        self.bank.grow(3)
        return self.contents[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.contents)

    def __len__(self) -> int:
        return len(self.contents)


def test_stacked_weights_of_a_bank_that_grows_meanwhile(layout: str) -> None:
    """As many models as there were when the call began."""
    weights = BatchedWeights(5, ARCH, layout=layout)
    weights.load_stacked(Growing(weights, stacked()))
    assert weights.num_models > 5
    assert np.flatnonzero(weights.loaded).tolist() == [0, 1, 2, 3, 4]
    for m in range(5):
        for name, array in weights.get(m).items():
            assert_same_bits(array, stacked()[name][m])


def test_what_is_there_is_known_after_any_loads_and_unloads(layout: str) -> None:
    """Replace, unload, load again: a forward is refused before it writes, or all are there."""
    n, rng = 18, np.random.default_rng(3)
    weights = BatchedWeights(n, ARCH, layout=layout)
    inference, x = BatchedInference.from_weights(weights), np.ones((n, 3), np.float32)
    there = np.zeros(n, bool)
    complete = 0
    for turn in range(600):
        kind = rng.integers(12)
        model = (
            int(rng.choice(np.flatnonzero(~there)))
            if kind < 7 and not there.all()
            else int(rng.integers(n))
        )
        if kind < 9:
            weights.load(model, one_model(stacked(n), model))
            there[model] = True
        elif kind < 11 or turn % 5:
            weights.unload(model)
            there[model] = False
        else:
            weights.load_stacked(stacked(n))
            there[:] = True
        assert (weights.loaded == there).all()
        out = np.full((n, 2), 9, np.float32)
        if there.all():
            complete += 1
            assert np.isfinite(inference.forward(x, out=out)).all()
            continue
        with raises(ModelNotLoadedError, f"model {np.argmin(there)}: no weights were loaded"):
            inference.forward(x, out=out)
        assert (out == 9).all()
    assert complete > 20


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 33])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_replacing_a_model_does_not_make_up_for_a_missing_one(
    layout: str, n: int, times: int
) -> None:
    """Loads of one model count once, and each model of a tile for itself."""
    out = np.full((n, 2), 9, np.float32)
    for there in {1, n - 1}:
        weights = BatchedWeights(n, ARCH, layout=layout)
        for m in range(there):
            weights.load(m, one_model(stacked(n), m))
        for _ in range(times - 1):
            weights.load(0, one_model(stacked(n), 0))
            weights.unload(there)
        with raises(ModelNotLoadedError, f"model {there}: no weights were loaded"):
            BatchedInference.from_weights(weights).forward(np.ones((n, 3), np.float32), out=out)
        assert (out == 9).all()


def test_bytes_do_not_grow_by_replacing_unloading_and_loading_again(layout: str) -> None:
    weights = BatchedWeights(40, ARCH, layout=layout)
    empty = weights.nbytes

    def everything() -> None:
        for m in range(40):
            weights.load(m, one_model(stacked(40), m))
            weights.load(m, one_model(stacked(40), m))
        for m in range(40):
            weights.unload(m)
        for m in range(39, -1, -1):
            weights.load(m, one_model(stacked(40), m))

    everything()
    after = weights.nbytes
    for _ in range(5):
        everything()
    assert empty <= weights.nbytes == after <= 2 * empty + 100_000
    weights.grow(48)
    assert weights.nbytes >= after + empty, "the new models' memory counts"


def test_weights_are_copied_when_loaded() -> None:
    weights, mine = BatchedWeights(5, ARCH), stacked()
    weights.load_stacked(mine)
    for array in mine.values():
        array[:] = 7
    for name, array in weights.get(0).items():
        assert_same_bits(array, stacked()[name][0])
