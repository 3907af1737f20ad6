"""Run thousands to millions of small neural networks of one architecture in one call, on CPUs."""

from typing import TYPE_CHECKING, Any

from mlpbank.architecture import Activation, Architecture, LayerSpec
from mlpbank.bank import Bank, ModelInfo, StackedModels
from mlpbank.engine import CpuBudget, Engine, available_isas, cpu_budget
from mlpbank.errors import (
    BankBusyError,
    BankFileError,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
    MlpbankError,
    ModelNotLoadedError,
    OutOfRangeError,
    QueueFullError,
    TooLargeError,
    UnknownKeyError,
    UnknownModelError,
    UnsupportedLayerError,
)
from mlpbank.inference import BatchedInference
from mlpbank.weights import BatchedWeights

if TYPE_CHECKING:
    from mlpbank.bank import LiveBank, Transaction

__all__ = [
    "Activation",
    "Architecture",
    "Bank",
    "BankBusyError",
    "BankFileError",
    "BatchedInference",
    "BatchedWeights",
    "CpuBudget",
    "Engine",
    "InvalidStateError",
    "InvalidTypeError",
    "InvalidValueError",
    "LayerSpec",
    "LiveBank",
    "MissingPackageError",
    "MlpbankError",
    "ModelInfo",
    "ModelNotLoadedError",
    "OutOfRangeError",
    "QueueFullError",
    "StackedModels",
    "TooLargeError",
    "Transaction",
    "UnknownKeyError",
    "UnknownModelError",
    "UnsupportedLayerError",
    "__version__",
    "available_isas",
    "cpu_budget",
]


def __getattr__(name: str) -> Any:
    # The version stands in pyproject.toml alone; reading it costs as much as the rest of the
    # import, so it waits.
    if name == "__version__":
        from importlib.metadata import version

        return version("mlpbank")
    if name in ("LiveBank", "Transaction"):
        from mlpbank import bank

        return getattr(bank, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
