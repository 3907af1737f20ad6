"""Bank: models by key, added, replaced and removed while others predict, and kept in a file."""

from __future__ import annotations

import io
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._columns import ModelColumns, ModelInfo, check_version
from mlpbank._keys import make_table, table_keys, table_size, to_builtin
from mlpbank.architecture import Architecture
from mlpbank.bank._reads import BankReads
from mlpbank.bank._slot_map import SlotMap
from mlpbank.engine import Engine
from mlpbank.errors import (
    BankFileError,
    InvalidValueError,
    KeyTypeError,
    ModelNotLoadedError,
    UnknownModelError,
)
from mlpbank.files import _mapped
from mlpbank.files._atomic import atomic_writer
from mlpbank.inference import BatchedInference
from mlpbank.typing import Dtype, Float32Array, Key, Layout
from mlpbank.weights import BatchedWeights

if TYPE_CHECKING:
    from mlpbank.files._plain import PlainBank

_CHUNK_MODELS = 1 << 14  # that are unpacked at once


class StackedModels(NamedTuple):
    """Models of one architecture, stacked in the order of their keys.

    Attributes
    ----------
    keys : list of N str or int
    architecture : Architecture
    weights : dict of str to float32 array
        ``"layer_<i>"`` (N, input_size, output_size) and ``"layer_<i>.bias"`` (N, output_size), as
        they are stored.
    """

    keys: list[Key]
    architecture: Architecture
    weights: dict[str, Float32Array]


StackedModels.__module__ = "mlpbank"  # from where users import it


