"""Run thousands to millions of small neural networks of one architecture in one call, on CPUs."""

from importlib.metadata import version as _version

from mlpbank._core import ModelNotLoadedError
from mlpbank.architecture import Activation, Architecture, LayerSpec
from mlpbank.inference import BatchedInference, Engine, available_isas
from mlpbank.weights import BatchedWeights

__version__ = _version("mlpbank")

__all__ = [
    "Activation",
    "Architecture",
    "BatchedInference",
    "BatchedWeights",
    "Engine",
    "LayerSpec",
    "ModelNotLoadedError",
    "__version__",
    "available_isas",
]
