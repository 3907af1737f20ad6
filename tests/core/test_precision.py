"""Weights stored in 16 and 8 bits."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

import reference
from cases import case, raises
from mlpbank import Architecture, BatchedInference, BatchedWeights, Engine, available_isas
from tolerance import error_bound

Floats = npt.NDArray[np.float32]
SIZES = [(4, 8, 2), (1, 1), (3, 17, 33, 5), (32, 64, 64, 1), (65, 127, 7), (10, 10, 10)]
FUSED = [isa for isa in available_isas() if isa != "portable"]


def to_bfloat16(x: Floats) -> Floats:
    """Round to nearest even in integer arithmetic; finite values only."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


ROUND = {"float16": lambda x: x.astype(np.float16).astype(np.float32), "bfloat16": to_bfloat16}


def stored(dtype: str, layout: str, values: Floats) -> Floats:
    """Return what a bank of one layer with one model keeps of values (inputs, outputs)."""
    weights = BatchedWeights(1, Architecture.mlp(*values.shape), layout=layout, dtype=dtype)
    weights.load(0, {"layer_0": values})
    return weights.get(0)["layer_0"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_rounding_is_to_nearest_even(layout: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    limit = 65519.99 if dtype == "float16" else 3.38e38
    patterns = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    patterns = patterns[np.isfinite(patterns) & (np.abs(patterns) < limit)]
    small = (rng.standard_normal(50_000) * 10.0 ** rng.uniform(-9, 4, 50_000)).astype(np.float32)
    halfway = np.arange(1, 2048, dtype=np.float32) / 1024 + np.float32(2.0**-11)  # ties of float16
    values = np.concatenate([patterns, np.clip(small, -60000, 60000), halfway, [0.0, -0.0]]).astype(
        np.float32
    )
    values = np.resize(values, (len(values) // 16 + 1, 16))
    assert (
        stored(dtype, layout, values).view(np.uint32) == ROUND[dtype](values).view(np.uint32)
    ).all()


@pytest.mark.parametrize("isa", available_isas())
def test_every_float16_is_computed_with_as_it_is(isa: str) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].astype(np.float32).reshape(1, -1)
    inference = BatchedInference(
        1, Architecture.mlp(*every.shape), Engine(isa=isa), dtype="float16", layout="panel"
    )
    inference.load_weights(0, {"layer_0": every})
    for rows in (1, 40):
        assert (inference.forward(np.ones((1, rows, 1))) == every[0]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sixteen_bits_equal_float32_on_the_rounded_weights(
    sizes: tuple[int, ...], dtype: str
) -> None:
    for rows in (1, 3, 8, 17, 48):
        c = case(Architecture.mlp(*sizes, activation="tanh"), num_models=19, rows=rows)
        rounded = {k: v if k.endswith("bias") else ROUND[dtype](v) for k, v in c.weights.items()}
        expected = BatchedInference(19, c.architecture)
        expected.weights.load_stacked(rounded)
        y = expected.forward(c.x)
        slots = np.random.default_rng(1).integers(0, 19, 40)
        for isa, layout in itertools.product(FUSED, ("panel", "lane")):
            inference = BatchedInference(
                19, c.architecture, Engine(isa=isa), layout=layout, dtype=dtype
            )
            inference.weights.load_stacked(c.weights)
            assert (inference.forward(c.x).view(np.uint32) == y.view(np.uint32)).all()
            assert (
                inference.forward(c.x[slots], models=slots).view(np.uint32)
                == y[slots].view(np.uint32)
            ).all()


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("layout", ["panel", "lane"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_int8_is_symmetric_with_a_scale_for_each_output(
    sizes: tuple[int, ...], layout: str, isa: str
) -> None:
    c = case(Architecture.mlp(*sizes, activation="relu"), num_models=17, rows=9)
    inference = BatchedInference(17, c.architecture, Engine(isa=isa), layout=layout, dtype="int8")
    inference.weights.load_stacked(c.weights)
    kept = [inference.weights.get(m) for m in range(17)]
    for m, name in itertools.product(range(17), (f"layer_{i}" for i in range(len(sizes) - 1))):
        original = c.weights[name][m]
        scale = np.abs(original).max(axis=0) / 127
        assert (np.abs(kept[m][name] - original) <= scale * 0.50001).all()
        steps = kept[m][name] / np.where(scale > 0, scale, 1)
        assert np.abs(steps - np.rint(steps)).max() < 1e-3
        assert (c.weights[name + ".bias"][m] == kept[m][name + ".bias"]).all()
    # The sum over int8 weights is scaled afterwards: one rounding more than float32 has on the same
    # weights.
    weights = {k: np.stack([w[k] for w in kept]) for k in kept[0]}
    exact = np.stack(
        [reference.forward(c.architecture, w, x) for w, x in zip(kept, c.x, strict=True)]
    )
    bound = error_bound(c.architecture, weights, c.x, fused=False)
    for rows in (1, 9):
        assert (
            np.abs(inference.forward(c.x[:, :rows]) - exact[:, :rows]) <= 4 * bound[:, :rows]
        ).all()


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_int8_gives_the_same_bits_on_every_path(layout: str) -> None:
    c = case(Architecture.mlp(7, 33, 9, activation="tanh"), num_models=20, rows=40)
    inferences = [
        BatchedInference(20, c.architecture, Engine(isa=isa), layout=layout, dtype="int8")
        for isa in FUSED
    ]
    for inference in inferences:
        inference.weights.load_stacked(c.weights)
    y = inferences[0].forward(c.x)
    for inference in inferences:
        for rows in (1, 2, 8, 9, 16, 17, 40):
            assert (
                inference.forward(c.x[:, :rows]).view(np.uint32) == y[:, :rows].view(np.uint32)
            ).all()


def test_edges_of_int8() -> None:
    zeros = np.zeros((3, 5), np.float32)
    assert (stored("int8", "panel", zeros) == 0).all()
    tiny = np.full((2, 1), 1e-45, np.float32)  # its scale underflows
    assert np.abs(stored("int8", "panel", tiny)).max() <= 1e-42
    largest = np.array([[3.4e38], [-3.4e38]], np.float32)
    assert stored("int8", "panel", largest) == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        (
            "float16",
            65520.0,
            r"^layer_0: expected magnitudes that float16 can hold, below 65520, "
            r"got 65520.0 at \(1, 2\)$",
        ),
        (
            "bfloat16",
            3.4e38,
            r"^layer_0: expected magnitudes that bfloat16 can hold, .* at \(1, 2\)$",
        ),
        ("int8", np.inf, r"^layer_0: expected finite values for int8, got inf at \(1, 2\)$"),
        ("int8", np.nan, r"^layer_0: expected finite values for int8, got nan at \(1, 2\)$"),
    ],
)
def test_weights_that_do_not_fit_are_refused(dtype: str, value: float, message: str) -> None:
    weights = BatchedWeights(1, Architecture.mlp(2, 3), dtype=dtype)
    matrix = np.ones((2, 3), np.float32)
    matrix[1, 2] = value
    with pytest.raises(ValueError, match=message):
        weights.load(0, {"layer_0": matrix})
    assert not weights.loaded.any()


# The least magnitude of float32 that rounds to infinity: half a step above the largest number of
# the dtype.
TOO_LARGE = {"float16": np.float32(65520), "bfloat16": np.float32(float.fromhex("0x1.ffp127"))}
LARGEST = {"float16": np.float32(65504), "bfloat16": np.float32(float.fromhex("0x1.fep127"))}


@pytest.mark.parametrize("layout", ["panel", "lane"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_exact_edge_of_what_sixteen_bits_hold(layout: str, dtype: str, sign: int) -> None:
    edge = sign * TOO_LARGE[dtype]
    weights = BatchedWeights(3, Architecture.mlp(2, 3, 2), layout=layout, dtype=dtype)
    for name, shape in (("layer_0", (2, 3)), ("layer_1", (3, 2))):
        model = {"layer_0": np.ones((2, 3), np.float32), "layer_1": np.ones((3, 2), np.float32)}
        stacked = {key: np.stack([array] * 3) for key, array in model.items()}
        model[name][-1, -1] = stacked[name][2, -1, -1] = edge
        at = (shape[0] - 1, shape[1] - 1)
        limit = f"below {TOO_LARGE[dtype]:g}"
        message = f"{name}: expected magnitudes that {dtype} can hold, {limit}, got {edge} at "
        with raises(ValueError, f"{message}{at}"):
            weights.load(0, model)
        with raises(ValueError, f"{message}{(2, *at)}"):
            weights.load_stacked(stacked)
        assert not weights.loaded.any()
        below = np.nextafter(edge, np.float32(0))
        model[name][-1, -1] = stacked[name][2, -1, -1] = below
        weights.load(0, model)
        assert weights.get(0)[name][-1, -1] == sign * LARGEST[dtype]
        weights.load_stacked(stacked)
        assert weights.get(2)[name][-1, -1] == sign * LARGEST[dtype]
        for m in range(3):
            weights.unload(m)


def test_int8_refuses_what_is_not_finite_in_every_layer() -> None:
    weights = BatchedWeights(2, Architecture.mlp(2, 3, 2), dtype="int8")
    for value in (np.inf, -np.inf, np.nan):
        stacked = {
            "layer_0": np.ones((2, 2, 3), np.float32),
            "layer_1": np.ones((2, 3, 2), np.float32),
        }
        stacked["layer_1"][1, 2, 1] = value
        with raises(
            ValueError, f"layer_1: expected finite values for int8, got {value} at (1, 2, 1)"
        ):
            weights.load_stacked(stacked)
        with raises(ValueError, f"layer_1: expected finite values for int8, got {value} at (2, 1)"):
            weights.load(0, {name: array[1] for name, array in stacked.items()})
    assert not weights.loaded.any()


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_int8_whose_scale_is_subnormal(layout: str) -> None:
    """A scale with few bits lets quotients leave the range of int8: they stay at its ends."""
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    for steps in (
        64,
        100,
        150,
        180,
        190,
        250,
        300,
        1000,
    ):  # 64 to 190 have a scale of one step
        values = np.array([[steps, -steps], [-steps, steps], [1, 0]], np.float64) * tiny
        kept = stored("int8", layout, values.astype(np.float32))
        scale = max(1, round(steps / 127)) * tiny
        assert (np.abs(kept) <= 127.01 * scale).all()
        assert (np.sign(kept[:2]) == np.sign(values[:2])).all()
        assert (np.abs(kept - np.clip(values, -127 * scale, 127 * scale)) <= scale).all()


@pytest.mark.parametrize("layout", ["panel", "lane"])
@pytest.mark.parametrize(("dtype", "quiet"), [("float16", 0x7FC00000), ("bfloat16", 0x7FC00000)])
def test_nan_with_any_payload_stays_nan(layout: str, dtype: str, quiet: int) -> None:
    """Payload bits that do not fit are lost; were they all, the number would be infinity."""
    patterns = np.array(
        [0x7F800001, 0x7F80FFFF, 0x7FFFFFFF, 0x7FC00000, 0x7F810000, 0x7FA00000], np.uint32
    )
    patterns = np.concatenate([patterns, patterns | 0x80000000]).reshape(3, 4)
    kept = stored(dtype, layout, patterns.view(np.float32)).view(np.uint32)
    assert ((kept & quiet) == quiet).all()
    assert ((kept >> 31) == (patterns >> 31)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_infinity_and_nan_stay_what_they_are(dtype: str) -> None:
    special = np.array([[np.inf, -np.inf, np.nan, -0.0]], np.float32)
    kept = stored(dtype, "panel", special)
    assert (kept[0, :2] == special[0, :2]).all()
    assert np.isnan(kept[0, 2])
    assert np.signbit(kept[0, 3])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("sizes", [(32, 64, 64, 1), (4, 8, 2)], ids=str)
def test_memory_is_hardly_more_than_the_raw_contents(sizes: tuple[int, ...], dtype: str) -> None:
    arch = Architecture.mlp(*sizes)
    element = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[dtype]
    raw = sum(
        spec.output_size * (spec.input_size * element + (8 if dtype == "int8" else 4))
        for spec in arch.layers
    )
    assert BatchedWeights(1000, arch, dtype=dtype).nbytes <= 1.2 * 1000 * raw


def test_unknown_dtype() -> None:
    with pytest.raises(
        ValueError,
        match=r"^dtype: expected one of 'float32', 'float16', 'bfloat16', 'int8', got 'f4'$",
    ):
        BatchedWeights(1, Architecture.mlp(1, 1), dtype="f4")
    assert BatchedWeights(1, Architecture.mlp(1, 1), dtype="int8").dtype == "int8"


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.dtype("float16"), np.dtype(">f2"), np.int8, np.dtype("int8"), np.float32],
)
def test_numpy_dtypes(dtype: npt.DTypeLike) -> None:
    name = np.dtype(dtype).name
    assert BatchedWeights(1, Architecture.mlp(1, 1), dtype=dtype).dtype == name
    assert BatchedInference(1, Architecture.mlp(1, 1), dtype=dtype).weights.dtype == name


def test_other_dtypes() -> None:
    with pytest.raises(ValueError, match=r"^dtype: expected one of .*, got 'float64'$"):
        BatchedWeights(1, Architecture.mlp(1, 1), dtype=np.float64)
    for wrong in (None, float, 2, [("a", "f4")]):
        with pytest.raises(TypeError, match=r"^dtype: expected a dtype such as 'float16', got "):
            BatchedWeights(1, Architecture.mlp(1, 1), dtype=wrong)
