"""PyTorch as a contender: batched matrix products, the same compiled, and a loop over modules."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mlpbank.bench.cases import Problem
from mlpbank.bench.contender import Contender, Settings, UnavailableError, activation, fastest

_LOOP_MODELS = 2000  # at most; a loop over more modules takes seconds and shows nothing new


def _activations() -> dict[str, Any]:
    import torch
    from torch.nn import functional

    return {
        "none": lambda y: y,
        "relu": torch.relu_,
        "tanh": torch.tanh_,
        "sigmoid": torch.sigmoid_,
        "leaky_relu": functional.leaky_relu_,
        "elu": functional.elu_,
        "gelu": functional.gelu,
        "gelu_tanh": functools.partial(functional.gelu, approximate="tanh"),
        "silu": functools.partial(functional.silu, inplace=True),
        "softplus": functional.softplus,
    }


def setup(problem: Problem, settings: Settings) -> tuple[Any, Any, list[Any], list[Any]]:
    """Return activation, x, weights and biases as tensors."""
    import torch

    torch.set_num_threads(settings.threads)
    act = activation(_activations(), problem.case.activation, "torch")
    x = torch.tensor(problem.x)
    weights, biases = (list(map(torch.tensor, a)) for a in (problem.weights, problem.biases))
    return act, x, weights, biases


def build_torch(problem: Problem, settings: Settings) -> Contender:
    """Return the fastest of baddbmm and bmm, with weights stored as (in, out) or (out, in)."""
    import torch

    act, x, weights, biases = setup(problem, settings)
    transposed = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in weights]
    outs = [torch.empty((w.shape[0], problem.case.rows, w.shape[2])) for w in weights]

    def run(stored: list[Any], fused: bool) -> None:
        with torch.inference_mode():
            y = x
            for i, (w, b, out) in enumerate(zip(stored, biases, outs, strict=True)):
                if i > 0:
                    y = act(y)
                y = torch.baddbmm(b, y, w, out=out) if fused else torch.bmm(y, w, out=out).add_(b)

    output = outs[-1].numpy
    return fastest(
        [
            Contender("torch", functools.partial(run, stored, fused), output, f"{how}, {order}")
            for stored, order in ((weights, "(in, out)"), (transposed, "(out, in)"))
            for fused, how in ((True, "baddbmm"), (False, "bmm"))
        ]
    )


def build_torch_compile(problem: Problem, settings: Settings) -> Contender:
    """Return torch.compile of the same chain, with the faster of bmm and baddbmm."""
    import torch

    act, x, weights, biases = setup(problem, settings)

    def chain(x: Any, weights: list[Any], biases: list[Any], fused: bool) -> Any:
        y = x
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            if i > 0:
                y = act(y)
            y = torch.baddbmm(b, y, w) if fused else torch.bmm(y, w) + b
        return y

    torch.compiler.reset()  # else a later case counts as another shape of an earlier one
    compiled = torch.compile(chain, dynamic=False, fullgraph=True)
    last: list[Any] = [None]

    def run(fused: bool) -> None:
        with torch.inference_mode():
            last[0] = compiled(x, weights, biases, fused)

    try:
        name, output = "torch-compile", lambda: last[0].numpy()
        return fastest(
            [
                Contender(name, functools.partial(run, fused), output, detail)
                for fused, detail in ((True, "baddbmm"), (False, "bmm"))
            ]
        )
    except Exception as error:  # of many types: no compiler, no headers, an unsupported operation
        why = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise UnavailableError(f"torch.compile failed: {why}") from error


def make_networks(act: Any, weights: list[Any], biases: list[Any]) -> list[Any]:
    """Return a module for each model."""
    import torch

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, m: int) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList()
            for w, b in zip(weights, biases, strict=True):
                layer = torch.nn.Linear(w.shape[1], w.shape[2], device="meta")
                layer.weight = torch.nn.Parameter(w[m].T.contiguous(), requires_grad=False)
                layer.bias = torch.nn.Parameter(b[m, 0].clone(), requires_grad=False)
                self.layers.append(layer)

        def forward(self, y: Any) -> Any:
            for i, layer in enumerate(self.layers):
                y = layer(y if i == 0 else act(y))
            return y

    return [Network(m).eval() for m in range(len(weights[0]))]


def build_torch_loop(problem: Problem, settings: Settings) -> Contender:
    """Return a Python loop over the modules of all models."""
    import torch

    n = problem.case.num_models
    if n > _LOOP_MODELS:
        raise UnavailableError(f"a loop over {n} modules, more than {_LOOP_MODELS}, is not timed")
    act, x, weights, biases = setup(problem, settings)

    networks = make_networks(act, weights, biases)
    rows = list(x)
    last: list[Any] = []

    def run() -> None:
        with torch.inference_mode():
            last[:] = [network(row) for network, row in zip(networks, rows, strict=True)]

    return Contender("torch-loop", run, lambda: np.stack([y.numpy() for y in last]))
