"""What a Bank consists of, and its way into files and back."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank import _core, files
from mlpbank._columns import ModelColumns
from mlpbank._key_tables import table_keys
from mlpbank._keys import kind_of
from mlpbank.architecture import Architecture, array_shapes
from mlpbank.bank._knowledge import Known, same_known
from mlpbank.bank._named import BankNamed
from mlpbank.bank._state import State
from mlpbank.engine import Engine
from mlpbank.errors import BankFileError, InvalidValueError, KeyTypeError
from mlpbank.typing import Int64Array, Key, Refresh, Sync, Weights
from mlpbank.weights import BatchedWeights

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

_CHUNK_MODELS = 1 << 14  # that are unpacked at once


class StackedModels(NamedTuple):
    """Models of one architecture, stacked in the order of their keys.

    Attributes
    ----------
    keys : list of N str, int or tuples
    architecture : Architecture
    weights : dict of str to float32 array
        ``"layer_<i>"`` (N, input_size, output_size) and ``"layer_<i>.bias"`` (N, output_size), as
        they are stored. With ``"input_shift"`` (input_size,) float64 if the bank has one: the
        weights take ``x - input_shift``.
    """

    keys: list[Key]
    architecture: Architecture
    weights: Weights


StackedModels.__module__ = "mlpbank"  # from where users import it


class BankFiles(BankNamed):
    """The part of `Bank` that saves and opens."""

    # What `_live.py` does with folders, see there.
    _open_folder: ClassVar[Callable[..., Any]]
    _make_folder: ClassVar[Callable[..., None]]
    # The file that the bank came from, None if it did not, or is not mapped.
    _contents: files._schema.Contents | None = None
    _path: str | None = None

    def _bind(
        self,
        weights: BatchedWeights,
        columns: ModelColumns,
        engine: Engine | None,
        fallback: Key | None,
        known: Known,
    ) -> None:
        self._state = State(weights, columns, engine)
        self._direct = self._state.direct
        self._know(known)
        # The first model decides what is not given, and later ones names and classes that it did
        # not know. dict.setdefault is one step.
        self._decided: dict[str, Any] = {"known": known} if len(self._slot_map.core) else {}
        self.fallback = fallback
        self._metadata: dict[str, Any] = {}

    def _decided_now(self) -> Known | None:
        """Return what is decided, None if there never was a model."""
        known: Known | None = self._decided.get("known")
        if known is None:
            return None
        return known._replace(
            **{
                name: self._decided.get(name)
                for name in ("feature_names", "classes", "repeated")
                if getattr(known, name) is None
            }
        )

    def _decide(self, decided: Known | None, found: Known) -> bool:
        """Decide what is not yet; return whether all is as found with these decisions."""
        if decided is None:
            if self._decided.setdefault("known", found) is not found:
                return False
        else:
            for name in ("feature_names", "classes", "repeated"):
                value = getattr(found, name)
                if getattr(decided, name) is not None or value is None:
                    continue
                # Equal values may differ in type: 1 and True.
                if self._decided.setdefault(name, value) is not value:
                    return False
        # Of threads that decide at once, the last to write sees all decisions.
        while True:
            now = self._decided_now()
            if now is None or all(a is b for a, b in zip(self._known, now, strict=True)):
                return True
            self._know(now)

    def _know(self, known: Known) -> None:
        self._known = known
        self._direct.takes_rows = known.input_shift is None

    @property
    def fallback(self) -> Key | None:
        """The key of the model that answers for unknown keys, or None. It can be set."""
        return self._fallback

    @fallback.setter
    def fallback(self, key: Key | None) -> None:
        if key is not None:
            key = self._slot_map.check(key)
            try:
                self._slot_map.core.set_key_type(kind_of(key))
            except KeyTypeError:  # another thread has just added the first one
                self._slot_map.check(key)
        self._fallback = key

    @property
    def metadata(self) -> dict[str, Any]:
        """Your own notes about the bank, as JSON has them; kept in its file. Set with a copy."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: dict[str, Any]) -> None:
        self._metadata = files._described.copy_json(metadata)

    @property
    def key_type(self) -> Any:
        """The type of all keys: ``str``, ``int`` or for example ``tuple[str, int]``.

        None if there never was a key.
        """
        return self._slot_map.kind

    def to_stacked(self) -> StackedModels:
        """Return all models of one moment, stacked.

        Returns
        -------
        StackedModels
            What `from_stacked` takes, in its order: ``Bank.from_stacked(*bank.to_stacked())``.
            Without `feature_names` and `classes`, which `from_stacked` takes by name.
        """
        return self._stacked()[0]

    def _stacked(self) -> tuple[StackedModels, ModelColumns]:
        snapshot, slots, columns = self._now().slot_map.freeze()
        models = len(slots)
        weights: Weights = {
            name: np.empty((models, *shape), np.float32)
            for name, shape in array_shapes(self.architecture).items()
        }
        for first in range(0, models, _CHUNK_MODELS):
            some = slots[first : first + _CHUNK_MODELS]
            sizes = files._schema.sizes_of(len(some), self.architecture, self.layout, self.dtype)
            copied = files._mapped.aligned_zeros(sizes.blocks * sizes.block_bytes)
            snapshot.copy(some, copied)
            core = _core.BatchedWeights.from_buffer(
                len(some), self.architecture._core, self.layout, self.dtype, copied, False
            )
            part = BatchedWeights._from_core(core, self.architecture)
            for model in range(len(some)):
                for name, array in part.get(model).items():
                    weights[name][first + model] = array
        keys = [] if columns.table is None else list(table_keys(columns.table))
        if self.input_shift is not None:
            weights |= {"input_shift": self.input_shift}
        return StackedModels(keys, self.architecture, weights), columns

    def to_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Save the bank as it is now in the plain form, for any safetensors reader.

        The arrays are float32. Keys, versions, fallback, names, classes and metadata are kept;
        dtype and layout are not. docs/format.md describes the form.

        Parameters
        ----------
        path : path-like
            Its folder exists. The file appears complete or not at all, and replaces an older one in
            one step.

        Raises
        ------
        OSError
            Writing failed; an older file is still there.
        TypeError, ValueError
            `metadata` is not a dict of what JSON can hold.
        """
        stacked, columns = self._stacked()
        files._plain.save_plain(
            path,
            *stacked,
            versions=[columns.version(i) for i in range(len(stacked.keys))],
            fallback=self.fallback,
            metadata=files._described.copy_json(self.metadata),
            feature_names=self.feature_names,
            classes=self.classes,
        )

    def save(
        self, path: str | os.PathLike[str], *, live: bool = False, progress: bool = False
    ) -> None:
        """Save the bank as it is now; others may predict and change it meanwhile.

        The file appears complete or not at all, and replaces an older one in one step. A process
        that has the older one open or mapped keeps it, and so does this bank.

        Parameters
        ----------
        path : path-like
            The folder that it lies in exists.
        live : bool
            Make a new folder instead: a bank that can be changed from then on, by any process of
            this machine, and that all of them follow. See `LiveBank` and docs/live.md.
        progress : bool
            Show a bar on stderr (needs tqdm).

        Raises
        ------
        OSError
            Writing failed; an older file is still there. Or `live`, and the path exists.
        TypeError, ValueError
            `metadata` is not a dict of what JSON can hold.
        """
        if live:
            self._make_folder(self, path, progress)
            return
        with files._atomic.atomic_writer(path) as file:
            self._write(file, progress)

    def _write(self, file: Any, progress: bool) -> None:
        self._write_frozen(file, *self._now().slot_map.freeze(), progress)

    def _write_frozen(
        self,
        file: Any,
        snapshot: _core.Snapshot,
        slots: Int64Array,
        columns: ModelColumns,
        progress: bool,
    ) -> None:
        """Write a bank file with the models of these slots; of -1 none."""
        contents = files._schema.Contents(
            architecture=self.architecture,
            dtype=self.dtype,
            layout=self.layout,
            models=len(slots),
            blocks=np.empty(0, np.uint8),
            columns=columns,
            fallback=self.fallback,
            metadata=files._described.copy_json(self.metadata),
            checksums={},
            input_shift=self.input_shift,
            feature_names=self.feature_names,
            classes=self.classes,
        )
        block = _core.block_of(self.architecture._core, self.layout, self.dtype)

        def copy_blocks(first: int, count: int) -> npt.NDArray[np.uint8]:
            data = np.zeros(count * block.bytes, np.uint8)
            snapshot.copy(slots[first * block.models : (first + count) * block.models], data)
            return data

        files._mapped.write(file, contents, copy_blocks, progress)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        mmap: bool = True,
        engine: Engine | None = None,
        writable: bool = False,
        sync: Sync = "commit",
        refresh: Refresh = "call",
    ) -> Self:
        """Open a bank file, or the folder of a live bank.

        Parameters
        ----------
        path : path-like
        mmap : bool
            Map the file: opening takes milliseconds however large it is, weights are read when they
            are first needed, and all processes that have it open share its memory. It must not be
            changed in place or shortened meanwhile; `save` never does that. False reads all of it.
        engine : Engine, optional
            ``Engine()`` by default.
        writable : bool
            Of a live bank: whether it can be changed here. Any number of processes may.
        sync : {"commit", "interval", "off"}
            What a change of a live bank waits for. "commit": for the disk; it outlasts a power cut.
            "interval": for nothing; what is older than a second outlasts a power cut. "off": for
            nothing. In all cases it outlasts the end of this process, however that comes.
        refresh : {"call", "manual"}
            When changes of a live bank by others are taken over: with every call, or when `refresh`
            is called.

        Returns
        -------
        Bank
            Of a file: changes to it stay in memory; `save` keeps them. Of a folder: a `LiveBank`.

        Raises
        ------
        BankFileError
            It is not a valid bank file or folder.
        OSError
            It cannot be opened or read.
        TypeError, ValueError
            An argument does not fit.
        """
        if os.path.isdir(path):
            live: Self = cls._open_folder(path, engine, writable, sync, refresh)
            if not mmap:
                raise InvalidValueError(f"{os.fspath(path)}: a live bank is mapped, got mmap=False")
            return live
        if writable:
            raise InvalidValueError(
                f"{os.fspath(path)}: writable: expected the folder of a live bank, got a file; "
                "bank.save(folder, live=True) makes one"
            )
        self = cls._from_contents(files._mapped.open_file(path, map_file=mmap), engine)
        self._path = os.path.abspath(path) if mmap else None
        return self

    @classmethod
    def _from_contents(cls, contents: files._schema.Contents, engine: Engine | None) -> Self:
        weights = BatchedWeights._from_core(
            files._mapped.as_weights(contents), contents.architecture
        )
        self = cls.__new__(cls)
        self._contents = contents
        known = Known(contents.input_shift, contents.feature_names, contents.classes)
        self._bind(weights, contents.columns, engine, contents.fallback, known)
        self._metadata = contents.metadata
        return self

    @classmethod
    def _from_bytes(cls, data: Any, engine: Engine | None = None) -> Self:
        return cls._from_contents(files._mapped.from_bytes(data), engine)

    @classmethod
    def _from_reference(cls, path: str, fingerprint: str, engine: Engine | None) -> Self:
        self = cls.open(path, engine=engine)
        contents = self._contents
        if contents is None or files._mapped.fingerprint(contents.header) != fingerprint:
            raise BankFileError(
                f"{path}: expected the bank file that was open when its bank was pickled, got "
                "another one in its place; pickle the bank again"
            )
        return self

    def _reference(self) -> tuple[str, str] | None:
        """Return path and fingerprint of the file that holds just this bank; None if none does."""
        contents = self._contents
        if self._path is None or contents is None or self._state.slot_map.core.sequence != 0:
            return None
        opened = Known(contents.input_shift, contents.feature_names, contents.classes)
        same = same_known(opened, self._known) and contents.fallback == self._fallback
        if not same or files._read.metadata_of(contents.header) != self._metadata:
            return None
        if not files._mapped.has_header(self._path, contents.header):  # another file took its place
            return None
        return self._path, files._mapped.fingerprint(contents.header)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reference = self._reference()
        if reference is not None:
            return type(self)._from_reference, (*reference, self.engine)
        file = io.BytesIO()
        self._write(file, False)
        data = file.getbuffer().toreadonly()
        if int(protocol) < 5:
            return type(self)._from_bytes, (bytes(data), self.engine)
        return type(self)._from_bytes, (pickle.PickleBuffer(data), self.engine)
