"""out= is where the result goes, or it is refused; it is never silently replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cases import Case, Float32Array, architecture, assert_same_bits, case, raises
from mlpbank import Activation, BatchedInference

Call = Callable[[BatchedInference, Case, Any], Float32Array]
CALLS: dict[str, Call] = {
    "forward": lambda inference, c, out: inference.forward(c.x, out=out),
    "models": lambda inference, c, out: inference.forward(
        c.x[::-1], models=[4, 3, 2, 1, 0], out=out
    ),
    "shared": lambda inference, c, out: inference.forward_shared(c.x[0], out=out),
}
SHAPE = (5, 4, 3)


@pytest.fixture
def c() -> Case:
    return case(architecture((7, 18, 3), Activation.TANH), 5, 4)


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


@pytest.fixture
def inference(c: Case, layout: str) -> BatchedInference:
    return BatchedInference.from_weights(c.batched_weights(layout))


def test_result_is_out_itself(inference: BatchedInference, c: Case, call: Call) -> None:
    expected = call(inference, c, None)
    out = np.full(SHAPE, np.nan, np.float32)
    assert call(inference, c, out) is out
    assert_same_bits(out, expected)


def test_each_call_returns_memory_of_its_own(
    inference: BatchedInference, c: Case, call: Call
) -> None:
    assert not np.may_share_memory(call(inference, c, None), call(inference, c, None))


def test_out_in_two_dimensions(inference: BatchedInference, c: Case) -> None:
    out = np.empty((5, 3), np.float32)
    assert inference.forward(c.x[:, 0], out=out) is out
    assert_same_bits(out, inference.forward(c.x[:, 0]))
    assert inference.forward_shared(c.x[0, 0], out=out) is out
    assert_same_bits(out, inference.forward_shared(c.x[0, 0]))


def test_a_contiguous_part_of_a_larger_array_is_taken(
    inference: BatchedInference, c: Case, call: Call
) -> None:
    larger = np.full((7, 4, 3), 5, np.float32)
    call(inference, c, larger[1:6])
    assert_same_bits(larger[1:6], call(inference, c, None))
    assert (larger[0] == 5).all()
    assert (larger[6] == 5).all()


def test_out_without_rows(inference: BatchedInference) -> None:
    out = np.empty((5, 0, 3), np.float32)
    assert inference.forward(np.empty((5, 0, 7)), out=out) is out


@pytest.mark.parametrize(
    ("out", "got"),
    [
        (np.empty(SHAPE), "dtype float64"),
        (np.empty(SHAPE, ">f4"), "dtype >f4"),
        (np.empty(SHAPE, np.int32), "dtype int32"),
        (np.empty(SHAPE, np.float32).tolist(), "list"),
        (memoryview(np.empty(SHAPE, np.float32)), "memoryview"),
        ("out", "str"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_other_types_are_refused(
    inference: BatchedInference, c: Case, call: Call, out: Any, got: str
) -> None:
    with raises(TypeError, f"out: expected a float32 NumPy array, got {got}"):
        call(inference, c, out)


@pytest.mark.parametrize("shape", [(5, 4), (4, 5, 3), (5, 4, 4), (60,), (5, 4, 3, 1)])
def test_other_shapes_are_refused(
    inference: BatchedInference, c: Case, call: Call, shape: tuple[int, ...]
) -> None:
    with raises(ValueError, f"out: expected shape {SHAPE}, got {shape}"):
        call(inference, c, np.empty(shape, np.float32))


def _read_only() -> Float32Array:
    out = np.empty(SHAPE, np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.empty(SHAPE, np.float32, order="F"),
        lambda: np.empty((5, 4, 6), np.float32)[..., ::2],
        lambda: np.empty(SHAPE, np.float32)[::-1],
        lambda: np.frombuffer(bytearray(241), np.uint8)[1:].view(np.float32).reshape(SHAPE),
        _read_only,
    ],
    ids=["fortran", "strided", "negative-strides", "misaligned", "read-only"],
)
def test_memory_that_cannot_be_written_straight_is_refused(
    inference: BatchedInference, c: Case, call: Call, make: Callable[[], Float32Array]
) -> None:
    with raises(
        ValueError, "out: expected a C-contiguous, aligned, writeable array, got one that is not"
    ):
        call(inference, c, make())


def test_masked_out_is_refused(inference: BatchedInference, c: Case, call: Call) -> None:
    """Its mask would stay as it is over the new values."""
    with pytest.raises(TypeError, match=r"^out: "):
        call(inference, c, np.ma.masked_all(SHAPE, np.float32))


def test_memory_of_the_inputs_is_refused(layout: str) -> None:
    """Rows are read again after the first outputs are written."""
    c = case(architecture((3, 5, 3), Activation.NONE), 4, 2)
    inference = BatchedInference.from_weights(c.batched_weights(layout))
    x = c.x.copy()
    for call in (
        lambda: inference.forward(x, out=x),
        lambda: inference.forward(x, models=range(4), out=x),
        lambda: inference.forward_shared(x[0], out=x),
    ):
        with raises(
            ValueError, "out: expected memory of its own, got an array that overlaps the inputs"
        ):
            call()
    assert_same_bits(x, c.x)


# How far into the inputs `out` begins, where it is of these sizes: by one float, by half, at both
# ends.
OVERLAPS: dict[str, Callable[[int, int], int]] = {
    "over the last float": lambda inputs, out: inputs - 1,
    "over the first float": lambda inputs, out: 1 - out,
    "over the second half": lambda inputs, out: inputs // 2,
    "over the first half": lambda inputs, out: inputs // 2 - out,
    "one float further": lambda inputs, out: 1,
}


@pytest.mark.parametrize("where", OVERLAPS)
def test_out_that_lies_partly_over_the_inputs_is_refused(layout: str, where: str) -> None:
    c = case(architecture((3, 5, 3), Activation.NONE), 4, 2)
    inference = BatchedInference.from_weights(c.batched_weights(layout))
    memory = np.zeros(100, np.float32)
    calls: list[tuple[tuple[int, ...], Any]] = [
        ((4, 2, 3), inference.forward),
        ((4, 3), inference.forward),
        ((4, 2, 3), lambda x, out: inference.forward(x, num_threads=1, out=out)),
        ((4, 2, 3), lambda x, out: inference.forward(x, models=range(4), out=out)),
        ((4, 3), lambda x, out: inference.forward(x, models=[3, 2, 1, 0], out=out)),
        ((2, 3), lambda x, out: inference.forward_shared(x, out=out)),
    ]
    for shape, call in calls:
        out_shape = (4, 2, 3) if shape == (2, 3) else shape
        size, out_size = int(np.prod(shape)), int(np.prod(out_shape))
        start = 40 + OVERLAPS[where](size, out_size)
        memory[:] = np.arange(100)
        inputs, out = (
            memory[40 : 40 + size].reshape(shape),
            memory[start : start + out_size].reshape(out_shape),
        )
        with raises(
            ValueError, "out: expected memory of its own, got an array that overlaps the inputs"
        ):
            call(inputs, out=out)
        assert (memory == np.arange(100)).all()


@pytest.mark.parametrize("after", [True, False])
def test_out_may_lie_directly_beside_the_inputs(layout: str, after: bool) -> None:
    c = case(architecture((3, 5, 3), Activation.NONE), 4, 2)
    inference = BatchedInference.from_weights(c.batched_weights(layout))
    memory = np.zeros(48, np.float32)
    x, out = (memory[:24], memory[24:]) if after else (memory[24:], memory[:24])
    x[:] = c.x.ravel()
    inputs, out = x.reshape(c.x.shape), out.reshape(4, 2, 3)
    for call in (
        lambda: inference.forward(inputs, out=out),
        lambda: inference.forward(inputs, models=range(4), out=out),
        lambda: inference.forward(inputs, num_threads=1, out=out),
    ):
        out[:] = 0
        assert_same_bits(call(), inference.forward(c.x))
        assert_same_bits(inputs, c.x)


@pytest.mark.parametrize("start", [0, 51, 59])
def test_out_that_lies_over_models_is_refused(
    inference: BatchedInference, c: Case, start: int
) -> None:
    """Numbers of models are read again after the first outputs are written."""
    memory = np.zeros(70, np.float32)
    models = np.frombuffer(memory.data, np.int64, 5, 4 * start)
    models[:] = [4, 3, 2, 1, 0]
    before = memory.copy()
    with raises(ValueError, "out: expected memory of its own, got an array that overlaps models"):
        inference.forward(c.x[::-1], models=models, out=memory[:60].reshape(SHAPE))
    assert_same_bits(memory, before)


def test_refused_out_is_not_touched(inference: BatchedInference, c: Case, call: Call) -> None:
    out = np.full((5, 4, 6), 9, np.float32)
    with pytest.raises(ValueError, match=r"^out: expected a C-contiguous"):
        call(inference, c, out[..., ::2])
    assert (out == 9).all()
