"""What forward takes as x: shapes, dtypes and memory of every kind, and what it refuses."""

from __future__ import annotations

import array
import datetime
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cases import Case, Float32Array, architecture, assert_same_bits, case, raises
from mlpbank import Activation, Architecture, BatchedInference, BatchedWeights, Engine

N, ROWS, IN, OUT = 5, 4, 7, 3


@pytest.fixture
def c() -> Case:
    return case(architecture((IN, 18, OUT), Activation.TANH), N, ROWS)


@pytest.fixture
def inference(c: Case, layout: str) -> BatchedInference:
    return BatchedInference.from_weights(c.batched_weights(layout))


def test_properties(c: Case) -> None:
    weights, engine = c.batched_weights("panel"), Engine(1, "portable")
    inference = BatchedInference.from_weights(weights, engine)
    assert inference.num_models == N
    assert inference.architecture is c.architecture
    assert inference.weights is weights
    assert inference.engine is engine
    assert (
        repr(inference)
        == f"BatchedInference(5, {c.architecture!r}, Engine(num_threads=1, isa='portable'))"
    )
    for name in ("num_models", "architecture", "weights", "engine"):
        with pytest.raises(AttributeError):
            setattr(inference, name, 1)
    assert BatchedInference(N, c.architecture).engine.isa == Engine().isa
    assert BatchedInference(N, c.architecture, engine).engine is engine


def test_weights_are_shared_between_inferences(c: Case) -> None:
    weights = BatchedWeights(N, c.architecture)
    first, second = BatchedInference.from_weights(weights), BatchedInference.from_weights(weights)
    for m in range(N):
        first.load_weights(m, {name: a[m] for name, a in c.weights.items()})
    assert weights.loaded.all()
    assert_same_bits(second.forward(c.x), first.forward(c.x))


def test_a_subclass_stays_one(c: Case) -> None:
    class Mine(BatchedInference):
        """A user's subclass."""

    assert type(Mine.from_weights(c.batched_weights("panel"))) is Mine
    assert type(pickle.loads(pickle.dumps(BatchedInference(1, c.architecture)))) is BatchedInference


def test_arguments_of_another_type(c: Case) -> None:
    with raises(TypeError, "weights: expected BatchedWeights, got dict"):
        BatchedInference.from_weights(c.weights)  # type: ignore[arg-type]
    for make in (
        lambda: BatchedInference(N, c.architecture, "avx2"),  # type: ignore[arg-type]
        lambda: BatchedInference.from_weights(BatchedWeights(N, c.architecture), "avx2"),  # type: ignore[arg-type]
    ):
        with raises(TypeError, "engine: expected an Engine, got 'avx2'"):
            make()


def test_example_of_the_docstring() -> None:
    inference = BatchedInference(2, Architecture.mlp(3, 1))
    inference.load_weights(0, {"layer_0": [1, 2, 3]})
    inference.load_weights(1, {"layer_0": [1, 1, 1], "layer_0.bias": [10]})
    assert inference.forward(np.ones((2, 3))).tolist() == [[6.0], [13.0]]


def test_shapes_of_results(inference: BatchedInference, c: Case) -> None:
    full = inference.forward(c.x)
    assert full.shape == (N, ROWS, OUT)
    assert full.dtype == np.float32
    assert full.flags.c_contiguous
    assert_same_bits(inference.forward(c.x[:, 1]), full[:, 1])
    assert_same_bits(inference.forward(list(c.x[:, 1])), full[:, 1])
    assert_same_bits(inference.forward(tuple(c.x)), full)
    assert_same_bits(inference.forward([row.tolist() for row in c.x[:, 1]]), full[:, 1])
    assert_same_bits(inference.forward([array.array("f", row) for row in c.x[:, 1]]), full[:, 1])
    shared = inference.forward_shared(c.x[2])
    assert shared.shape == (N, ROWS, OUT)
    assert_same_bits(shared[2], full[2])
    assert_same_bits(inference.forward_shared(c.x[2, 1]), shared[:, 1])
    assert inference.forward_shared(c.x[2, 1].tolist()).shape == (N, OUT)


def test_no_rows_and_no_entries(inference: BatchedInference) -> None:
    assert inference.forward(np.empty((N, 0, IN))).shape == (N, 0, OUT)
    assert inference.forward_shared(np.empty((0, IN))).shape == (N, 0, OUT)
    assert inference.forward(np.empty((0, IN)), models=[]).shape == (0, OUT)
    assert inference.forward(np.empty((0, ROWS, IN)), models=np.empty(0, int)).shape == (
        0,
        ROWS,
        OUT,
    )
    assert inference.forward(np.empty((2, 0, IN)), models=[1, 3]).shape == (2, 0, OUT)


