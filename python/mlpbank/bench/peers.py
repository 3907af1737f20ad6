"""All contenders by name, and mlpbank, NumPy and JAX as contenders."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import Any

import numpy as np

from mlpbank.bench import peers_onnx, peers_torch
from mlpbank.bench.cases import Problem, aligned_empty
from mlpbank.bench.contender import Builder, Contender, Settings, activation, fastest
from mlpbank.engine import Engine
from mlpbank.inference import BatchedInference
from mlpbank.typing import Float32Array


def build_mlpbank(problem: Problem, settings: Settings) -> Contender:
    """Return mlpbank as a user calls it: ``forward`` of NumPy arrays with ``out=``."""
    case = problem.case
    inference = make_inference(problem, settings)
    x = problem.x[:, 0] if case.rows == 1 else problem.x
    y = np.empty((*x.shape[:-1], case.sizes[-1]), np.float32)
    detail = f"{inference.engine.isa}, {inference.weights.layout} layout"
    return Contender("mlpbank", lambda: inference.forward(x, out=y), lambda: y, detail, ours=True)


def make_inference(problem: Problem, settings: Settings) -> BatchedInference:
    """Return a BatchedInference with the problem's weights."""
    case = problem.case
    inference = BatchedInference(
        case.num_models,
        case.architecture,
        Engine(settings.threads, settings.isa),
        layout=settings.layout,
        dtype=settings.dtype,
    )
    inference.weights.load_stacked(stacked_weights(problem))
    return inference


def stacked_weights(problem: Problem) -> dict[str, Float32Array]:
    """Return the weights of a problem as `BatchedWeights.load_stacked` takes them."""
    weights = {f"layer_{i}": w for i, w in enumerate(problem.weights)}
    weights |= {f"layer_{i}.bias": b[:, 0] for i, b in enumerate(problem.biases)}
    return weights | {f"layer_{i}.slope": s for i, s in enumerate(problem.slopes) if s is not None}


def _numpy_sigmoid(y: Float32Array) -> None:
    np.negative(y, out=y)
    np.exp(y, out=y)
    y += 1
    np.reciprocal(y, out=y)


# In place.
_NUMPY: dict[str, Any] = {
    "none": lambda y: None,
    "relu": lambda y: np.maximum(y, 0, out=y),
    "tanh": lambda y: np.tanh(y, out=y),
    "sigmoid": _numpy_sigmoid,
    "leaky_relu": lambda y: np.maximum(y, np.float32(0.01) * y, out=y),
}


def build_numpy(problem: Problem, settings: Settings) -> Contender:
    """Return NumPy: the faster of matmul and einsum, into preallocated arrays."""
    del settings  # machine.limit_blas sets the number of threads once
    act = activation(_NUMPY, problem.case.activation, "numpy")
    layers = [
        (w, b, aligned_empty((w.shape[0], problem.case.rows, w.shape[2])))
        for w, b in zip(problem.weights, problem.biases, strict=True)
    ]

    def run(multiply: Any) -> None:
        y = problem.x
        for w, b, out in layers:
            if y is not problem.x:
                act(y)
            multiply(y, w, out=out)
            y = out
            y += b

    einsum = functools.partial(np.einsum, "nri,nio->nro")
    return fastest(
        [
            Contender("numpy", functools.partial(run, multiply), lambda: layers[-1][2], name)
            for name, multiply in (("matmul", np.matmul), ("einsum", einsum))
        ]
    )


def build_jax(problem: Problem, settings: Settings) -> Contender:
    """Return JAX: one network under vmap and jit, on device arrays."""
    if "jax" not in sys.modules:
        os.environ.setdefault("NPROC", str(settings.threads))  # XLA has no other setting
    import jax
    import jax.numpy as jnp

    with contextlib.suppress(AttributeError):  # synchronous calls are faster
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    act = activation(
        {
            "none": lambda y: y,
            "relu": jax.nn.relu,
            "tanh": jnp.tanh,
            "sigmoid": jax.nn.sigmoid,
            "leaky_relu": jax.nn.leaky_relu,
            "elu": jax.nn.elu,
            "gelu": functools.partial(jax.nn.gelu, approximate=False),
            "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
            "silu": jax.nn.silu,
            "softplus": jax.nn.softplus,
        },
        problem.case.activation,
        "jax",
    )

    def network(x: Any, weights: Any, biases: Any) -> Any:
        y = x
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            y = (y if i == 0 else act(y)) @ w + b
        return y

    arguments = jax.device_put((problem.x, problem.weights, problem.biases))
    forward = jax.jit(jax.vmap(network))
    last: list[Any] = [None]

    def run() -> None:
        last[0] = forward(*arguments).block_until_ready()

    run()  # compiles
    return Contender("jax", run, lambda: np.asarray(last[0]))


# By the names of --peers, in the order of the tables.
PEERS: dict[str, Builder] = {
    "numpy": build_numpy,
    "torch": peers_torch.build_torch,
    "torch-compile": peers_torch.build_torch_compile,
    "torch-loop": peers_torch.build_torch_loop,
    "jax": build_jax,
    "onnxruntime": peers_onnx.build_onnxruntime,
    "openvino": peers_onnx.build_openvino,
}
