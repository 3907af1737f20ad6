"""ONNX nodes that agree with an activation on some numbers only are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cases import raises
from convert_checks import outputs
from mlpbank import Activation, convert
from mlpbank.convert import UnsupportedLayerError, _expressions
from mlpbank.convert._chain import Activate

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

from onnx_graphs import Builder, run  # noqa: E402


def built(add: Callable[[Builder], Any], opset: int = 20, outputs: int = 3) -> Any:
    """Return a dense layer and what is added to it."""
    builder = Builder(opset)
    builder.add("MatMul", builder.constant(np.eye(3)))
    add(builder)
    return builder.model(3, outputs)


def clip(opset: int = 13, low: Any = None, high: Any = None, **attributes: float) -> Any:
    def add(b: Builder) -> None:
        bounds = ["" if bound is None else b.constant(bound) for bound in (low, high)]
        while bounds and not bounds[-1]:
            bounds.pop()
        b.add("Clip", *bounds, **attributes)

    return built(add, opset)


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("model", "activation"),
    [
        (clip(low=0.0), Activation.RELU),
        (clip(low=0.0, high=np.inf), Activation.RELU),
        (clip(low=0.0, high=LARGEST), Activation.RELU),
        (clip(7, min=0.0), Activation.RELU),
        (clip(7, min=0.0, max=LARGEST), Activation.RELU),
        (clip(), Activation.NONE),
        (clip(low=-np.inf), Activation.NONE),
        (clip(low=0.0, high=6.0), Activation.RELU6),
        (clip(low=0.0, high=20000.0), Activation.CLIP),
        (clip(low=0.0, high=3e38), Activation.CLIP),
        (clip(7, min=0.0, max=20000.0), Activation.CLIP),
        (clip(low=1e-6), Activation.CLIP),
        (clip(low=-1e-6), Activation.CLIP),
        (clip(low=-20000.0), Activation.CLIP),
    ],
)
def test_only_a_clip_below_0_is_a_relu(model: Any, activation: Activation) -> None:
    assert convert.convert(model).architecture.layers[0].activation is activation


def after(b: Builder, activation: str, op: str, *constants: float) -> None:
    """Append an activation of several nodes, and an operation after it."""
    x = b.x
    if activation == "max":
        b.add("Max", b.constant(0.0))
    elif activation == "silu":
        share = b.add("Sigmoid")
        b.x = x
        b.add("Mul", share)
    b.add(op, *map(b.constant, constants))


def cast_inside(to: int) -> Callable[[Builder], None]:
    def add(b: Builder) -> None:
        x = b.x
        b.add("Sigmoid")
        share = b.add("Cast", to=to)
        b.x = x
        b.add("Mul", share)

    return add


def leaky(slope: float) -> Callable[[Builder], None]:
    def add(b: Builder) -> None:
        x = b.x
        b.add("Mul", b.constant(slope))
        b.add("Max", x)

    return add


def where(op: str, bound: float = 0.0, other: float = 0.0) -> Callable[[Builder], None]:
    def add(b: Builder) -> None:
        x = b.x
        condition = b.add(op, b.constant(bound))
        branches = [x, b.constant(other)]
        b.x = condition
        b.add("Where", *(branches if op == "Greater" else branches[::-1]))

    return add


def swish(beta: float) -> Callable[[Builder], None]:
    def add(b: Builder) -> None:
        x = b.x
        b.add("Mul", b.constant(beta))
        share = b.add("Sigmoid")
        b.x = x
        b.add("Mul", share)

    return add


def test_activations_made_of_several_nodes_are_known_by_those() -> None:
    for add, activation in (
        (cast_inside(TensorProto.FLOAT), Activation.SILU),
        (swish(1.0), Activation.SILU),
        (leaky(0.01), Activation.LEAKY_RELU),
        (leaky(0.0), Activation.RELU),
        (where("Greater"), Activation.RELU),
        (where("Less"), Activation.RELU),
    ):
        assert convert.convert(built(add)).architecture.layers[0].activation is activation
    for add in (
        cast_inside(TensorProto.INT32),
        cast_inside(TensorProto.BOOL),
        swish(1.00001),
        swish(1.702),
        where("Greater", 1e-6),
        where("Less", -20000.0),
    ):
        with pytest.raises(
            UnsupportedLayerError,
            match=r"not part of an activation|neither a chain of layers|^n\d_Cast: ",
        ):
            convert.convert(built(add))


def test_bounds_behind_an_activation_are_a_layer_of_their_own() -> None:
    for activation, op, bounds in (
        ("silu", "Min", (20000.0,)),
        ("silu", "Max", (-0.27,)),
        ("max", "Clip", (0.0, 20000.0)),
    ):
        model = built(lambda b, a=activation, o=op, c=bounds: after(b, a, o, *c))
        x = np.array([[-3.0, 1.0, 30000.0]], np.float32)
        one = convert.convert(model)
        np.testing.assert_allclose(outputs(one.architecture, one.weights, x), run(model, x), 1e-6)


def test_what_untrusted_graphs_write_does_not_become_large() -> None:
    for op in ("Mul", "Add", "Max", "Sum"):

        def doubling(b: Builder, op: str = op) -> None:
            for _ in range(200):
                b.add("Exp")
                b.add(op, b.x)

        with pytest.raises(UnsupportedLayerError):
            convert.convert(built(doubling))
    with pytest.raises(_expressions.Unknown):
        _expressions.multiply(*[_expressions.add(_expressions.X, _expressions.ONE)] * 100)


def model_of(op: str, opset: int = 20, outputs: int = 1, **attributes: Any) -> Any:
    def add(b: Builder) -> None:
        constants = {"BatchNormalization": 4, "Add": 1, "Reshape": 0}.get(op, 0)
        names = [b.constant(np.ones(3)) for _ in range(constants)]
        if op == "Reshape":
            names = [b.constant([0, 3], np.int64)]
        b.add(op, *names, **attributes)
        b.nodes[-1].output.extend(f"more{i}" for i in range(1, outputs))

    return built(add, opset)


def with_function() -> Any:
    model = model_of("Relu")
    node = helper.make_node("Neg", ["a"], ["b"])
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [node], opset))
    return model


def of_whole_numbers() -> Any:
    model = model_of("Relu")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    return model


def of_other_width() -> Any:
    model = model_of("Relu")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


def with_domain() -> Any:
    return model_of("Relu", domain="ai.onnx.ml")


OTHERWISE: dict[str, tuple[Any, str]] = {
    "old": (
        model_of("Relu", 6),
        "opset 6 is not supported; onnx.version_converter makes a later one of it",
    ),
    "axis of an addition": (model_of("Add", 7, axis=0), "n1_Add: Add with axis is not supported"),
    "gelu": (
        model_of("Gelu", approximate="quick"),
        "n1_Gelu: Gelu: expected approximate b'none' or b'tanh', got b'quick'",
    ),
    "allowzero": (
        model_of("Reshape", allowzero=1),
        "n1_Reshape: Reshape to [0, 3] does more than flatten rows of (rows, 3); export the graph "
        "with a free batch dimension, or without the Reshape",
    ),
    "attribute": (model_of("Relu", alpha=2.0), "n1_Relu: Relu with alpha is not supported"),
    "training": (
        model_of("BatchNormalization", 9, 5),
        "n1_BatchNormalization: BatchNormalization is in training mode",
    ),
    "spatial": (
        model_of("BatchNormalization", 7, spatial=0),
        "n1_BatchNormalization: BatchNormalization: expected spatial 1, got 0",
    ),
    "function": (
        with_function(),
        "Relu is a function of the model's own, which may compute anything, under the name of an "
        "operator; give it a domain of its own",
    ),
    "whole numbers": (
        of_whole_numbers(),
        "n0_MatMul: MatMul of whole numbers is not supported; Cast to float has to stand first",
    ),
    "width": (of_other_width(), "n0_MatMul: expected 1 inputs, got 3"),
    "domain": (
        with_domain(),
        "n1_Relu: ai.onnx.ml.Relu is not supported; onnx.utils.extract_model cuts it off where it "
        "stands first or last",
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_nodes_that_mean_something_else(name: str) -> None:
    model, message = OTHERWISE[name]
    with raises(UnsupportedLayerError, message):
        convert.convert(model)


def test_numbers_can_refuse_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlpbank.convert import _onnx_read as importer

    model = clip(low=0.0)
    monkeypatch.setattr(importer, "activation_of", lambda *arguments: Activate(Activation.SILU, ""))
    with pytest.raises(UnsupportedLayerError, match=r"^n1_Clip: Clip is not supported"):
        convert.convert(model)