def _misaligned(a: Float32Array) -> Float32Array:
    shifted = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape)
    assert not shifted.flags.aligned
    return shifted


def _read_only(a: Float32Array) -> Float32Array:
    frozen = a.copy()
    frozen.flags.writeable = False
    return frozen


class Duck:
    """Something that NumPy can read, such as another library's tensor."""

    def __init__(self, values: Float32Array) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Float32Array:
        return self.values


FORMS: dict[str, Callable[[Float32Array], Any]] = {
    "read-only": _read_only,
    "misaligned": _misaligned,
    "fortran": np.asfortranarray,
    "byte-swapped": lambda a: a.astype(">f4"),
    "every-second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "negative-strides": lambda a: np.flip(np.flip(a).copy()),
    "swapped-axes": lambda a: np.swapaxes(np.ascontiguousarray(np.swapaxes(a, 0, -1)), 0, -1),
    "one-of-many-columns": lambda a: np.concatenate([a, a], axis=-1)[..., : a.shape[-1]],
    "float64": lambda a: a.astype(np.float64),
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian-float64": lambda a: a.astype(">f8"),
    "list": lambda a: a.tolist(),
    "subclass": lambda a: a.view(np.recarray),
    "duck": Duck,
}


@pytest.mark.parametrize("form", FORMS)
def test_memory_of_any_form(inference: BatchedInference, c: Case, form: str) -> None:
    change = FORMS[form]
    expected = inference.forward(c.x)
    before = c.x.copy()
    assert_same_bits(inference.forward(change(c.x)), expected)
    assert_same_bits(inference.forward(change(c.x[:, 1])), expected[:, 1])
    assert_same_bits(
        inference.forward(change(c.x[::-1]), models=np.arange(N)[::-1]), expected[::-1]
    )
    assert_same_bits(inference.forward_shared(change(c.x[1])), inference.forward_shared(c.x[1]))
    assert_same_bits(c.x, before)  # inputs are never written to


@pytest.mark.parametrize("step", [0, 1, 3])
def test_rows_at_any_address(isa: str, layout: str, step: int) -> None:
    """float32 is used where it lies: at any multiple of 4 bytes."""
    c = case(architecture((5, 17, 3), Activation.NONE), 3, 9)
    inference = c.inference(isa, layout)
    expected = inference.forward(c.x)
    x = np.zeros(c.x.size + step, np.float32)[step:].reshape(c.x.shape)
    x[:] = c.x
    out = np.zeros(expected.size + 2, np.float32)[1:-1].reshape(expected.shape)
    assert_same_bits(inference.forward(x, out=out), expected)
    assert out.base[0] == out.base[-1] == 0  # nothing beside it was written


@pytest.mark.parametrize(
    "dtype", [np.float16, np.int8, np.uint8, np.int32, np.int64, np.uint64, bool]
)
def test_real_dtypes_are_converted(inference: BatchedInference, dtype: Any) -> None:
    x = np.random.default_rng(0).integers(0, 2, (N, ROWS, IN)).astype(dtype)
    assert_same_bits(inference.forward(x), inference.forward(x.astype(np.float32)))
    assert_same_bits(
        inference.forward_shared(x[0]), inference.forward_shared(x[0].astype(np.float32))
    )


REFUSED: list[tuple[Callable[[Float32Array], Any], str]] = [
    (lambda a: a.astype(complex), "expected real numbers, got dtype complex128"),
    (lambda a: a.astype(object), "expected real numbers, got dtype object"),
    (lambda a: a.astype(str).astype("<U5"), "expected real numbers, got dtype <U5"),
    (lambda a: a.astype("S5"), "expected real numbers, got dtype |S5"),
    (lambda a: a.astype("M8[s]"), "expected real numbers, got dtype datetime64[s]"),
    (lambda a: a.astype("m8[s]"), "expected real numbers, got dtype timedelta64[s]"),
    (
        lambda a: np.zeros(a.shape, "f4,f4"),
        "expected real numbers, got dtype [('f0', '<f4'), ('f1', '<f4')]",
    ),
    (np.ma.masked_invalid, "expected an array without mask, got a masked array; fill it first"),
    (lambda a: None, "expected real numbers, got dtype object"),
    (lambda a: datetime.date(2013, 1, 1), "expected real numbers, got dtype object"),
    (lambda a: [[None] * IN] * N, "expected real numbers, got dtype object"),
]
REFUSED_NAMES = [
    "complex",
    "object",
    "str",
    "bytes",
    "datetime",
    "timedelta",
    "records",
    "masked",
    "None",
    "date",
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[*REFUSED_NAMES, "list-of-None"])
def test_other_dtypes_are_refused(
    inference: BatchedInference, c: Case, change: Callable[..., Any], message: str
) -> None:
    x = c.x[:, 0]
    for call in (
        inference.forward,
        inference.forward_shared,
        lambda x: inference.forward(x, models=range(N)),
    ):
        with raises(TypeError, f"x: {message}"):
            call(change(x))


