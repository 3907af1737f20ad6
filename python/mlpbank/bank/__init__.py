"""Models by key."""

from mlpbank._columns import ModelInfo
from mlpbank.bank._bank import Bank
from mlpbank.bank._files import StackedModels
from mlpbank.bank._live import LiveBank
from mlpbank.bank._transaction import Transaction

__all__ = ["Bank", "LiveBank", "ModelInfo", "StackedModels", "Transaction"]