class Bank(BankReads, MutableMapping[Key, Any]):
    """Models of one architecture by key: a mutable mapping of keys to weights.

    Parameters
    ----------
    architecture : Architecture
        Shared by all models.
    dtype : {"float32", "float16", "bfloat16", "int8"} or NumPy dtype
    layout : {"auto", "panel", "lane"}
        How weights are stored, see `BatchedWeights`.
    engine : Engine, optional
        ``Engine()`` by default.
    fallback : str or int, optional
        The key of the model that answers for keys that are unknown. It may be added later.

    Notes
    -----
    Keys are all str or all int. Any number of threads may predict while others add, replace and
    delete. Each prediction sees every model whole and all keys as they were at one moment, and one
    that starts after a change has returned sees the change. Predictions do not wait for changes,
    unless keys come and go faster than one call can look its keys up.

    ``bank[key]`` gives weights and takes models. Iterating goes over the keys of one moment; the
    weights of a model that another thread removes meanwhile raise UnknownModelError. `to_stacked`
    gives all models of one moment. A bank is equal to itself only.

    Examples
    --------
    >>> import numpy as np
    >>> bank = Bank(Architecture.mlp(3, 1))
    >>> bank["sum"] = {"layer_0": [1, 1, 1]}
    >>> bank["first"] = {"layer_0": [1, 0, 0], "layer_0.bias": [10]}
    >>> bank.predict(["first", "sum", "first"], np.ones((3, 3)))
    array([[11.],
           [ 3.],
           [11.]], dtype=float32)
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        dtype: Dtype = "float32",
        layout: Layout = "auto",
        engine: Engine | None = None,
        fallback: Key | None = None,
    ) -> None:
        weights = BatchedWeights(1, architecture, layout=layout, dtype=dtype)
        self._bind(weights, ModelColumns.new(None), engine, fallback)

    def _bind(
        self,
        weights: BatchedWeights,
        columns: ModelColumns,
        engine: Engine | None,
        fallback: Key | None,
    ) -> None:
        self._inference = BatchedInference.from_weights(weights, engine)
        self._weights = weights
        self._slot_map = SlotMap(weights, columns)
        self.fallback = fallback
        self._metadata: dict[str, Any] = {}
        # What a kernel reads at once: so many models, in so many bytes.
        block = _core.block_of(weights.architecture._core, weights.layout, weights.dtype)
        self._block_models, self._block_bytes = block.models, block.bytes

    @classmethod
    def from_stacked(
        cls,
        keys: Any,
        architecture: Architecture,
        weights: Mapping[str, Any],
        *,
        dtype: Dtype = "float32",
        layout: Layout = "auto",
        engine: Engine | None = None,
        fallback: Key | None = None,
        version: str | Sequence[str | None] | None = None,
        input_scaler: Any = None,
        output_scaler: Any = None,
    ) -> Bank:
        """Return a bank of models whose weights are stacked.

        Parameters
        ----------
        keys : sequence of N str or int
            All different.
        architecture : Architecture
        weights : mapping of str to array
            ``"layer_<i>"`` (N, input_size, output_size) and, optionally, ``"layer_<i>.bias"`` (N,
            output_size).
        dtype, layout, engine, fallback
            As for `Bank`.
        version : str or sequence of N str or None, optional
            Of all models, or of each.
        input_scaler, output_scaler : optional
            As for `add`; mean and scale may also have a leading dimension N.

        Raises
        ------
        KeyError, TypeError, ValueError
            The message says what was expected and what came.
        """
        table = make_table(keys)
        models = table_size(table)
        if models == 0:
            return cls(architecture, dtype=dtype, layout=layout, engine=engine, fallback=fallback)
        stored = BatchedWeights(models, architecture, layout=layout, dtype=dtype)
        stored.load_stacked(
            _folded(architecture, weights, input_scaler, output_scaler, stored.dtype)
        )
        self = cls.__new__(cls)
        self._bind(stored, ModelColumns.new(table, version), engine, fallback)
        return self

    @classmethod
    def from_models(
        cls,
        models: Mapping[Key, Any] | Iterable[tuple[Key, Any]],
        architecture: Architecture | None = None,
        *,
        dtype: Dtype = "float32",
        layout: Layout = "auto",
        engine: Engine | None = None,
        fallback: Key | None = None,
        version: str | Sequence[str | None] | None = None,
        input_scaler: Any = None,
        output_scaler: Any = None,
        progress: bool = False,
    ) -> Bank:
        """Return a bank of models as people have them: of PyTorch, scikit-learn, Keras, ONNX, or weights mappings.

        Parameters
        ----------
        models : mapping of key to model, or iterable of such pairs
            See `mlpbank.convert` for what a model may be. All have one architecture.
        architecture : Architecture, optional
            Needed where the models do not tell: state dicts, parameter trees, weights mappings.
        dtype, layout, engine, fallback, version, input_scaler, output_scaler
            As for `from_stacked`.
        progress : bool
            Show a bar on stderr (needs tqdm).

        Raises
        ------
        ValueError
            A model cannot be converted, or differs in architecture; the message names the first.
        """
        from mlpbank import convert

        if not isinstance(models, Mapping):
            listed = list(models)
            models = dict(listed)
            if len(models) < len(listed):
                key = Counter(key for key, _ in listed).most_common(1)[0][0]
                raise InvalidValueError(f"models: expected different keys, got {key!r} twice")
        keys, found, weights = convert.stack(models, architecture, progress=progress)
        return cls.from_stacked(
            keys,
            found,
            weights,
            dtype=dtype,
            layout=layout,
            engine=engine,
            fallback=fallback,
            version=version,
            input_scaler=input_scaler,
            output_scaler=output_scaler,
        )

    @property
    def fallback(self) -> Key | None:
        """The key of the model that answers for keys that are unknown; None: none does. It can be set."""
        return self._fallback

    @fallback.setter
    def fallback(self, key: Key | None) -> None:
        if key is not None:
            self._slot_map.check(key)
            key = to_builtin(key)
            try:
                self._slot_map.core.set_key_type(type(key))
            except KeyTypeError:  # another thread has just added the first one
                self._slot_map.check(key)
        self._fallback = key

    @property
    def metadata(self) -> dict[str, Any]:
        """What else is to be known about the bank, of what JSON can hold; kept in its file. Setting it makes a copy."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: dict[str, Any]) -> None:
        self._metadata = _mapped.copy_json(metadata)

    @property
    def key_type(self) -> type | None:
        """``str`` or ``int``, of which all keys are; None as long as there never was one."""
        return self._slot_map.kind

    # The mapping's own would compare weights, and take the hash away.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(self._slot_map.core)

    def __contains__(self, key: object) -> bool:
        return self._slot_map.slot(key) >= 0

    def __iter__(self) -> Iterator[Key]:
        return iter(self._slot_map.keys())

    def __getitem__(self, key: Key) -> dict[str, Float32Array]:
        """Return a model's weights as they are stored, see `BatchedWeights.get`."""
        reader = self._slot_map.core.enter()  # leaves with this frame, whatever happens
        try:
            slot = self._slot_map.slot(key)
            if slot < 0:
                raise UnknownModelError([key], 1)
            return self._weights.get(slot)
        except ModelNotLoadedError:  # removed in this moment
            raise UnknownModelError([key], 1) from None
        finally:
            reader.leave()

    def __setitem__(self, key: Key, model: Any) -> None:
        """Add or replace a model; the same as ``add(key, model)``."""
        self.add(key, model)

    def __delitem__(self, key: Key) -> None:
        """Remove a model; predictions for its key fail from now on, and those that run are not disturbed."""
        self._slot_map.remove(key)

    def add(
        self,
        key: Key,
        model: Any,
        *,
        version: str | None = None,
        input_scaler: Any = None,
        output_scaler: Any = None,
        check_finite: bool = False,
    ) -> None:
        """Add a model, or replace it in one step while others predict. An error changes nothing.

        Parameters
        ----------
        key : str or int
        model : mapping or model
            ``"layer_<i>"`` and ``"layer_<i>.bias"`` arrays as for `BatchedWeights.load`, or
            whatever `mlpbank.convert` takes.
        version : str, optional
            Kept for `info`.
        input_scaler, output_scaler : (mean, scale) or fitted scikit-learn scaler, optional
            The model was trained on ``(x - mean) / scale``, and its outputs times scale plus mean
            are what is wanted. They are folded into the first and last layer in float64, and cost
            nothing when predicting. An output scaler needs a last activation ``"none"``. int8
            weights lose accuracy by it, which is warned of.
        check_finite : bool
            Refuse NaN and infinity.

        Raises
        ------
        KeyError, TypeError, ValueError
            Key or weights do not fit; see also `BatchedWeights.load`.
        """
        check_version(version)
        self._slot_map.check(key)
        if not (
            isinstance(model, Mapping)
            and all(isinstance(k, str) and k.startswith("layer_") for k in model)
        ):
            model = self._converted(model)
        weights = _folded(self.architecture, model, input_scaler, output_scaler, self.dtype)
        arrays = self._weights._collect(weights, (), check_finite)
        try:
            # One step: the caller's code has run, and no exception can come in between.
            self._slot_map.core.add(to_builtin(key), version or "", time.time(), *arrays)
        except KeyTypeError:  # another thread has just added the first key
            self._slot_map.check(key)
            raise

    def _converted(self, model: Any) -> Mapping[str, Any]:
        from mlpbank import convert

        converted = convert.convert(model, self.architecture)
        if converted.architecture != self.architecture:
            raise InvalidValueError(
                f"model: expected {self.architecture}, got {converted.architecture}"
            )
        weights: Mapping[str, Any] = converted.weights
        return weights

    def _num_blocks(self, models: int) -> int:
        return -(-models // self._block_models)

    def info(self, key: Key) -> ModelInfo:
        """Return version, revision and time of loading of a model.

        Raises
        ------
        UnknownModelError
            There is no such model.
        """
        return self._slot_map.info(key)

    def to_stacked(self) -> StackedModels:
        """Return all models of one moment, stacked.

        Returns
        -------
        StackedModels
            What `from_stacked` takes, in its order: ``Bank.from_stacked(*bank.to_stacked())``.
        """
        return self._stacked()[0]

    def _stacked(self) -> tuple[StackedModels, ModelColumns]:
        snapshot, slots, columns = self._slot_map.freeze()
        models = len(slots)
        weights: dict[str, Float32Array] = {}
        for i, layer in enumerate(self.architecture.layers):
            weights[f"layer_{i}"] = np.empty(
                (models, layer.input_size, layer.output_size), np.float32
            )
            weights[f"layer_{i}.bias"] = np.empty((models, layer.output_size), np.float32)
        for first in range(0, models, _CHUNK_MODELS):
            some = slots[first : first + _CHUNK_MODELS]
            copied = _mapped.aligned_zeros(self._num_blocks(len(some)) * self._block_bytes)
            snapshot.copy(some, copied)
            core = _core.BatchedWeights.from_buffer(
                len(some), self.architecture._core, self.layout, self.dtype, copied
            )
            part = BatchedWeights._from_core(core, self.architecture)
            for model in range(len(some)):
                for name, array in part.get(model).items():
                    weights[name][first + model] = array
        keys = [] if columns.table is None else list(table_keys(columns.table))
        return StackedModels(keys, self.architecture, weights), columns

    def to_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Save the bank as it is now in the plain form: float32 arrays that any safetensors reader can read.

        Keys, versions, fallback and metadata are kept; dtype and layout are not. docs/format.md
        describes the form.

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
        from mlpbank.files import _plain

        stacked, columns = self._stacked()
        _plain.save_plain(
            path,
            *stacked,
            versions=[columns.version(i) for i in range(len(stacked.keys))],
            fallback=self.fallback,
            metadata=_mapped.copy_json(self.metadata),
        )

    @classmethod
    def from_safetensors(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: Dtype = "float32",
        layout: Layout = "auto",
        engine: Engine | None = None,
    ) -> Bank:
        """Return the bank of a file in the plain form, see `to_safetensors`.

        Parameters
        ----------
        path : path-like
        dtype, layout, engine
            As for `Bank`.

        Raises
        ------
        BankFileError
            The file is not a valid plain bank, has no keys, or has further arrays.
        OSError
            It cannot be opened or read.
        """
        from mlpbank.files import _plain

        plain = _plain.load_plain(path)
        if plain.keys is None:
            raise BankFileError(f"{os.fspath(path)}: expected keys, got a file without")
        if plain.extra:
            names = ", ".join(f"extra.{name}" for name in plain.extra)
            raise BankFileError(f"{os.fspath(path)}: expected no further arrays, got {names}")
        return cls._from_plain(plain, dtype, layout, engine)

    @classmethod
    def _from_plain(
        cls, plain: PlainBank, dtype: Dtype, layout: Layout, engine: Engine | None
    ) -> Bank:
        keys = (
            plain.keys
            if plain.keys is not None
            else [str(i) for i in range(len(plain.weights["layer_0"]))]
        )
        self = cls.from_stacked(
            keys,
            plain.architecture,
            plain.weights,
            dtype=dtype,
            layout=layout,
            engine=engine,
            fallback=plain.fallback,
            version=plain.versions,
        )
        self.metadata = plain.metadata
        return self

    def save(self, path: str | os.PathLike[str], *, progress: bool = False) -> None:
        """Save the bank as it is now; others may predict and change it meanwhile.

        The file appears complete or not at all, and replaces an older one in one step: whoever has
        that open or mapped, be it this bank, keeps it.

        Parameters
        ----------
        path : path-like
            Its folder exists.
        progress : bool
            Show a bar on stderr (needs tqdm).

        Raises
        ------
        OSError
            Writing failed; an older file is still there.
        TypeError, ValueError
            `metadata` is not a dict of what JSON can hold.
        """
        with atomic_writer(path) as file:
            self._write(file, progress)

    def _write(self, file: Any, progress: bool) -> None:
        snapshot, slots, columns = self._slot_map.freeze()
        contents = _mapped.Contents(
            architecture=self.architecture,
            dtype=self.dtype,
            layout=self.layout,
            models=len(slots),
            blocks=np.empty(0, np.uint8),
            columns=columns,
            fallback=self.fallback,
            metadata=_mapped.copy_json(self.metadata),
            checksums={},
        )
        per_block = self._block_models

        def copy_blocks(first: int, count: int) -> npt.NDArray[np.uint8]:
            data = np.zeros(count * self._block_bytes, np.uint8)
            snapshot.copy(slots[first * per_block : (first + count) * per_block], data)
            return data

        _mapped.write(file, contents, copy_blocks, progress)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, mmap: bool = True, engine: Engine | None = None
    ) -> Bank:
        """Open a bank file.

        Parameters
        ----------
        path : path-like
        mmap : bool
            Map the file: opening takes milliseconds however large it is, weights are read when they
            are first needed, and all processes that have it open share its memory. It must not be
            changed in place or shortened meanwhile; `save` never does that. False reads all of it.
        engine : Engine, optional
            ``Engine()`` by default.

        Returns
        -------
        Bank
            Changes to it stay in memory; `save` keeps them.

        Raises
        ------
        BankFileError
            It is not a valid bank file.
        OSError
            It cannot be opened or read.
        """
        return cls._from_contents(_mapped.open_file(path, map_file=mmap), engine)

    @classmethod
    def _from_contents(cls, contents: _mapped.Contents, engine: Engine | None) -> Bank:
        weights = BatchedWeights._from_core(_mapped.as_weights(contents), contents.architecture)
        self = cls.__new__(cls)
        self._bind(weights, contents.columns, engine, contents.fallback)
        self._metadata = contents.metadata
        return self

    @classmethod
    def _from_bytes(cls, data: bytes, engine: Engine | None = None) -> Bank:
        return cls._from_contents(_mapped.from_bytes(data), engine)

    def __reduce__(self) -> tuple[Any, ...]:
        file = io.BytesIO()
        self._write(file, False)
        return Bank._from_bytes, (file.getvalue(), self.engine)

    def __repr__(self) -> str:
        return f"<Bank of {len(self)}: {self.architecture!r}, dtype={self.dtype!r}, layout={self.layout!r}>"


def _folded(
    architecture: Architecture,
    weights: Mapping[str, Any],
    input_scaler: Any,
    output_scaler: Any,
    dtype: str,
) -> Any:
    if input_scaler is None and output_scaler is None:
        return weights
    if dtype == "int8" and input_scaler is not None:
        warnings.warn(
            "int8 weights lose accuracy where inputs of different size are scaled by them: scale x itself instead",
            stacklevel=3,
        )
    from mlpbank.convert import fold_scalers

    return fold_scalers(architecture, weights, input_scaler, output_scaler)