def test_masked_arrays_in_a_list_are_refused_too(inference: BatchedInference, c: Case) -> None:
    """NumPy would drop their masks and hand over what lies below."""
    vectors = [np.ma.masked_greater(row, 0) for row in c.x[:, 0]]
    for form in (list, tuple):
        for call in (
            inference.forward,
            inference.forward_shared,
            lambda x: inference.forward(x, models=range(N)),
        ):
            with raises(
                TypeError, "x: expected an array without mask, got a masked array; fill it first"
            ):
                call(form(vectors))


def _nested(values: Any, depth: int) -> Any:
    for level in range(depth):
        values = [values] if level % 2 else (values,)
    return values


@pytest.mark.parametrize("depth", range(1, 6))
def test_masks_at_any_depth_of_lists_are_refused(
    inference: BatchedInference, c: Case, depth: int
) -> None:
    """NumPy would drop them and hand over what lies below."""
    message = "expected an array without mask, got a masked array; fill it first"
    vector = np.ma.masked_greater(c.x[0, 0], 0)
    for masked in ([c.x[1, 0], vector], [[0.0] * IN, list(vector)], [1.0, np.ma.masked]):
        values = _nested(masked, depth)
        for call in (
            inference.forward,
            inference.forward_shared,
            lambda x: inference.forward(x, models=range(N)),
        ):
            with raises(TypeError, f"x: {message}"):
                call(values)
        with raises(TypeError, f"layer_0: {message}"):
            inference.load_weights(0, {"layer_0": values, "layer_1": c.weights["layer_1"][0]})
        with raises(TypeError, f"models: {message}"):
            inference.forward(c.x, models=values)


def test_lists_without_end_are_refused(inference: BatchedInference) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises((TypeError, ValueError), match=r"^x: "):
        inference.forward(endless)


def test_vectors_of_different_lengths(inference: BatchedInference, c: Case) -> None:
    with pytest.raises(
        ValueError, match=r"^x: expected numbers that form an array, got .*inhomogeneous"
    ):
        inference.forward([row[: IN - i] for i, row in enumerate(c.x[:, 0])])


def test_wrong_shapes(inference: BatchedInference) -> None:
    for shape in [(), (IN,), (1, N, ROWS, IN), (N, 1, 1, IN), (N, 0, 1, IN)]:
        with raises(ValueError, f"x: expected shape (5, 7) or (5, rows, 7), got {shape}"):
            inference.forward(np.zeros(shape))
    for shape in [(N, IN - 1), (N, ROWS, IN - 1), (N - 1, IN - 1)]:
        with raises(ValueError, "x: expected last dimension 7, got 6"):
            inference.forward(np.zeros(shape))
    for shape in [(N - 1, IN), (N - 1, ROWS, IN)]:
        with raises(ValueError, "x: expected first dimension 5 (num_models), got 4"):
            inference.forward(np.zeros(shape))
        with raises(ValueError, "x: expected first dimension 2 (len(models)), got 4"):
            inference.forward(np.zeros(shape), models=[0, 1])
    for shape in [(IN,), (2, 1, 1, IN)]:
        with raises(ValueError, f"x: expected shape (2, 7) or (2, rows, 7), got {shape}"):
            inference.forward(np.zeros(shape), models=[0, 1])
    with raises(ValueError, "x: expected first dimension 0 (len(models)), got 1"):
        inference.forward(np.zeros((1, IN)), models=[])


def test_wrong_shapes_of_shared_rows(inference: BatchedInference) -> None:
    for shape in [(), (N, ROWS, IN)]:
        with raises(ValueError, f"x: expected shape (7,) or (rows, 7), got {shape}"):
            inference.forward_shared(np.zeros(shape))
    for shape in [(IN + 1,), (ROWS, IN + 1)]:
        with raises(ValueError, "x: expected last dimension 7, got 8"):
            inference.forward_shared(np.zeros(shape))
