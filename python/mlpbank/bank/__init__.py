"""Models by key."""

from mlpbank.bank._bank import Bank
from mlpbank.bank._directory import ModelInfo, UnknownModelError

__all__ = ["Bank", "ModelInfo", "UnknownModelError"]
