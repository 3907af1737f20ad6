"""Models by key."""

from mlpbank.bank._bank import Bank
from mlpbank.bank._directory import ModelInfo

__all__ = ["Bank", "ModelInfo"]
