"""Predicting with Ray: over datasets, and as a service.

A bank that was opened from a file or a live folder is sent as a reference; each process maps it,
and processes of a machine share its pages. Needs the extra ``ray``.

Examples
--------
>>> import mlpbank.ray  # doctest: +SKIP
>>> dataset.map_batches(
...     mlpbank.ray.Predictor,
...     fn_constructor_kwargs={"bank": bank, "key": "shop", "features": ["a", "b"]},
...     batch_format="pyarrow",
...     concurrency=2,
... )
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlpbank.bank import Bank
from mlpbank.errors import InvalidTypeError, InvalidValueError, MissingPackageError, MlpbankError
from mlpbank.serving import MicroBatcher, QueueFullError
from mlpbank.typing import Float32Array, Key, Missing

try:
    import pyarrow as pa
    import ray
except ImportError as error:
    raise MissingPackageError(
        f"mlpbank.ray needs {error.name}: pip install 'mlpbank[ray]'"
    ) from error

from mlpbank._ray_sharded import ShardedBank, ShardUnavailableError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["BankDeployment", "Predictor", "ShardUnavailableError", "ShardedBank"]


class Predictor:
    """What `ray.data.Dataset.map_batches` takes: adds a column of predictions to tables.

    Use it with ``batch_format="pyarrow"``; Ray makes it once for each actor.

    Parameters
    ----------
    bank : path-like, Bank or ObjectRef of a Bank
        A path opens what is there when the actor starts. A bank of a file goes as a reference, and
        another file in its place is refused. Any other goes with its weights: give
        ``ray.put(bank)``, so that each machine has them once.
    key, features, name, missing
        As for `Bank.predict_frame`.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.
    """

    def __init__(
        self,
        bank: str | os.PathLike[str] | Bank,
        *,
        key: str | list[str],
        features: Sequence[str] | None = None,
        name: str = "prediction",
        missing: Missing | None = None,
    ) -> None:
        self._bank = _opened(bank)
        self._how: dict[str, Any] = {
            "key": key,
            "features": features,
            "name": name,
            "missing": missing,
        }

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a table with the predictions behind its columns."""
        if not isinstance(batch, pa.Table):
            raise InvalidTypeError(
                f"batch: expected a pyarrow.Table, got {type(batch).__name__}; pass "
                "batch_format='pyarrow' to map_batches"
            )
        name = self._how["name"]
        found = self._bank.predict_frame(batch, **self._how)
        columns = found.columns if isinstance(found, pa.Table) else [found]
        for i, column in enumerate(columns):
            new = name if len(columns) == 1 else f"{name}_{i}"
            if new in batch.column_names:
                raise InvalidValueError(f"name: expected a new column, there is {new!r} already")
            batch = batch.append_column(new, column)
        return batch


class BankDeployment:
    """A service of Ray Serve over one bank: all keys in every replica, requests put together.

    ``app = serve.deployment(BankDeployment).bind("/banks/shops.mlpbank")`` makes it. By handle:
    ``await handle.predict.remote(key, x)``. Over HTTP: POST ``{"key": ..., "x": [...]}``, which
    answers ``{"prediction": [...]}``; 404 for unknown keys, 422 for other mistakes, 503 where too
    many requests wait.

    A live bank is followed: changes need no new deployment. ``user_config={"bank": path}`` moves
    running replicas to another file or folder, with no request lost: `reconfigure` opens it, and
    requests that are being answered end with the bank they began with.

    Parameters
    ----------
    bank : path-like or Bank
    missing : {"error", "nan", "fallback"}, optional
        As for `Bank.predict`.
    max_batch, max_wait, max_queue
        As for `MicroBatcher`.
    """

    def __init__(
        self,
        bank: str | os.PathLike[str] | Bank,
        *,
        missing: Missing | None = None,
        max_batch: int = 1024,
        max_wait: float = 0.001,
        max_queue: int = 16384,
    ) -> None:
        self._batcher = MicroBatcher(_opened(bank), max_batch, max_wait, max_queue)
        self._batcher.bank._checked_missing(missing)
        self._missing = missing

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Move to another bank of the same input and output size: ``{"bank": path}``."""
        unknown = set(user_config) - {"bank"}
        if unknown:
            raise InvalidValueError(f"user_config: expected 'bank' only, got {sorted(unknown)}")
        if "bank" in user_config:
            self._batcher.bank = _opened(user_config["bank"])

    async def predict(self, key: Key, x: Any) -> Float32Array:
        """Return the outputs of one model, as `MicroBatcher.predict` does."""
        return await self._batcher.predict(key, x, missing=self._missing)

    async def __call__(self, request: Request) -> Response:
        """Answer one request over HTTP."""
        from starlette.responses import JSONResponse

        try:
            body = await request.json()
            if not isinstance(body, dict) or set(body) != {"key", "x"}:
                raise InvalidValueError("expected a JSON object with 'key' and 'x'")
            key = tuple(body["key"]) if isinstance(body["key"], list) else body["key"]
            y = await self.predict(key, np.asarray(body["x"], np.float64))
        except KeyError as error:
            return JSONResponse({"detail": str(error)}, 404)
        except QueueFullError as error:
            return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})
        except (MlpbankError, ValueError, TypeError) as error:
            return JSONResponse({"detail": str(error)}, 422)
        return JSONResponse({"prediction": _finite(y.tolist())})


def _opened(bank: str | os.PathLike[str] | Bank) -> Bank:
    if isinstance(bank, (str, os.PathLike)):
        return Bank.open(bank)
    if isinstance(bank, ray.ObjectRef):  # Ray resolves none that are inside other arguments
        bank = ray.get(bank)
    if not isinstance(bank, Bank):
        raise InvalidTypeError(f"bank: expected a path or a Bank, got {bank!r:.80}")
    return bank


def _finite(values: Any) -> Any:
    """Return numbers as JSON has them, where NaN and infinity are null."""
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return values if math.isfinite(values) else None
