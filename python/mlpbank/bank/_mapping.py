"""A Bank as a mapping: what Python's own would do otherwise, or key by key through all keys."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from typing import Any

from mlpbank.bank._slot_map import SlotMap
from mlpbank.errors import InvalidValueError, UnknownKeyError, UnknownModelError
from mlpbank.typing import Key, Weights

_NO_DEFAULT: Any = object()


class BankMapping(MutableMapping[Key, Any]):
    """The part of `Bank` that changes it by ``bank[key] = model``, ``bank[key]`` and ``del``."""

    @property
    def _slot_map(self) -> SlotMap:
        raise NotImplementedError

    # Those of a mapping would compare weights and leave no hash.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def update(self, models: Any = (), /, **more: Any) -> None:
        """Add or replace models, one after the other.

        Another bank has to have the same architecture, feature names and classes.

        Parameters
        ----------
        models : mapping of key to model, or iterable of such pairs
            Whatever `from_models` takes.
        **more
            Models whose keys are names.

        Raises
        ------
        TypeError, ValueError
            As for `add`. All keys are checked before the first model is added.
        """
        from mlpbank import convert

        if isinstance(models, BankMapping):
            expect_alike(self, models)
        pairs = [*convert.keyed(models), *more.items()]
        for key, _ in pairs:
            self._slot_map.check(key)
        for key, model in pairs:
            self[key] = model

    # Those of a mapping go key by key through all keys, and stop where another thread was faster.
    def pop(self, key: Key, default: Any = _NO_DEFAULT) -> Any:
        """Remove a model and return its weights, or the default where the key is unknown.

        Of several threads that pop one key, one gets the weights.
        """
        try:
            weights = self[key]
            del self[key]
        except UnknownModelError:
            if default is _NO_DEFAULT:
                raise
            return default
        return weights

    def popitem(self) -> tuple[Key, Weights]:
        """Remove any model and return its key and weights; UnknownKeyError if there is none."""
        for key in self:
            weights = self.pop(key, None)
            if weights is not None:  # no other thread was faster
                return key, weights
        raise UnknownKeyError("popitem: expected a model, got a bank without")

    def clear(self) -> None:
        """Remove all models that the bank has now; what other threads add meanwhile stays."""
        for key in self:
            with contextlib.suppress(UnknownModelError):  # another thread has removed it
                del self[key]


def expect_alike(bank: Any, other: Any) -> None:
    """Raise ValueError where the weights of another bank mean something else in this one.

    Weights alone tell neither activations nor the order of features and classes.
    """
    for name in ("architecture", "feature_names", "classes"):
        mine, theirs = getattr(bank, name), getattr(other, name)
        if mine != theirs and (name == "architecture" or not (mine is None and not len(bank))):
            raise InvalidValueError(
                f"models: expected a bank with the same {name}, {mine!r:.200}, got "
                f"{theirs!r:.200}; add the models that it was made of"
            )
