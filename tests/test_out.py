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
    "forward": lambda bi, c, out: bi.forward(c.x, out=out),
    "models": lambda bi, c, out: bi.forward(c.x[::-1], models=[4, 3, 2, 1, 0], out=out),
    "shared": lambda bi, c, out: bi.forward_shared(c.x[0], out=out),
}
SHAPE = (5, 4, 3)


@pytest.fixture
def c() -> Case:
    return case(architecture((7, 18, 3), Activation.TANH), 5, 4)


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


@pytest.fixture
def bi(c: Case, layout: str) -> BatchedInference:
    return BatchedInference.from_weights(c.batched_weights(layout))


def test_result_is_out_itself(bi: BatchedInference, c: Case, call: Call) -> None:
    expected = call(bi, c, None)
    out = np.full(SHAPE, np.nan, np.float32)
    assert call(bi, c, out) is out
    assert_same_bits(out, expected)


def test_each_call_returns_memory_of_its_own(bi: BatchedInference, c: Case, call: Call) -> None:
    assert not np.may_share_memory(call(bi, c, None), call(bi, c, None))


def test_out_in_two_dimensions(bi: BatchedInference, c: Case) -> None:
    out = np.empty((5, 3), np.float32)
    assert bi.forward(c.x[:, 0], out=out) is out
    assert_same_bits(out, bi.forward(c.x[:, 0]))
    assert bi.forward_shared(c.x[0, 0], out=out) is out
    assert_same_bits(out, bi.forward_shared(c.x[0, 0]))


def test_a_contiguous_part_of_a_larger_array_is_taken(bi: BatchedInference, c: Case, call: Call) -> None:
    larger = np.full((7, 4, 3), 5, np.float32)
    call(bi, c, larger[1:6])
    assert_same_bits(larger[1:6], call(bi, c, None))
    assert (larger[0] == 5).all()
    assert (larger[6] == 5).all()


def test_out_without_rows(bi: BatchedInference) -> None:
    out = np.empty((5, 0, 3), np.float32)
    assert bi.forward(np.empty((5, 0, 7)), out=out) is out


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
def test_other_types_are_refused(bi: BatchedInference, c: Case, call: Call, out: Any, got: str) -> None:
    with raises(TypeError, f"out: expected a float32 NumPy array, got {got}"):
        call(bi, c, out)


@pytest.mark.parametrize("shape", [(5, 4), (4, 5, 3), (5, 4, 4), (60,), (5, 4, 3, 1)])
def test_other_shapes_are_refused(bi: BatchedInference, c: Case, call: Call, shape: tuple[int, ...]) -> None:
    with raises(ValueError, f"out: expected shape {SHAPE}, got {shape}"):
        call(bi, c, np.empty(shape, np.float32))


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
    bi: BatchedInference, c: Case, call: Call, make: Callable[[], Float32Array]
) -> None:
    with raises(ValueError, "out: expected a C-contiguous, aligned, writeable array, got one that is not"):
        call(bi, c, make())


def test_masked_out_is_refused(bi: BatchedInference, c: Case, call: Call) -> None:
    """Its mask would stay as it is over the new values."""
    with pytest.raises(TypeError, match=r"^out: "):
        call(bi, c, np.ma.masked_all(SHAPE, np.float32))


def test_memory_of_the_inputs_is_refused(layout: str) -> None:
    """Rows are read again after the first outputs are written."""
    c = case(architecture((3, 5, 3), Activation.NONE), 4, 2)
    bi = BatchedInference.from_weights(c.batched_weights(layout))
    x = c.x.copy()
    for call in (
        lambda: bi.forward(x, out=x),
        lambda: bi.forward(x, models=range(4), out=x),
        lambda: bi.forward_shared(x[0], out=x),
    ):
        with raises(ValueError, "out: expected memory of its own, got an array that overlaps the inputs"):
            call()
    assert_same_bits(x, c.x)


def test_refused_out_is_not_touched(bi: BatchedInference, c: Case, call: Call) -> None:
    out = np.full((5, 4, 6), 9, np.float32)
    with pytest.raises(ValueError, match=r"^out: expected a C-contiguous"):
        call(bi, c, out[..., ::2])
    assert (out == 9).all()
