"""Models by key.

Live banks are imported when they are asked for: SQLite and what they bring takes longer to import
than all the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlpbank._columns import ModelInfo
from mlpbank.bank._bank import Bank
from mlpbank.bank._files import StackedModels

if TYPE_CHECKING:
    from mlpbank.bank._live import LiveBank
    from mlpbank.bank._transaction import Transaction

__all__ = ["Bank", "LiveBank", "ModelInfo", "StackedModels", "Transaction"]


def __getattr__(name: str) -> Any:
    if name == "LiveBank":
        from mlpbank.bank._live import LiveBank

        return LiveBank
    if name == "Transaction":
        from mlpbank.bank._transaction import Transaction

        return Transaction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _open_folder(*arguments: Any) -> Any:
    from mlpbank.bank._live import open_live

    return open_live(*arguments)


def _make_folder(*arguments: Any) -> None:
    from mlpbank.bank._live_files import create

    create(*arguments)


# A live bank is a Bank, so Bank itself cannot import it.
Bank._open_folder = staticmethod(_open_folder)
Bank._make_folder = staticmethod(_make_folder)
