"""Files of models: the mapped form of a bank, and the plain form for any safetensors reader.

Each module of this folder is imported when it is first used: who neither opens nor saves a bank
waits for none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from mlpbank.files import _atomic, _described, _mapped, _plain, _read, _schema

__all__ = ["_atomic", "_described", "_mapped", "_plain", "_read", "_schema"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
