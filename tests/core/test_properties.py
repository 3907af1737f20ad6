"""Properties of any architecture, weights and inputs. Hypothesis searches for counterexamples."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import assume, given
from hypothesis import strategies as st

from cases import (
    ACTIVATIONS,
    DTYPES,
    HIDDEN,
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
from mlpbank import (
    Activation,
    Architecture,
    BatchedInference,
    BatchedWeights,
    Engine,
    InvalidValueError,
    LayerSpec,
)
from mlpbank.architecture import PARAMETERS, array_shapes

sizes = st.sampled_from(SIZES[:9]) | st.integers(1, 40)
isas = st.sampled_from(ISAS)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)
threads = st.integers(1, 4)


# Parameters with which activations stay near 1 in magnitude.
USUAL: dict[Activation, st.SearchStrategy[dict[str, float]]] = {
    Activation.LEAKY_RELU: st.fixed_dictionaries({}, optional={"alpha": st.floats(-2, 2)}),
    Activation.ELU: st.fixed_dictionaries({}, optional={"alpha": st.floats(-2, 2)}),
    Activation.CELU: st.fixed_dictionaries({}, optional={"alpha": st.floats(1e-3, 1e3)}),
    Activation.HARDSIGMOID: st.fixed_dictionaries(
        {}, optional={"alpha": st.floats(1e-3, 2), "beta": st.floats(-2, 2)}
    ),
    Activation.CLIP: st.fixed_dictionaries({"low": st.floats(-3, 0.5)})
    | st.fixed_dictionaries({"high": st.floats(-0.5, 3)})
    | st.fixed_dictionaries({"low": st.floats(-3, 0.5), "high": st.floats(0.5, 3)}),
}
# Numbers that float32 holds, and some that it rounds.
LARGE = 2.0**126
any_number = st.floats(-LARGE, LARGE) | st.floats(-LARGE, LARGE, width=32) | st.floats(0, 10)


@st.composite
def layers(draw: st.DrawFn, inputs: int, outputs: int, activation: Activation) -> LayerSpec:
    return LayerSpec(inputs, outputs, activation, **draw(USUAL.get(activation, st.just({}))))


@st.composite
def layers_of_any_parameters(draw: st.DrawFn) -> LayerSpec:
    activation = draw(st.sampled_from(sorted(PARAMETERS)))
    options = {name: draw(any_number) for name in PARAMETERS[activation] if draw(st.booleans())}
    try:
        return LayerSpec(draw(sizes), draw(sizes), activation, **options)
    except InvalidValueError:
        assume(False)
        raise


@st.composite
def architectures(draw: st.DrawFn, max_layers: int = 5) -> Architecture:
    units = draw(st.lists(sizes, min_size=2, max_size=max_layers + 1))
    activations = [draw(st.sampled_from(HIDDEN)) for _ in units[2:]]
    activations.append(draw(st.sampled_from(ACTIVATIONS)))
    return Architecture(
        draw(layers(*of)) for of in zip(units[:-1], units[1:], activations, strict=True)
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    arch = draw(architectures())
    num_models, rows = draw(st.integers(1, 35)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(seeds))
    x = rng.standard_normal((num_models, rows, arch.input_size)).astype(np.float32)
    c = Case(arch, random_weights(arch, num_models, rng), x)
    if arch.layers[-1].activation in (Activation.EXP, Activation.EXPM1):
        assume(np.abs(c.reference).max() < np.finfo(np.float32).max / 2)
    return c


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


@given(cases(), isas, layouts, st.sampled_from(DTYPES), threads, st.data())
def test_rows_by_slot_equal_the_dense_call(
    c: Case, isa: str, layout: str, dtype: str, num_threads: int, data: st.DataObject
) -> None:
    """Few or many entries of each model, in any order: tiles, or single models of them."""
    inference = c.inference(isa, layout, num_threads, dtype)
    rng = np.random.default_rng(data.draw(seeds))
    usual = data.draw(st.sampled_from([0, 1, 2, 7, 16, 17, 60]))
    counts = np.where(rng.random(len(c.x)) < 0.7, usual, rng.integers(0, 40, len(c.x)))
    slots = np.repeat(np.arange(len(c.x)), counts)
    if data.draw(st.booleans()):
        rng.shuffle(slots)
    rows = rng.integers(0, c.x.shape[1], len(slots))
    expected = inference.forward(c.x)[slots, rows]
    assert_same_bits(inference.forward(c.x[slots, rows], models=slots), expected)


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
    return {name: any_bits((*batch, *shape), rng) for name, shape in array_shapes(arch).items()}


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
        assert copy.num_parameters == sum(
            (s.input_size + 1) * s.output_size + (s.activation is Activation.PRELU)
            for s in arch.layers
        )


@given(layers_of_any_parameters())
def test_layers_of_any_parameters_survive_repr_and_pickle(layer: LayerSpec) -> None:
    again = LayerSpec(layer.input_size, layer.output_size, layer.activation, **layer.parameters)
    for copy in (eval(repr(layer)), pickle.loads(pickle.dumps(layer)), again):
        assert copy == layer
        assert hash(copy) == hash(layer)
        assert repr(copy) == repr(layer)


@given(layers_of_any_parameters(), st.data())
def test_layers_are_equal_where_float32_holds_the_same_parameters(
    layer: LayerSpec, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([n for n, v in layer.parameters.items() if np.isfinite(v)]))
    value = layer.parameters[name]
    # Between a float32 and its neighbours there are other floats, which round to it.
    near = value + data.draw(st.floats(-0.49, 0.49)) * float(np.spacing(np.float32(abs(value)))) / 2
    assume(np.float32(near) == np.float32(value))
    next_up = float(np.nextafter(np.float32(value), np.float32(np.inf)))
    try:
        same = replace(layer, **{name: near})
        other = replace(layer, **{name: next_up})
    except InvalidValueError:  # beyond what the activation takes
        assume(False)
        raise
    assert same == layer
    assert hash(same) == hash(layer)
    assert other != layer
    assert Architecture([other]) != Architecture([layer])
