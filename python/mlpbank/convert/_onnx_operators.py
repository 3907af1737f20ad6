"""Operators of ONNX that are read, with their attributes, and the ways out for all others."""

from __future__ import annotations

from typing import Any

from mlpbank.convert._chain import unsupported
from mlpbank.convert._onnx_activations import ELEMENTWISE
from mlpbank.convert._onnx_constants import STANDARD, attributes_of
from mlpbank.convert._onnx_shapes import SHAPES

_DOMAINS = (*STANDARD, "ai.onnx.ml")
ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
# The attributes of each operation that are read or change no result. Any other is refused.
_KNOWN: dict[str, set[str]] = {
    **{
        op: set()
        for op in (*ARITHMETIC, "MatMul", "Relu", "Tanh", "Sigmoid", "Softplus", "Identity", "Neg")
    },
    **{op: set() for op in ("Mish", "HardSwish", "Softsign", "PRelu")},
    **{op: {"alpha"} for op in ("LeakyRelu", "Elu", "Celu", "Swish")},
    "Selu": {"alpha", "gamma"},
    "HardSigmoid": {"alpha", "beta"},
    **{op: {"axis"} for op in ("Softmax", "Flatten", "Concat", "Gather")},
    "Gemm": {"transA", "transB", "alpha", "beta"},
    "Gelu": {"approximate"},
    "BatchNormalization": {"epsilon", "momentum", "training_mode", "spatial"},
    "Scaler": {"offset", "scale"},
    "FeatureVectorizer": {"inputdimensions"},
    "LinearRegressor": {"coefficients", "intercepts", "targets", "post_transform"},
    "Dropout": {"ratio", "seed"},
    "Cast": {"to", "saturate", "round_mode"},
    "CastLike": {"saturate", "round_mode"},
    "Reshape": {"allowzero"},
    "Transpose": {"perm"},
    **{op: {"axes"} for op in ("Squeeze", "Unsqueeze")},
}
_OF_ML = {"Scaler", "FeatureVectorizer", "ArrayFeatureExtractor", "LinearRegressor"}
# These may read whole numbers.
TAKES_INTEGERS = {*SHAPES, "Cast", "Identity", "Concat", *_OF_ML}
_QUANTISED = "pass the model as it was before quantisation; a bank stores int8 itself"
_WAYS = {
    "ArgMax": "it gives labels; make the probabilities an output",
    "Normalizer": "it divides each row by its norm; do that to the rows before",
    **dict.fromkeys(("Imputer", "IsNaN", "Where"), "fill missing values of the rows before"),
    "LinearClassifier": "its scores are no layer's; pass the classifier itself, or its weights",
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), _QUANTISED),
    **dict.fromkeys(("MatMulInteger", "QLinearMatMul", "QGemm"), _QUANTISED),
    **dict.fromkeys(("If", "Loop", "Scan"), "its course depends on data; export it without"),
    "LogSoftmax": "end the graph before it, or export softmax and take the logarithm of results",
}
_WAY = "onnx.utils.extract_model cuts it off where it stands first or last"


def refusal(op: str, domain: str = "") -> str:
    """Return the message for an operator that is not read."""
    name = f"{domain}.{op}" if domain else op
    return f"{name} is not supported; {_WAYS.get(op, _WAY)}"


def check_operator(node: Any, where: str) -> None:
    """Raise if a node is of another domain, or has an attribute that is not read."""
    op = node.op_type
    if (node.domain == "ai.onnx.ml") != (op in _OF_ML) or node.domain not in _DOMAINS:
        raise unsupported(where, refusal(op, node.domain))
    attributes = attributes_of(node)
    if unknown := sorted(attributes.keys() - _KNOWN.get(op, attributes.keys())):
        raise unsupported(where, f"{op} with {unknown[0]} is not supported")


def check_elementwise(op: str, where: str) -> None:
    """Raise if an operation cannot be part of an activation."""
    if op not in ELEMENTWISE:
        raise unsupported(where, refusal(op))
