"""Bank: models by key, added, replaced and removed while others predict, and kept in a file."""

from __future__ import annotations

import io
import os
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrays import Float32Array
from mlpbank._columns import ModelColumns, check_version
from mlpbank._keys import Key, make_table, plain, table_size
from mlpbank.architecture import Architecture
from mlpbank.bank._directory import Directory, ModelInfo, UnknownModelError
from mlpbank.bank._predictions import Predictions
from mlpbank.files import _mapped
from mlpbank.files._atomic import atomic_writer
from mlpbank.inference import BatchedInference, Engine
from mlpbank.weights import BatchedWeights


class Bank(Predictions):
    """Models of one architecture by key.

    Parameters
    ----------
    architecture : Architecture
        Shared by all models.
    dtype : {"float32", "float16", "bfloat16", "int8"}
    layout : {"auto", "panel", "lane"}
        How weights are stored, see `BatchedWeights`.
    engine : Engine, optional
        ``Engine()`` by default.
    fallback : str or int, optional
        The key of the model that answers for keys that are unknown. It may be added later.

    Notes
    -----
    Keys are all str or all int. Any number of threads may predict while others add, replace and delete. Each prediction
    sees every model whole and all keys as they were at one moment, and one that starts after a change has returned sees
    the change. Predictions do not wait for changes, unless keys come and go faster than one call can look its keys up.

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
        dtype: str = "float32",
        layout: str = "auto",
        engine: Engine | None = None,
        fallback: Key | None = None,
    ) -> None:
        weights = BatchedWeights(1, architecture, layout=layout, dtype=dtype)
        self._bind(weights, ModelColumns.new(None), engine, fallback)

    def _bind(
        self, weights: BatchedWeights, records: ModelColumns, engine: Engine | None, fallback: Key | None
    ) -> None:
        self._inference = BatchedInference.from_weights(weights, engine)
        self._weights = weights
        self._directory = Directory(weights, records)
        self.fallback = fallback
        self._metadata: dict[str, Any] = {}

    @classmethod
    def from_stacked(
        cls,
        keys: Any,
        architecture: Architecture,
        weights: Mapping[str, Any],
        *,
        dtype: str = "float32",
        layout: str = "auto",
        engine: Engine | None = None,
        fallback: Key | None = None,
        version: str | None = None,
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
            ``"layer_<i>"`` (N, input_size, output_size) and, optionally, ``"layer_<i>.bias"`` (N, output_size).
        dtype, layout, engine, fallback
            As for `Bank`.
        version : str, optional
            Of all models.
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
        stored.load_stacked(_folded(architecture, weights, input_scaler, output_scaler, dtype))
        self = cls.__new__(cls)
        self._bind(stored, ModelColumns.new(table, version), engine, fallback)
        return self

    @classmethod
    def from_models(
        cls,
        models: Mapping[Key, Any] | Iterable[tuple[Key, Any]],
        architecture: Architecture | None = None,
        *,
        progress: bool = False,
        **options: Any,
    ) -> Bank:
        """Return a bank of models as people have them: of PyTorch, scikit-learn, Keras, ONNX, or weights mappings.

        Parameters
        ----------
        models : mapping of key to model, or iterable of such pairs
            See `mlpbank.convert` for what a model may be. All have one architecture.
        architecture : Architecture, optional
            Needed where the models do not tell: state dicts, parameter trees, weights mappings.
        progress : bool
            Show a bar on stderr (needs tqdm).
        **options
            As for `from_stacked`.

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
                raise ValueError(f"models: expected different keys, got {key!r} twice")
        keys, found, weights = convert.stack(models, architecture, progress=progress)
        return cls.from_stacked(keys, found, weights, **options)

    @property
    def fallback(self) -> Key | None:
        """The key of the model that answers for keys that are unknown; None: none does. It can be set."""
        return self._fallback

    @fallback.setter
    def fallback(self, key: Key | None) -> None:
        if key is not None:
            self._directory.check(key)
            key = plain(key)
            try:
                self._directory.core.set_key_type(type(key))
            except _core.KeyTypeError:  # another thread has just added the first one
                self._directory.check(key)
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
        return self._directory.kind

    def __len__(self) -> int:
        return len(self._directory.core)

    def __contains__(self, key: object) -> bool:
        return self._directory.slot(key) >= 0

    def __iter__(self) -> Iterator[Key]:
        return iter(self._directory.keys())

    def keys(self) -> list[Key]:
        """Return all keys."""
        return self._directory.keys()

    def __getitem__(self, key: Key) -> dict[str, Float32Array]:
        """Return a model's weights as they are stored, see `BatchedWeights.get`."""
        reader = self._directory.core.enter()  # leaves with this frame, whatever happens
        try:
            slot = self._directory.slot(key)
            if slot < 0:
                raise UnknownModelError([key], 1)
            return self._weights.get(slot)
        except _core.ModelNotLoadedError:  # removed in this moment
            raise UnknownModelError([key], 1) from None
        finally:
            reader.leave()

    def __setitem__(self, key: Key, model: Any) -> None:
        """Add or replace a model; the same as ``add(key, model)``."""
        self.add(key, model)

    def __delitem__(self, key: Key) -> None:
        """Remove a model; predictions for its key fail from now on, and those that run are not disturbed."""
        self._directory.remove(key)

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
            ``"layer_<i>"`` and ``"layer_<i>.bias"`` arrays as for `BatchedWeights.load`, or whatever `mlpbank.convert`
            takes.
        version : str, optional
            Kept for `info`.
        input_scaler, output_scaler : (mean, scale) or fitted scikit-learn scaler, optional
            The model was trained on ``(x - mean) / scale``, and its outputs times scale plus mean are what is wanted.
            They are folded into the first and last layer in float64, and cost nothing when predicting. An output scaler
            needs a last activation ``"none"``. int8 weights lose accuracy by it, which is warned of.
        check_finite : bool
            Refuse NaN and infinity.

        Raises
        ------
        KeyError, TypeError, ValueError
            Key or weights do not fit; see also `BatchedWeights.load`.
        """
        check_version(version)
        self._directory.check(key)
        if not (isinstance(model, Mapping) and all(isinstance(k, str) and k.startswith("layer_") for k in model)):
            model = self._converted(model)
        weights = _folded(self.architecture, model, input_scaler, output_scaler, self.dtype)
        arrays = self._weights._collect(weights, (), check_finite)
        try:
            # One step: the caller's code has run, and no exception can come in between.
            self._directory.core.add(plain(key), version or "", time.time(), *arrays)
        except _core.KeyTypeError:  # another thread has just added the first key
            self._directory.check(key)
            raise

    def _converted(self, model: Any) -> Mapping[str, Any]:
        from mlpbank import convert

        converted = convert.convert(model, self.architecture)
        if converted.architecture != self.architecture:
            raise ValueError(f"model: expected {self.architecture}, got {converted.architecture}")
        weights: Mapping[str, Any] = converted.weights
        return weights

    def info(self, key: Key) -> ModelInfo:
        """Return version, generation and time of loading of a model.

        Raises
        ------
        UnknownModelError
            There is no such model.
        """
        return self._directory.info(key)

    def to_stacked(self) -> tuple[list[Key], dict[str, Float32Array]]:
        """Return all keys, and all weights as they are stored, at one moment.

        Returns
        -------
        keys : list
            Of all N models.
        weights : dict of str to float32 array
            ``"layer_<i>"`` (N, input_size, output_size) and ``"layer_<i>.bias"`` (N, output_size) in the order of the
            keys: what `from_stacked` takes.
        """
        frozen = pickle.loads(pickle.dumps(self))
        weights: dict[str, Float32Array] = {}
        for i, layer in enumerate(self.architecture.layers):
            weights[f"layer_{i}"] = np.empty((len(frozen), layer.input_size, layer.output_size), np.float32)
            weights[f"layer_{i}.bias"] = np.empty((len(frozen), layer.output_size), np.float32)
        for model in range(len(frozen)):  # the keys of a bank just opened have slots 0, 1, 2, ...
            for name, array in frozen._weights.get(model).items():
                weights[name][model] = array
        return frozen.keys(), weights

    def save(self, path: str | os.PathLike[str], *, progress: bool = False) -> None:
        """Save the bank as it is now; others may predict and change it meanwhile.

        The file appears complete or not at all, and replaces an older one in one step: whoever has that open or mapped,
        be it this bank, keeps it.

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
        snapshot, slots, records = self._directory.freeze()
        contents = _mapped.Contents(
            architecture=self.architecture,
            dtype=self.dtype,
            layout=self.layout,
            models=len(slots),
            units=np.empty(0, np.uint8),
            records=records,
            fallback=self.fallback,
            metadata=_mapped.copy_json(self.metadata),
            checksums={},
        )
        block = _core.block_of(self.architecture._core, self.layout, self.dtype)

        def copy_blocks(first: int, count: int) -> npt.NDArray[np.uint8]:
            data = np.zeros(count * block.bytes, np.uint8)
            snapshot.copy(slots[first * block.models : (first + count) * block.models], data)
            return data

        _mapped.write(file, contents, copy_blocks, progress)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool = True, engine: Engine | None = None) -> Bank:
        """Open a bank file.

        Parameters
        ----------
        path : path-like
        mmap : bool
            Map the file: opening takes milliseconds however large it is, weights are read when they are first needed,
            and all processes that have it open share its memory. It must not be changed in place or shortened
            meanwhile; `save` never does that. False reads all of it.
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
        weights = BatchedWeights._over(_mapped.over(contents), contents.architecture)
        self = cls.__new__(cls)
        self._bind(weights, contents.records, engine, contents.fallback)
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
    architecture: Architecture, weights: Mapping[str, Any], input_scaler: Any, output_scaler: Any, dtype: str
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
