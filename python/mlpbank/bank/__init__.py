"""Models by key."""

from mlpbank._columns import ModelInfo
from mlpbank.bank._bank import Bank
from mlpbank.bank._files import StackedModels

__all__ = ["Bank", "ModelInfo", "StackedModels"]
