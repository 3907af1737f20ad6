"""Bank: models by key, added, replaced and removed while others predict, and kept in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlpbank._arrays import as_shift, without_shift
from mlpbank._columns import ModelColumns, ModelInfo, check_version
from mlpbank._key_tables import make_table
from mlpbank._keys import check_key
from mlpbank.architecture import Architecture
from mlpbank.bank._files import BankFiles
from mlpbank.bank._knowledge import Known
from mlpbank.bank._mapping import BankMapping
from mlpbank.bank._placing import UNDECIDED, How, folded, named_by, placed, stack
from mlpbank.engine import Engine
from mlpbank.errors import (
    BankFileError,
    InvalidValueError,
    KeyTypeError,
    ModelNotLoadedError,
    UnknownModelError,
)
from mlpbank.typing import Dtype, Key, Layout, Weights
from mlpbank.weights import BatchedWeights, _dtype_name

if TYPE_CHECKING:
    from mlpbank.files._plain import PlainBank


class Bank(BankFiles, BankMapping):
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
    fallback : str, int or tuple, optional
        The key of the model that answers for keys that are unknown. It may be added later.
    input_shift : array_like (input_size,), optional
    feature_names : sequence of input_size str, optional
    classes : sequence of output_size str, int, float or bool, optional
        See the attributes. What is not given, the first model that is added decides.

    Notes
    -----
    Keys are all str, all int, or all tuples of str and int with parts of the same types, as
    grouping a data frame by several columns gives them. (Grouping by a list of one gives tuples,
    too: ``("A",)`` is another key than ``"A"``.)

    Any number of threads may predict while others add, replace and delete. Each prediction sees
    every model whole and all keys as they were at one moment, and one that starts after a change
    has returned sees the change. Predictions do not wait for changes, unless keys come and go
    faster than one call can look its keys up.

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
        input_shift: Any = None,
        feature_names: Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
    ) -> None:
        weights = BatchedWeights(1, architecture, layout=layout, dtype=dtype)
        if input_shift is not None:
            input_shift = as_shift(input_shift, architecture.input_size)
        known = Known.checked(architecture, input_shift, feature_names, classes)
        self._bind(weights, ModelColumns.new(None), engine, fallback, known)

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
        feature_names: Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
    ) -> Bank:
        """Return a bank of models whose weights are stacked.

        Parameters
        ----------
        keys : sequence or column of N str, int or tuples
            All different.
        architecture : Architecture
        weights : mapping of str to array
            ``"layer_<i>"`` (N, input_size, output_size) and, optionally, ``"layer_<i>.bias"`` (N,
            output_size). With ``"input_shift"`` (input_size,) they take ``x - input_shift``.
        dtype, layout, engine, fallback
            As for `Bank`.
        version : str or sequence of N str or None, optional
            Of all models, or of each.
        input_scaler, output_scaler : optional
            As for `add`; mean and scale may also have a leading dimension N.
        feature_names, classes : optional
            As for `Bank`.

        Raises
        ------
        KeyError, TypeError, ValueError
            The message says what was expected and what came.
        """
        columns = ModelColumns.new(make_table(keys), version)
        scalers = (input_scaler, output_scaler)
        known = Known.checked(architecture, None, feature_names, classes)
        known = named_by(input_scaler, known, [])
        return cls._of(
            columns, architecture, weights, scalers, dtype, layout, engine, fallback, known
        )

    @classmethod
    def _of(
        cls,
        columns: ModelColumns,
        architecture: Architecture,
        weights: Mapping[str, Any],
        scalers: tuple[Any, Any],
        dtype: Dtype,
        layout: Layout,
        engine: Engine | None,
        fallback: Key | None,
        known: Known,
    ) -> Bank:
        models = len(columns.revisions)
        if models == 0:
            return cls(
                architecture,
                dtype=dtype,
                layout=layout,
                engine=engine,
                fallback=fallback,
                input_shift=weights.get("input_shift"),
                feature_names=known.feature_names,
                classes=known.classes,
            )
        stored = BatchedWeights(models, architecture, layout=layout, dtype=dtype)
        if any(scaler is not None for scaler in scalers):
            weights = folded(
                architecture, weights, *scalers, stored.dtype, features=known.feature_names
            )
        weights, input_shift = without_shift(weights, architecture.input_size)
        stored.load_stacked(weights)
        self = cls.__new__(cls)
        self._bind(stored, columns, engine, fallback, known._replace(input_shift=input_shift))
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
        output: str | int | None = None,
        feature_names: Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
        align_classes: bool = False,
        progress: bool = False,
    ) -> Bank:
        """Return a bank of PyTorch, scikit-learn, Keras or ONNX models, or weights mappings.

        Parameters
        ----------
        models : mapping of key to model, or iterable of such pairs
            An nn.ModuleDict and a pandas Series of models are mappings, too. See `mlpbank.convert`
            for what a model may be. All have one architecture.
        architecture : Architecture, optional
            Needed where the models do not tell: state dicts, parameter trees, weights mappings.
        dtype, layout, engine, fallback, version, input_scaler, output_scaler
            As for `from_stacked`.
        output : str or int, optional
            The result to take, by name or number, of models that have several.
        feature_names, classes : optional
            As for `Bank`. By default those of the models: features come in the order of the first
            model that names them.
        align_classes : bool
            Take classifiers that have seen some of the classes only, and give the others the
            probability 0.
        progress : bool
            Show a bar on stderr (needs tqdm).

        Raises
        ------
        TypeError, ValueError
            There is no key for each model, or what is one is no key, which is checked before the
            first model is converted. Or a model cannot be converted, or differs in architecture,
            features or classes; the message names the first.
        """
        from mlpbank import convert

        pairs = convert.keyed(models)
        columns = ModelColumns.new(make_table([key for key, _ in pairs]), version)
        if fallback is not None:
            check_key(fallback, columns.key_type, "fallback")
        scalers = (input_scaler, output_scaler)
        found, stacked, known = stack(
            pairs,
            architecture,
            _dtype_name(dtype),
            progress,
            input_scaler,
            output,
            (feature_names, classes),
            align_classes,
        )
        return cls._of(columns, found, stacked, scalers, dtype, layout, engine, fallback, known)

    def __len__(self) -> int:
        return len(self._now().slot_map.core)

    def __contains__(self, key: object) -> bool:
        return self._now().slot_map.slot(key) >= 0

    def __iter__(self) -> Iterator[Key]:
        return iter(self._now().slot_map.keys())

    def __getitem__(self, key: Key) -> Weights:
        """Return a model's weights as they are stored, see `BatchedWeights.get`.

        With ``"input_shift"`` (input_size,) float64 if the bank has one: the weights take ``x -
        input_shift``.
        """
        guard = self._slot_map.core.enter()  # leaves with this frame, whatever happens
        try:
            slot = self._slot_map.slot(key)
            if slot < 0:
                raise self._slot_map.unknown(key)
            weights: Weights = {**self._weights.get(slot)}
            if self.input_shift is not None:
                weights |= {"input_shift": self.input_shift}
            return weights
        except ModelNotLoadedError:  # removed in this moment
            raise UnknownModelError([key], 1) from None
        finally:
            guard.leave()

    def __setitem__(self, key: Key, model: Any) -> None:
        """Add or replace a model; the same as ``add(key, model)``."""
        self.add(key, model)

    def __delitem__(self, key: Key) -> None:
        """Remove a model. Predictions that run finish; later ones do not know its key."""
        self._slot_map.remove(key)

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
        """Add a model, or replace it in one step while others predict. An error changes nothing.

        Parameters
        ----------
        key : str, int or tuple of them
        model : mapping or model
            ``"layer_<i>"`` and ``"layer_<i>.bias"`` arrays as for `BatchedWeights.load`, which take
            x, or ``x - input_shift`` where the mapping has an ``"input_shift"``; or whatever
            `mlpbank.convert` takes.
        version : str, optional
            Kept for `info`.
        input_scaler, output_scaler : (mean, scale) or fitted scikit-learn scaler, optional
            The model was trained on ``(x - mean) / scale``, and its outputs times scale plus mean
            are what is wanted. They are folded into the first and last layer in float64, and cost
            nothing when predicting. An output scaler needs a last activation ``"none"``. int8
            weights lose accuracy by it, which is warned of.
        output : str or int, optional
            The result to take, by name or number, of a model that has several.
        align_classes : bool
            Take a classifier that has seen some of the bank's classes only, and give the others the
            probability 0. Without, other classes are refused. Features that the model names in
            another order come in the bank's; other ones are refused.
        check_finite : bool
            Refuse NaN and infinity.

        Raises
        ------
        KeyError, TypeError, ValueError
            Key or weights do not fit; see also `BatchedWeights.load`.
        """
        check_version(version)
        how = How(input_scaler, output_scaler, output, align_classes, check_finite)
        self._add(self._slot_map.check(key), model, version, how)

    def _add(self, key: Key, model: Any, version: str | None, how: How) -> None:
        """Add a model under a key that has been checked."""
        while True:
            decided = self._decided_now()
            arrays, found = self._place(key, model, how, decided)
            # The first model that knows something decides it, before it is there.
            if self._decide(decided, found):
                break  # else another thread was first
        try:
            # One step. The caller's code has run, and no exception can come in between.
            self._slot_map.core.add(key, version or "", time.time(), *arrays)
        except KeyTypeError:  # another thread has just added the first key
            self._slot_map.check(key)
            raise

    def _place(
        self, key: Key, model: Any, how: How, decided: Known | None
    ) -> tuple[tuple[Any, Any, Any], Known]:
        """Return the arrays of a model, and what the bank knows with it.

        `decided` is what it knows without, None if it never had a model.
        """
        given = decided or self._known
        if how.leaves_weights and given.input_shift is None:
            arrays = self._weights._core.ready_model(model)
            if arrays is not None:
                return arrays, given
        if decided is None and given.input_shift is None:
            given = given._replace(input_shift=UNDECIDED)
        if how.align_classes and decided is not None and decided.classes is None:
            raise InvalidValueError(
                f"bank[{key!r}]: align_classes: expected a bank that knows its classes, got one "
                "that does not; give it classes= when it is made"
            )
        weights, found = placed(key, model, self.architecture, self.dtype, how, given)
        return self._weights._collect(weights, (), how.check_finite), found

    def info(self, key: Key) -> ModelInfo:
        """Return version, revision and time of loading of a model.

        Raises
        ------
        UnknownModelError
            There is no such model.
        """
        return self._now().slot_map.info(key)

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
        keys = plain.keys
        if keys is None:
            keys = [str(i) for i in range(len(plain.versions))]
        self = cls.from_stacked(
            keys,
            plain.architecture,
            plain.weights,
            dtype=dtype,
            layout=layout,
            engine=engine,
            fallback=plain.fallback,
            version=plain.versions,
            feature_names=plain.feature_names,
            classes=plain.classes,
        )
        self._metadata = plain.metadata
        return self

    def __repr__(self) -> str:
        about = f"{self.architecture!r}, dtype={self.dtype!r}, layout={self.layout!r}"
        return f"<Bank of {len(self)}: {about}>"
