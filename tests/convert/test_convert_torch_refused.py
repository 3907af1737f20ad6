"""What PyTorch models may not have is refused, and named."""

from __future__ import annotations

from typing import Any

import pytest

from cases import raises
from convert_checks import (
    unsupported,
)
from mlpbank import Architecture, LayerSpec, convert

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


class Residual(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        return x + self.fc(x)


class Branch(Residual):
    def forward(self, x: Any) -> Any:
        return self.fc(x) if x.sum() > 0 else x


class InPlace(Residual):
    def forward(self, x: Any) -> Any:
        x = self.fc(x)
        F.relu(x, inplace=True)
        return x


class Pair(Residual):
    def forward(self, x: Any) -> Any:
        return self.fc(x), x


def hooked() -> Any:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, args, output: output * 2)
    return nn.Sequential(layer)


L = nn.Linear


LOST = "so rows do not stay rows; only rows of one number may lose a dimension"
UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "layer": (
        nn.Sequential(L(2, 2), nn.Sequential(nn.ReLU(), nn.LSTM(2, 2))),
        "1.1: LSTM is not supported",
    ),
    "softmax inside": (
        nn.Sequential(L(2, 2), nn.Softmax(-1), L(2, 2)),
        "2: stands after a softmax, which can be the last step only; convert the model without "
        "what follows it, and apply that to the results",
    ),
    "log softmax": (nn.Sequential(L(2, 2), nn.LogSoftmax(-1)), "1: LogSoftmax is not supported"),
    "softmax over rows": (
        nn.Sequential(L(2, 2), nn.Softmax(0)),
        "1: softmax: expected dim -1 or 1 or None, got 0",
    ),
    "beta": (nn.Sequential(L(2, 2), nn.Softplus(2.0)), "1: softplus: expected beta 1.0, got 2.0"),
    "threshold": (
        nn.Sequential(L(2, 2), nn.Softplus(1.0, 5)),
        "1: softplus: expected threshold 20.0, got 5",
    ),
    "no statistics": (
        nn.Sequential(L(2, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval(),
        "1: BatchNorm1d without running statistics depends on the other rows; "
        "train it with track_running_stats=True",
    ),
    "sizes": (nn.Sequential(L(2, 3), L(2, 2)), "1: expected 3 inputs, got 2"),
    "no layer": (nn.Sequential(nn.Dropout()), "expected at least one dense layer, got none"),
    "flatten": (
        nn.Sequential(nn.Flatten(0), L(2, 2)),
        "0: expected Flatten from dimension 1 to the last, got 0 to -1",
    ),
    "meta": (
        nn.Sequential(L(2, 2, device="meta")),
        "0: expected values, got a tensor on the meta device, which has none; "
        "load the weights first",
    ),
    "hook": (
        hooked(),
        "0: Linear has a forward hook hooked.<locals>.<lambda>, which may do anything; "
        "call remove() of the handle that registering it returned, then convert",
    ),
    "residual": (
        nn.Sequential(L(2, 2), Residual()),
        "1.add: joins several results, and only chains are supported",
    ),
    "in place": (
        InPlace(),
        "relu: relu stands beside the chain of layers and may change its rows in place",
    ),
    "pair": (
        Pair(),
        "the forward of Pair returns several results (0, 1); name the one to take with output=",
    ),
    "branch": (Branch(), "the forward of Branch cannot be traced: "),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named(name: str) -> None:
    module, message = UNSUPPORTED[name]
    with pytest.raises(convert.UnsupportedLayerError) as caught:
        convert.convert(module)
    assert str(caught.value) == message or (
        message.endswith(": ") and str(caught.value).startswith(message)
    )


def test_functions_that_are_not_supported_are_named() -> None:
    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.net, self.function = nn.Sequential(L(3, 3)), function

        def forward(self, x: Any) -> Any:
            return self.function(self.net(x))

    for function, message in (
        (F.hardshrink, "hardshrink: hardshrink is not supported"),
        (lambda x: F.softplus(x, 2.0), "softplus: softplus: expected beta 1.0, got 2.0"),
        (
            F.dropout,
            "dropout: dropout is active in eval mode too; pass training=self.training",
        ),
        (lambda x: x * x, "mul: mul of two values that depend on the input is not supported"),
        (
            lambda x: x.sum(1),
            "sum_1: sum computes one number of several, which no layer does; leave it out of the "
            "model, and apply it to what the bank predicts",
        ),
        (
            lambda x: 1 / x,
            "truediv: a number divided by a result is not supported, only a result by a number",
        ),
        (lambda x: x / 0, "truediv: a division by 0 is not supported"),
        (lambda x: x.T, "getattr_1: T is not supported"),
        (
            lambda x: x * x.shape[0],
            "mul: mul depends on the number of rows, as no layer does",
        ),
        (
            lambda x: torch.matmul(input=x, other=torch.ones(3, 3)),
            "matmul: matmul is not supported",
        ),
        (lambda x: torch.add(x, 1, alpha=2), "add: add with options is not supported"),
        (lambda x: x.view(-1), f"view: view makes (3 n,) of (n, 3), {LOST}"),
        (lambda x: x.view(-1, 1), f"view: view makes (3 n, 1) of (n, 3), {LOST}"),
        (lambda x: torch.softmax(x, 0), "softmax: softmax: expected dim -1 or 1 or None, got 0"),
    ):
        with unsupported(message):
            convert.convert(Net(function))
        with unsupported(f"0.{message}"):
            convert.convert(nn.Sequential(Net(function)))


def test_state_dicts_that_are_no_chain() -> None:
    arch = Architecture.mlp(3, 3, 3)
    for module, message in (
        (
            nn.Sequential(L(3, 3), nn.BatchNorm1d(3), L(3, 3)),
            "1.running_mean: is no weight or bias of a dense layer",
        ),
        (
            nn.Sequential(L(3, 3), nn.LayerNorm(3), L(3, 3)),
            "1: its weight has shape (3,) and it has a bias, as normalisation has; pass the module",
        ),
        (nn.LSTM(3, 3), "weight_ih_l0: is no weight or bias of a dense layer"),
    ):
        with pytest.raises(convert.UnsupportedLayerError) as caught:
            convert.convert(module.state_dict(), arch)
        assert str(caught.value).startswith(message)
    with pytest.raises(ValueError, match="expected 3 layers, since the parameters have 0: 3 -> 3"):
        convert.convert(nn.Sequential(L(3, 3), L(3, 3), L(3, 3)).state_dict(), arch)


def test_a_given_architecture_is_checked() -> None:
    module = nn.Sequential(L(2, 3), nn.ReLU())
    assert (
        convert.convert(module, Architecture([LayerSpec(2, 3, "relu")])).architecture.output_size
        == 3
    )
    expected = "expected 2 -> 3 with activation 'tanh', got 2 -> 3 with activation 'relu'"
    with raises(ValueError, f"architecture: layer 0: {expected}"):
        convert.convert(module, Architecture([LayerSpec(2, 3, "tanh")]))
