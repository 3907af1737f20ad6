"""Arrays and tensors of other frameworks, wherever mlpbank takes an array."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, BatchedInference, BatchedWeights, InvalidTypeError, convert

ARCHITECTURE = Architecture.mlp(3, 2)
MATRIX = np.array([[1, 2], [-3, 0.5], [4, 8]], np.float32)  # bfloat16 holds each of them
X = np.array([[2, 1, -0.25]], np.float32)
Y = X @ MATRIX


def by_bank(weights: dict[str, Any], x: Any) -> Any:
    bank = Bank(ARCHITECTURE)
    bank["a"] = weights
    return bank.predict(["a"], x)


def by_stack(weights: dict[str, Any], x: Any) -> Any:
    stacked = {name: values[None] for name, values in weights.items()}
    return Bank.from_stacked(["a"], ARCHITECTURE, stacked).predict(["a"], x)


def by_slots(weights: dict[str, Any], x: Any) -> Any:
    models = BatchedInference(1, ARCHITECTURE)
    models.load_weights(0, weights)
    y = models.forward(x, models=[0])
    models.weights.load_stacked({name: values[None] for name, values in weights.items()})
    np.testing.assert_array_equal(models.forward(x), y)
    batched = BatchedWeights(1, ARCHITECTURE)
    batched.load(0, weights)
    np.testing.assert_array_equal(batched.get(0)["layer_0"], MATRIX)
    return y


def by_params(weights: dict[str, Any], x: Any) -> Any:
    params = {"layer": {"w": weights["layer_0"]}}
    return by_bank(convert.from_params(params, ARCHITECTURE, weight_layout="in_out").weights, x)


USES = (by_bank, by_stack, by_slots, by_params)


def torch_tensors() -> dict[str, Callable[[Any], Any]]:
    torch = pytest.importorskip("torch")

    class Marked(torch.Tensor):  # type: ignore[misc, name-defined]
        """A class of tensors as libraries define them."""

    return {
        "parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a)),
        "result": lambda a: torch.from_numpy(a).requires_grad_() * 1,
        "bfloat16": lambda a: torch.from_numpy(a).bfloat16().requires_grad_(),
        "float16": lambda a: torch.from_numpy(a).half(),
        "subclass": lambda a: torch.from_numpy(a).as_subclass(Marked).requires_grad_(),
        "negated": lambda a: torch._neg_view(torch.from_numpy(-a)),
        "transposed": lambda a: torch.from_numpy(a.T.copy()).T,
    }


@pytest.mark.parametrize("use", USES)
def test_tensors_of_pytorch_in_every_place(use: Callable[..., Any]) -> None:
    for name, make in torch_tensors().items():
        np.testing.assert_array_equal(use({"layer_0": make(MATRIX)}, make(X)), Y, err_msg=name)


def test_lists_of_tensors_that_require_grad() -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X).requires_grad_()
    for rows in ([x[0]], ((x[0, 0], 1.0, x[0, 2]),), [[x[0]]]):
        y = by_bank({"layer_0": MATRIX}, rows)
        np.testing.assert_array_equal(y, Y.reshape(y.shape))


@pytest.mark.parametrize("use", USES)
def test_arrays_of_jax_in_every_place(use: Callable[..., Any]) -> None:
    jnp = pytest.importorskip("jax.numpy")
    for dtype in ("float32", "bfloat16", "float16"):
        y = use({"layer_0": jnp.asarray(MATRIX, dtype)}, jnp.asarray(X, dtype))
        np.testing.assert_array_equal(y, Y)


def test_variables_of_keras_and_flax() -> None:
    pytest.importorskip("torch")
    os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is imported
    keras = pytest.importorskip("keras")
    y = by_bank({"layer_0": keras.Variable(MATRIX)}, keras.Variable(X))
    np.testing.assert_array_equal(y, Y)
    nnx = pytest.importorskip("flax.nnx")
    np.testing.assert_array_equal(by_bank({"layer_0": nnx.Param(MATRIX)}, X), Y)


def refused_tensors() -> list[tuple[Any, str]]:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X)
    return [
        (x.to("meta"), "meta device"),
        (x.to_sparse(), "to_dense"),
        (torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255).to(torch.float8_e5m2), "float8"),
        (torch.nn.LazyLinear(2).weight, "lazy parameter"),
        (x.to(torch.complex64), "complex64"),
    ]


def test_tensors_whose_values_cannot_be_read_are_refused_with_a_reason() -> None:
    for tensor, reason in refused_tensors():
        with pytest.raises(InvalidTypeError, match=f"^x: expected .*{reason}"):
            by_bank({"layer_0": MATRIX}, tensor)
        with pytest.raises(InvalidTypeError, match=f"^layer_0: expected .*{reason}"):
            by_bank({"layer_0": tensor}, X)


def test_sparse_matrices_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(InvalidTypeError, match=r"^x: expected .*sparse csr_matrix.*toarray"):
        by_bank({"layer_0": MATRIX}, sparse.csr_matrix(X))


def test_errors_of_another_library_come_out_with_the_argument() -> None:
    class Broken:
        def __array__(self, *_: object, **__: object) -> Any:
            raise RuntimeError("the device is gone")

    with pytest.raises(InvalidTypeError, match=r"^x: expected an array, got Broken.*is gone"):
        by_bank({"layer_0": MATRIX}, Broken())


def test_masked_arrays_in_lists_are_refused_however_deep() -> None:
    masked = np.ma.masked_array(X[0], [True, False, False])
    for values in (masked, [masked], [[masked]], [1.0, (masked,)]):
        with pytest.raises(InvalidTypeError, match="masked"):
            by_bank({"layer_0": MATRIX}, values)
