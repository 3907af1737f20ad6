"""ONNX Runtime and OpenVINO as contenders: one graph with the weights as constants."""

from __future__ import annotations

import functools
import sys
from typing import Any

from mlpbank.bench.cases import Problem, aligned_empty
from mlpbank.bench.contender import Contender, Settings, UnavailableError, activation

_OPSET, _IR_VERSION = 20, 9  # the first opset with Gelu
_PROTOBUF_LIMIT = 2**31

# Operations and attributes. ONNX has the slope of leaky_relu and the alpha of elu as defaults.
_OPERATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "none": ("Identity", {}),
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "leaky_relu": ("LeakyRelu", {}),
    "elu": ("Elu", {}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "softplus": ("Softplus", {}),
}


def _graph(problem: Problem, peer: str) -> bytes:
    """Return the model x -> MatMul -> Add -> activation -> ... -> y, serialised."""
    from onnx import TensorProto, helper, numpy_helper

    case = problem.case
    operation, attributes = activation(_OPERATIONS, case.activation, peer)
    if case.nbytes >= _PROTOBUF_LIMIT:
        raise UnavailableError("an ONNX model holds less than 2 GiB of weights")
    nodes: list[Any] = []
    constants: list[Any] = []
    value = "x"
    for i, (w, b) in enumerate(zip(problem.weights, problem.biases, strict=True)):
        if i > 0:
            nodes.append(helper.make_node(operation, [value], [f"activated{i}"], **attributes))
            value = f"activated{i}"
        constants += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"product{i}"]))
        value = "y" if i == len(problem.weights) - 1 else f"sum{i}"
        nodes.append(helper.make_node("Add", [f"product{i}", f"b{i}"], [value]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, problem.x.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, problem.expected.shape)
    graph = helper.make_graph(nodes, "mlps", [x], [y], constants)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def build_onnxruntime(problem: Problem, settings: Settings) -> Contender:
    """Return ONNX Runtime with input and output bound to arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    graph = _graph(problem, "onnxruntime")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(problem.x)
    y = onnxruntime.OrtValue.ortvalue_from_numpy(aligned_empty(problem.expected.shape))
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    return Contender("onnxruntime", lambda: session.run_with_iobinding(binding), y.numpy)


def build_openvino(problem: Problem, settings: Settings) -> Contender:
    """Return an OpenVINO infer request on tensors that share memory with NumPy arrays."""
    # If this module exists, importing openvino starts a process that reports it over the network.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    core = openvino.Core()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(settings.threads),
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 on CPUs that have it
    }
    compiled = core.compile_model(core.read_model(_graph(problem, "openvino")), "CPU", options)
    request = compiled.create_infer_request()
    y = aligned_empty(problem.expected.shape)
    request.set_input_tensor(openvino.Tensor(problem.x, shared_memory=True))
    request.set_output_tensor(openvino.Tensor(y, shared_memory=True))
    infer = functools.partial(request.infer, share_inputs=True, share_outputs=True)
    return Contender("openvino", infer, lambda: y)
