"""Properties of any architecture, weights and inputs. Hypothesis searches for counterexamples."""

from __future__ import annotations

import pickle

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from cases import (
    ACTIVATIONS,
    ELEMENTWISE,
    ISAS,
    LAYOUTS,
    SIZES,
    Case,
    Weights,
    assert_same_bits,
    assert_within,
    one_model,
    random_weights,
)
from mlpbank import Architecture, BatchedInference, BatchedWeights, Engine, LayerSpec

sizes = st.sampled_from(SIZES[:9]) | st.integers(1, 40)
isas = st.sampled_from(ISAS)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)
threads = st.integers(1, 4)


@st.composite
def architectures(draw: st.DrawFn, max_layers: int = 5) -> Architecture:
    units = draw(st.lists(sizes, min_size=2, max_size=max_layers + 1))
    activations = [draw(st.sampled_from(ELEMENTWISE)) for _ in units[2:]] + [
        draw(st.sampled_from(ACTIVATIONS))
    ]
    return Architecture(map(LayerSpec, units[:-1], units[1:], activations))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    arch = draw(architectures())
    num_models, rows = draw(st.integers(1, 35)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(seeds))
    x = rng.standard_normal((num_models, rows, arch.input_size)).astype(np.float32)
    return Case(arch, random_weights(arch, num_models, rng), x)


@given(cases(), isas, layouts, threads)
def test_any_network_is_within_its_bound_of_the_reference(
    c: Case, isa: str, layout: str, num_threads: int
) -> None:
    assert_within(c.inference(isa, layout, num_threads).forward(c.x), c, isa)


@given(cases(), isas, layouts, threads)
def test_a_batch_equals_its_singles(c: Case, isa: str, layout: str, num_threads: int) -> None:
    together = c.inference(isa, layout, num_threads).forward(c.x)
    for m, rows in enumerate(c.x):
        single = BatchedInference(1, c.architecture, Engine(1, isa), layout=layout)
        single.load_weights(0, one_model(c.weights, m))
        assert_same_bits(single.forward(rows[None])[0], together[m])


@given(cases(), isas, layouts, seeds)
def test_permuting_models_permutes_outputs(c: Case, isa: str, layout: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(c.x))
    permuted = Case(
        c.architecture, {name: array[order] for name, array in c.weights.items()}, c.x[order]
    )
    assert_same_bits(
        permuted.inference(isa, layout).forward(permuted.x),
        c.inference(isa, layout).forward(c.x)[order],
    )


@given(cases(), isas, layouts, seeds)
def test_permuting_rows_permutes_outputs(c: Case, isa: str, layout: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(c.x.shape[1])
    inference = c.inference(isa, layout)
    assert_same_bits(inference.forward(c.x[:, order]), inference.forward(c.x)[:, order])


@given(cases(), isas, layouts, st.data())
def test_reloading_one_model_changes_that_model_only(
    c: Case, isa: str, layout: str, data: st.DataObject
) -> None:
    model = data.draw(st.integers(0, len(c.x) - 1))
    rng = np.random.default_rng(data.draw(seeds))
    inference = c.inference(isa, layout)
    before = inference.forward(c.x)
    new = random_weights(c.architecture, 1, rng)
    inference.load_weights(model, one_model(new, 0))
    after = inference.forward(c.x)
    others = np.arange(len(c.x)) != model
    assert_same_bits(after[others], before[others])
    alone = Case(c.architecture, new, c.x[model : model + 1])
    assert_same_bits(after[model], alone.inference(isa, layout).forward(alone.x)[0])


def any_bits(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return floats of any bits. Arithmetic or conversions might change every tenth."""
    patterns = rng.integers(0, 2**32, shape, dtype=np.uint32)
    special = np.array(
        [
            0x80000000,
            0x00000001,
            0x807FFFFF,
            0x7F800000,
            0xFF800000,
            0x7FC00000,
            0x7FC12345,
            0xFFC00001,
            0x7F800001,
        ],
        np.uint32,  # -0, subnormals, infinities, quiet NaNs with payloads, a signalling NaN
    )
    return (
        np.where(rng.random(shape) < 0.1, rng.choice(special, shape), patterns)
        .astype(np.uint32)
        .view(np.float32)
    )


def any_weights(arch: Architecture, batch: tuple[int, ...], rng: np.random.Generator) -> Weights:
    weights = {}
    for i, layer in enumerate(arch.layers):
        weights[f"layer_{i}"] = any_bits((*batch, layer.input_size, layer.output_size), rng)
        weights[f"layer_{i}.bias"] = any_bits((*batch, layer.output_size), rng)
    return weights


@given(architectures(), st.integers(1, 35), layouts, seeds)
def test_weights_come_back_bit_for_bit(
    arch: Architecture, num_models: int, layout: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stacked = any_weights(arch, (num_models,), rng)
    together, one_by_one = (BatchedWeights(num_models, arch, layout=layout) for _ in range(2))
    together.load_stacked(stacked)
    for m in rng.permutation(num_models):
        one_by_one.load(m, one_model(stacked, m))
    for m in range(num_models):
        for weights in (together, one_by_one):
            got = weights.get(m)
            assert list(got) == list(stacked)
            for name, array in got.items():
                assert_same_bits(array, stacked[name][m])


@given(architectures())
def test_architectures_survive_repr_and_pickle(arch: Architecture) -> None:
    for copy in (eval(repr(arch)), pickle.loads(pickle.dumps(arch)), Architecture(arch.layers)):
        assert copy == arch
        assert hash(copy) == hash(arch)
        assert copy.num_parameters == sum((s.input_size + 1) * s.output_size for s in arch.layers)
