"""Which framework a model is of, by the names of its bases, which imports no framework."""

from __future__ import annotations

import os
import weakref
from typing import Any

# (name, package) of the base class of each framework's models.
_BASES = {
    ("Module", "torch"): "torch",
    ("ExportedProgram", "torch"): "torch.export",
    ("NeuralNet", "skorch"): "skorch",
    ("BaseEstimator", "sklearn"): "sklearn",
    ("Layer", "keras"): "keras",
    ("Layer", "tf_keras"): "keras 2",
    ("Layer", "tensorflow"): "keras 2",
    ("Module", "tensorflow"): "tensorflow",
    ("ModelProto", "onnx"): "onnx",
    ("Module", "equinox"): "jax",
    ("Module", "flax"): "jax",
}
# Why models of a framework are not read, and what to pass instead.
REFUSED = {
    "torch.export": "of torch.export is not read; pass the original module, as it was before the "
    "export, or export that to ONNX",
    "keras 2": "is a model of Keras 2 (tf_keras or tensorflow.keras before 2.16), which is not "
    "read; save it as .keras or .h5 and load that with Keras 3, or pass its arrays: "
    "from_params(list(zip(w[::2], w[1::2])), architecture, weight_layout='in_out') of "
    "w = model.get_weights() with a kernel and a bias for each layer",
    "tensorflow": "is a tf.Module, which may compute anything; pass its arrays with an "
    "architecture, or export it to ONNX (tf2onnx)",
}
_known: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()


def framework_of(kind: type) -> str | None:
    """Return the framework of a class, None for one of no framework that is known."""
    if kind not in _known:
        bases = ((base.__name__, base.__module__.partition(".")[0]) for base in kind.__mro__)
        _known[kind] = next((_BASES[base] for base in bases if base in _BASES), None)
    return _known[kind]


def is_onnx(model: Any) -> bool:
    """Return whether a model is a ModelProto, or bytes or a path, which are those of ONNX only."""
    framework = framework_of(type(model))
    return framework == "onnx" or (
        framework is None and isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview))
    )
