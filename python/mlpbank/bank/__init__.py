"""Models by key."""

from mlpbank._columns import ModelInfo
from mlpbank.bank._bank import Bank, StackedModels

__all__ = ["Bank", "ModelInfo", "StackedModels"]
