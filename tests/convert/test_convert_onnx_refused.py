"""ONNX models that are not chains of layers are refused, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import raises
from convert_checks import (
    assert_computes,
    rows,
)
from mlpbank import Architecture, convert

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

from onnx_graphs import Builder, add_gelu, run, unary, weights_of  # noqa: E402


def product(
    shape: Any,
    weight: Any,
    op: str = "MatMul",
    first: bool = True,
    others: Any = (),
    **attributes: Any,
) -> Any:
    builder = Builder()
    builder.add(
        op, builder.constant(weight), *map(builder.constant, others), first=first, **attributes
    )
    return builder.model(shape, 3)


def residual() -> Any:
    builder = Builder()
    builder.add("MatMul", builder.constant(np.eye(3)))
    builder.add("Add", "x")
    return builder.model(3, 3)


def computed_weight() -> Any:
    builder = Builder()
    builder.add("MatMul", "x")
    return builder.model(3, 3)


def two_outputs() -> Any:
    model = unary("Relu")
    model.graph.output.append(helper.make_tensor_value_info("t0", TensorProto.FLOAT, [None, 3]))
    return model


def leading_nowhere() -> Any:
    model = unary("Relu")
    model.graph.output[0].name = "other"
    return model


def training() -> Any:
    builder = Builder()
    builder.add("MatMul", builder.constant(np.eye(3)))
    builder.add("Dropout", builder.constant(0.5), builder.constant(True, np.bool_))
    return builder.model(3, 3)


def constant_rows() -> Any:
    builder = Builder()
    builder.add("MatMul", builder.constant(np.eye(3)))
    builder.add("Add", builder.constant(np.ones((2, 3))))
    return builder.model(3, 3)


def own_domain() -> Any:
    return unary("Relu", domain="com.example")


def reshaped(before: bool, *shape: int, inputs: Any = 6) -> Any:
    builder = Builder()
    if before:
        builder.add("MatMul", builder.constant(np.eye(6)))
    builder.add("Reshape", builder.constant(shape, np.int64))
    builder.add("MatMul", builder.constant(np.eye(3)))
    return builder.model(inputs, 3)


UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "first reshape": (
        reshaped(False, -1, 3),
        "n0_Reshape: Reshape to [-1, 3] does more than flatten rows",
    ),
    "reshape": (reshaped(True, 0, 3), "n1_Reshape: Reshape to [0, 3] does more than flatten rows"),
    # Of a size that is not known: rows could become several
    "reshape to a dimension that is kept": (
        reshaped(False, -1, 0, inputs=[None, None, None]),
        "n0_Reshape: Reshape to [-1, 0] does more than flatten rows",
    ),
    "reshape columns": (
        reshaped(True, 6, -1),
        "n1_Reshape: Reshape to [6, -1] does more than flatten rows",
    ),
    "squeeze": (
        unary("Squeeze", 11, axes=[0]),
        "n1_Squeeze: Squeeze of axes [0] does more than drop sizes of 1 from (rows, 3)",
    ),
    "bias": (
        product(3, np.eye(3), "Gemm", others=(np.ones(2),)),
        "n0_Gemm: expected a bias for each of 3 outputs, got 2",
    ),
    "layer": (
        unary("LayerNormalization", axis=-1),
        "n1_LayerNormalization: LayerNormalization is not supported",
    ),
    "alpha": (unary("Swish", 24, alpha=2.0), "n1_Swish: Swish: expected alpha 1.0, got 2.0"),
    "axis": (
        unary("Softmax", axis=0),
        "n1_Softmax: Softmax: expected axis 1, that of the features, got 0",
    ),
    "residual": (
        residual(),
        "n1_Add: Add of two computed tensors ('t0', 'x') is neither a chain of layers nor an",
    ),
    "computed": (
        computed_weight(),
        "n0_MatMul: MatMul of two computed tensors ('x', 'x') is neither a chain of layers nor",
    ),
    "outputs": (
        two_outputs(),
        "the graph has 2 outputs: 't1', 't0'; choose one of them with output=, such as output='t1'",
    ),
    "nowhere": (leading_nowhere(), "other: leads nowhere: "),
    "training": (training(), "n1_Dropout: Dropout is in training mode"),
    "rows": (constant_rows(), "n1_Add: expected a constant for each feature, got shape (2, 3)"),
    "domain": (own_domain(), "n1_Relu: com.example.Relu is not supported"),
    "right": (
        product(3, np.eye(3), first=False),
        "n0_MatMul: multiplies along the rows of (rows, 3); Transpose has to stand first",
    ),
    "transposed": (
        product(3, np.eye(3), "Gemm", transA=1),
        "n0_Gemm: multiplies along the rows of (3, rows); Transpose has to stand first",
    ),
    "stack": (
        product(3, np.ones((2, 3, 3))),
        "n0_MatMul: expected a matrix, got a constant of shape (2, 3, 3)",
    ),
    "not flat": (
        product([None, 4, 3], np.eye(3)),
        "n0_MatMul: multiplies inputs that are not flat but (rows, 4, 3); Flatten has to stand",
    ),
    "cast": (
        unary("Cast", to=TensorProto.INT32),
        "n1_Cast: Cast to anything but floating point is not supported",
    ),
    "flatten": (unary("Flatten", axis=0), "n1_Flatten: Flatten: expected axis 1, got 0"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named(name: str) -> None:
    model, message = UNSUPPORTED[name]
    with pytest.raises(convert.UnsupportedLayerError) as caught:
        convert.convert(model)
    assert str(caught.value).startswith(message)


def test_a_circle_makes_a_tensor_twice() -> None:
    model = unary("Relu")
    model.graph.node[1].output[0] = "x"
    with raises(
        ValueError, "n1_Relu: expected a new name for its result, got 'x', which is there already"
    ):
        convert.convert(model)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    for given, name in ((path, str(path)), (b"no model", "bytes")):
        with pytest.raises(ValueError, match="expected an ONNX model") as caught:
            convert.convert(given)
        assert str(caught.value).startswith(f"{name}: ")
    with pytest.raises(FileNotFoundError):
        convert.convert(tmp_path / "none.onnx")
    for path, way in (("model.pt", "torch.load"), ("m.joblib", "runs code"), ("m.H5", "keras")):
        with pytest.raises(
            ValueError, match=f"^{path}: expected the path of an .onnx file; .*{way}"
        ):
            convert.convert(path)


def test_a_single_output_may_be_squeezed() -> None:
    weights = weights_of(Architecture.mlp(6, 1))
    builder = Builder()
    builder.add("Reshape", builder.constant([0, -1], np.int64))
    builder.add("MatMul", builder.constant(weights["layer_0"]))
    builder.add("Reshape", builder.constant([-1, 1], np.int64))
    builder.add("Squeeze", builder.constant([-1], np.int64))
    x = rows(Architecture.mlp(6, 1))
    model = builder.model(6, 1)
    model.graph.output[0].type.tensor_type.shape.dim.pop()
    assert_computes(convert.convert(model), x, run(model, x)[:, None], times=4)


def test_broken_models_are_value_errors() -> None:
    """Models with parts removed or exchanged are refused, or are still chains and read as such."""
    for seed in range(200):
        try_broken_model(np.random.default_rng(seed))


def try_broken_model(rng: np.random.Generator) -> None:
    builder = Builder(13)
    builder.add("BatchNormalization", *(builder.constant(np.ones(6)) for _ in range(4)))
    builder.add(
        "Gemm", builder.constant(np.eye(6)), builder.constant(np.ones(6)), alpha=0.5, transB=1
    )
    add_gelu(builder, "erf")
    builder.add("Cast", to=TensorProto.FLOAT)
    builder.add("MatMul", builder.constant(np.eye(6)))
    builder.add("Reshape", builder.constant([-1, 6], np.int64))
    builder.add("Dropout", builder.constant(0.5), builder.constant(False, np.bool_))
    model = builder.model(6, 6)
    for _ in range(rng.integers(1, 3)):
        node = model.graph.node[rng.integers(len(model.graph.node))]
        names = [*(c.name for c in model.graph.initializer), "x", "", "t3", "nobody"]
        kind = rng.integers(6)
        if kind == 0 and node.input:
            node.input.pop()
        elif kind == 1 and node.input:
            node.input[rng.integers(len(node.input))] = str(rng.choice(names))
        elif kind == 2:
            node.op_type = str(
                rng.choice(
                    ["Relu", "Gemm", "MatMul", "Constant", "Transpose", "Where", "Squeeze", ""]
                )
            )
        elif kind == 3:
            node.attribute.add().name = str(
                rng.choice(["axis", "alpha", "to", "value", "approximate"])
            )
        elif kind == 4:
            model.graph.initializer.pop()
        else:
            del node.output[:]
    try:
        found = convert.convert(model).architecture
    except ValueError:
        return
    assert (found.input_size, found.output_size) == (6, 6)
