"""ONNX graphs that are a chain of layers, read from the input to the output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from mlpbank.convert._chain import Step
from mlpbank.convert._columns import Select
from mlpbank.convert._onnx_graph import Graph
from mlpbank.convert._onnx_inputs import read_inputs
from mlpbank.convert._onnx_outputs import Choice, choose
from mlpbank.convert._onnx_read import Reader
from mlpbank.errors import InvalidValueError, MlpbankError, UnsupportedLayerError


def load(model: Any) -> Any:
    """Return a ModelProto from a ModelProto, its bytes, or the path of an .onnx file.

    Raises
    ------
    ValueError
        The file or bytes are no ONNX model, or the path has another suffix.
    OSError
        The file, or one that holds its weights, cannot be read.
    """
    if isinstance(model, onnx.ModelProto):
        return model
    path = _path(model)
    name = "bytes" if path is None else str(path)
    if path is not None and path.suffix.lower() != ".onnx":
        raise InvalidValueError(f"{name}: expected the path of an .onnx file{_way_for(name)}")
    try:
        loaded = onnx.load_model_from_string(bytes(model)) if path is None else onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # of protobuf, or a check of external data
        raise InvalidValueError(
            f"{name}: expected an ONNX model, got {str(error) or type(error).__name__}"
        ) from error
    # Any bytes may happen to be a message of protobuf; a model has a graph.
    if not loaded.HasField("graph") or not loaded.opset_import:
        raise InvalidValueError(f"{name}: expected an ONNX model, got one without a graph or opset")
    return loaded


def _path(model: Any) -> Path | None:
    is_path = not isinstance(model, (bytes, bytearray, memoryview, onnx.ModelProto))
    return Path(os.fspath(model)) if is_path else None


Known = tuple[tuple[str, ...] | None, tuple[Any, ...] | None]  # names of features, and classes


def read(model: Any, output: str | int | None = None) -> tuple[list[Step | Select], Known]:
    """Return the chain of steps that a model computes, and what it knows.

    Features have names where each column is an input of its own. Classes are those of the ZipMap,
    or the labels of a classifier.

    Parameters
    ----------
    model : ModelProto, bytes or path
        The model.
    output : str or int, optional
        The name or number of the output to compute, if there are several. The label of a
        classifier is left out beside its probabilities.

    Raises
    ------
    UnsupportedLayerError
        The graph is no such chain, or has an unsupported node. The message names it.
    ValueError
        The model is not valid, or has no such output.
    OSError
        The file cannot be read.
    """
    loaded = load(model)
    with _named(_path(model)):
        graph = Graph(loaded)
        chosen = choose(graph, output)
        own = _known(graph, chosen)
        return Reader(graph).steps(chosen.tensor, chosen.columns), own


def knowledge(model: Any, output: str | int | None = None) -> Known:
    """Return what a model knows, as `read` does. Raises MlpbankError or OSError like that."""
    loaded = load(model)
    with _named(_path(model)):
        graph = Graph(loaded)
        return _known(graph, choose(graph, output))


def _known(graph: Graph, chosen: Choice) -> Known:
    names = tuple(value.name for value in graph.inputs)
    several = len(names) > 1 and read_inputs(graph.inputs)[2] == len(names)
    return names if several else None, chosen.classes


@contextmanager
def _named(path: Path | None) -> Iterator[None]:
    """Raise errors in the block as ours, with the path in front."""
    place = "" if path is None else f"{path}: "
    try:
        yield
    except MlpbankError as error:
        if not place:
            raise
        unsupported = isinstance(error, UnsupportedLayerError)
        kind = UnsupportedLayerError if unsupported else InvalidValueError
        raise kind(f"{place}{error.args[0] if error.args else error}") from error
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError) as e:
        # Files are untrusted: a node may lack an input or attribute, or have a wrong type.
        raise InvalidValueError(
            f"{place}expected a valid ONNX graph, got {type(e).__name__}: {e}"
        ) from e


def _way_for(name: str) -> str:
    """Return how to load a file that is none of ONNX, as the end of a message."""
    ways = {
        (".pt", ".pth", ".ckpt"): "torch.load(path) gives a module or a state dict to pass",
        (".pkl", ".pickle", ".joblib"): "pass the model that joblib.load(path) gives; loading runs "
        "code, so load what you trust only",
        (".keras", ".h5"): "pass keras.models.load_model(path)",
        (".safetensors",): "pass safetensors.numpy.load_file(path) and the architecture",
    }
    suffix = name[name.rfind(".") :].lower()
    return next((f"; {way}" for suffixes, way in ways.items() if suffix in suffixes), "")
