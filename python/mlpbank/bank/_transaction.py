"""Transactions: changes of a live bank that are made together, or not at all."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank._columns import check_version
from mlpbank._keys import check_kind, kind_of
from mlpbank.bank._in_folder import BankInFolder
from mlpbank.bank._knowledge import Known
from mlpbank.bank._mapping import BankMapping, expect_alike
from mlpbank.bank._placing import How
from mlpbank.bank._plan import Change, Load, Plan
from mlpbank.errors import InvalidStateError
from mlpbank.typing import Key

_PLAIN = How()


class Transaction:
    """Changes of a live bank that are made together, or not at all.

    From `LiveBank.transaction`. Until its ``with`` block ends, nothing of it can be seen. An
    exception in the block undoes all. Predictions, in any process, see all of it or nothing.
    Other processes may change the bank meanwhile: they wait only while the block ends.

    Attributes
    ----------
    sequence : int or None
        After the block: the number of its last change.

    Examples
    --------
    >>> with writer.transaction() as t:  # doctest: +SKIP
    ...     t.update(models)
    ...     del t["shop-3"]
    """

    def __init__(self, bank: BankInFolder) -> None:
        self._bank = bank
        self._changes: dict[Key, Change] = {}
        self._start = self._decided = bank._decided_now()
        self._is_open = False
        self.sequence: int | None = None

    def __enter__(self) -> Transaction:
        if self._is_open or self.sequence is not None:
            raise InvalidStateError("transaction: expected a new one for each with block")
        self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        if kind is None:
            self.sequence = self._commit()

    def __len__(self) -> int:
        """Return how many keys it changes."""
        return len(self._changes)

    def __contains__(self, key: object) -> bool:
        """Return whether the bank has the key once this is done."""
        if key in self._changes:
            return self._changes[key].load is not None
        return key in self._bank

    def __setitem__(self, key: Key, model: Any) -> None:
        """Add or replace a model; the same as ``add(key, model)``."""
        self.add(key, model)

    def __delitem__(self, key: Key) -> None:
        """Remove a model."""
        self._expect_open()
        if key not in self:
            raise self._bank._slot_map.unknown(key)
        key = self._check(key)
        change = self._changes.get(key)
        if change is not None and not change.removes and key not in self._bank:
            del self._changes[key]  # it was added here
        else:
            self._changes[key] = Change(True, None)

    def add(
        self,
        key: Key,
        model: Any,
        *,
        version: str | None = None,
        input_scaler: Any = None,
        output_scaler: Any = None,
        output: str | int | None = None,
        align_classes: bool = False,
        check_finite: bool = False,
    ) -> None:
        """Add a model, or replace it. All is as for `Bank.add`."""
        check_version(version)
        how = How(input_scaler, output_scaler, output, align_classes, check_finite)
        self._add(key, model, version, how)

    def _add(self, key: Key, model: Any, version: str | None, how: How) -> None:
        self._expect_open()
        self._put(self._check(key), model, version, how)

    def _put(self, key: Key, model: Any, version: str | None, how: How) -> None:
        """Add a model under a key that has been checked."""
        load = self._loaded(key, (model, how), version, time.time())
        before = self._changes.get(key)
        self._changes[key] = Change(before is not None and before.removes, load)

    def update(self, models: Any = (), /, **more: Any) -> None:
        """Add or replace models. All is as for `Bank.update`."""
        from mlpbank import convert

        if isinstance(models, BankMapping):
            expect_alike(self._bank, models)
        pairs = [*convert.keyed(models), *more.items()]
        self._expect_open()
        keys = [self._check(key) for key, _ in pairs]
        for key, (_, model) in zip(keys, pairs, strict=True):
            self._put(key, model, None, _PLAIN)

    def _expect_open(self) -> None:
        if not self._is_open:
            raise InvalidStateError("transaction: expected a call inside its with block")

    def _check(self, given: Any) -> Key:
        """Return a key as it is kept, of the type of the others."""
        key: Key = self._bank._slot_map.check(given)
        for other in self._changes:
            check_kind(key, kind_of(other))
            break
        return key

    def _loaded(
        self, key: Key, given: tuple[Any, How], version: str | None, loaded_at: float
    ) -> Load:
        bank = self._bank
        arrays, found = bank._place(key, *given, self._decided)
        self._decided = _more(self._decided, found)
        if bank.layout == "panel":
            block = np.zeros(bank._block.bytes, np.uint8)
            bank._weights._core.pack(0, *arrays, block)
            return Load(None, block, _core.crc32(block.data), version, loaded_at, given)
        # It goes into the tile that is there when this is committed.
        own = [[None if a is None else np.array(a) for a in part] for part in arrays]
        return Load(own, None, 0, version, loaded_at, given)

    def _commit(self) -> int:
        bank = self._bank
        if not self._changes:
            return int(bank._now().slot_map.core.sequence)
        describes = self._decided is not self._start or bank._slot_map.kind is None
        with bank._writing(waits=describes) as turn:
            if bank._decided_now() is not self._start:  # the bank got its first model meanwhile
                self._place_again()
            plan = Plan(bank._state, bank._block, turn.about, self._changes)
            where, end = bank._segments.append(
                turn.about.segment, turn.about.tail, [block.data for block in plan.blocks]
            )
            rows = plan.rows(where)
            turn.add(rows)
            if self._decided is not self._start or bank._slot_map.kind is None:
                kind = kind_of(next(iter(self._changes)))
                turn.tell(description=bank._described_with(kind, self._decided).to_json())
            told = () if describes else rows
            bank._commit(turn, plan.sequence, end, told, waits=describes)
        bank._take_own((turn.about.sequence + 1, plan.sequence))
        return plan.sequence

    def _place_again(self) -> None:
        """Place models in a bank that knows more than when they came."""
        bank = self._bank
        self._start = self._decided = bank._decided_now()
        for key, change in self._changes.items():
            check_kind(key, bank._slot_map.kind)
            if change.load is not None:
                load = self._loaded(key, change.load.given, *change.load[3:5])
                self._changes[key] = change._replace(load=load)


def _more(decided: Known | None, found: Known) -> Known:
    """Return what is decided with what a model knows beside."""
    if decided is None or decided is found:
        return found
    names = ("feature_names", "classes", "repeated")
    new = {
        name: getattr(found, name)
        for name in names
        if getattr(decided, name) is None and getattr(found, name) is not None
    }
    return decided._replace(**new) if new else decided
