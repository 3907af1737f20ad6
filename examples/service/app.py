"""A prediction service over a bank: one network for each flight number, replaced over HTTP."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, Strict

from api_page import api_page
from bank_source import BankSource, BankUnavailableError, bank_file
from body_limit import LimitBody
from live_source import LiveSource
from metrics import MODELS, RELOADS, ROWS, CountBatches, MeasureRequests, exposition
from mlpbank import Bank, BankFileError, UnknownModelError
from mlpbank.serving import MicroBatcher, QueueFullError

MAX_BODY = int(os.environ.get("MAX_BODY", 4 << 20))  # bytes
WATCH_SECONDS = float(os.environ.get("WATCH_SECONDS", 1))
SYNC = os.environ.get("BANK_SYNC", "commit")  # what a change of a live bank waits for
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # of /docs: nothing from other hosts
INLINE_ROWS = 100  # larger requests are worth a thread
# Or "blocking": docs/serving.md tells when to use which.
SINGLE_ROWS = os.environ.get("SINGLE_ROWS", "batcher")

# What float32 can hold: no NaN, no infinity, neither here nor after conversion.
Number = Annotated[float, Field(ge=-3.4e38, le=3.4e38, allow_inf_nan=False)]
IntKey = Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)]
ModelKey = (
    Annotated[str, Strict(), Field(min_length=1, max_length=200, examples=["UA 15 HNL"])] | IntKey
)
PathKey = Annotated[str, Path(min_length=1, max_length=200, examples=["UA 15 HNL"])]
ROW: list[Any] = [4963.0, 10.0, 0.0, 0.9, 2.5, 1.5, -0.5, 0.0]


class PredictRequest(BaseModel):
    """Rows, and the model that each goes through: any keys in any order."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"keys": ["UA 15 HNL"], "rows": [ROW]}]}
    )
    keys: Annotated[list[ModelKey], Field(min_length=1, max_length=10_000)]
    rows: Annotated[list[list[Number]], Field(min_length=1, max_length=10_000)]


class PredictResponse(BaseModel):
    """For each row the outputs of its model; null where one exceeds what float32 can hold."""

    predictions: list[list[float | None]] = Field(examples=[[[619.2]]])


class ModelRequest(BaseModel):
    """Weights of one model: for each layer a matrix (inputs, outputs) and, optionally, biases."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"version": "2", "weights": {"layer_0": [[0.1] * 8] * 8, "layer_1": [[1.0]] * 8}}
            ]
        },
    )
    weights: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^layer_\d+(\.bias)?$")],
            list[list[Number]] | list[Number],
        ],
        Field(min_length=1),
    ]
    version: Annotated[str, Field(max_length=200)] | None = None


class ModelResponse(BaseModel):
    """What is known about a model."""

    key: str | int
    version: str | None
    revision: int = Field(description="How often it was loaded under this key.")
    loaded_at: datetime
    weights: dict[str, Any] | None = Field(None, description="Only if asked for.")


class Problem(BaseModel):
    """Why a request failed."""

    detail: Any = Field(examples=["no such model: 'UA 0 HNL' (1 of 1 keys)"])


class Health(BaseModel):
    """What is served."""

    status: str = Field(description="ok, or why nothing can be predicted.")
    worker: int = Field(description="Process id.")
    models: int | None = Field(description="null where that cannot be told.")
    sequence: int | None = Field(description="The last change, of a live bank.")
    reloads: int
    architecture: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return responses for the OpenAPI description."""
    return {status: {"model": Problem} for status in statuses}


# When this module is imported, with gunicorn --preload before the fork: a file that is no bank ends
# the start at once.
path = bank_file()
source = LiveSource(path, SYNC) if path.is_dir() else BankSource(path)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the batcher and the watch for a new bank in this worker's event loop."""
    source.start()
    async with MicroBatcher(source.bank) as batcher:
        app.state.batcher = batcher
        app.state.count_batches = CountBatches(batcher)

        def use_new_bank() -> None:
            batcher.bank = source.bank

        watch = asyncio.create_task(source.watch(use_new_bank, WATCH_SECONDS))
        yield
        watch.cancel()


app = FastAPI(
    title="mlpbank example",
    description="One small network for each flight number: how long will it be in the air?",
    version="1",
    lifespan=lifespan,
    # FastAPI's pages come from another host, and are blank where that cannot be reached
    docs_url=None,
    redoc_url=None,
    responses=problems(400, 413, 422),
)
app.add_middleware(LimitBody, max_bytes=MAX_BODY)
app.add_middleware(MeasureRequests)


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong and where, without the input: it may be large, and NaN is not JSON."""
    detail = [{"loc": list(e["loc"]), "msg": e["msg"]} for e in error.errors()[:10]]
    return JSONResponse({"detail": detail}, 422)


@app.exception_handler(UnknownModelError)
async def unknown(request: Request, error: UnknownModelError) -> JSONResponse:
    """Answer 404 for models that do not exist."""
    return JSONResponse({"detail": str(error)}, 404)


@app.exception_handler(QueueFullError)
async def busy(request: Request, error: QueueFullError) -> JSONResponse:
    """Ask to come again."""
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


@app.exception_handler(BankUnavailableError)
async def changed(request: Request, error: BankUnavailableError) -> JSONResponse:
    """Ask to come again when there is a good bank: the watch looks for one."""
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


def path_key(bank: Bank, key: str) -> str | int:
    """Return the key that a URL names, of the bank's kind."""
    if bank.key_type is not int:
        return key
    if not re.fullmatch("0|-?[1-9][0-9]{0,18}", key) or not -(2**63) <= int(key) < 2**63:
        raise HTTPException(
            422, f"key: expected an int of 64 bits like the bank's keys, got {key!r}"
        )
    return int(key)


def body_keys(bank: Bank, keys: list[Any]) -> list[Any]:
    """Return the keys of a body if they are of the bank's kind."""
    kind = bank.key_type or str
    if set(map(type, keys)) != {kind}:
        i = next(i for i, key in enumerate(keys) if type(key) is not kind)
        raise HTTPException(
            422, f"keys[{i}]: expected {kind.__name__} like the bank's keys, got {keys[i]!r}"
        )
    return keys


@app.post("/predict", responses=problems(404, 503))
async def predict(body: PredictRequest, request: Request) -> PredictResponse:
    """Predict one or many rows, each with the model of its key."""
    size = source.bank.architecture.input_size
    if len(body.keys) != len(body.rows):
        raise HTTPException(
            422, f"expected a key for each row, got {len(body.keys)} keys and {len(body.rows)} rows"
        )
    for i, row in enumerate(body.rows):
        if len(row) != size:
            raise HTTPException(422, f"rows[{i}]: expected {size} numbers, got {len(row)}")
    x = np.array(body.rows, np.float32)
    with source.using() as bank:
        keys = body_keys(bank, body.keys)
        if len(x) > INLINE_ROWS:
            y = await bank.apredict(keys, x)
        elif len(x) > 1 or SINGLE_ROWS == "blocking":
            y = bank.predict(keys, x)
        else:
            y = (await request.app.state.batcher.predict(keys[0], x[0]))[None]
    ROWS.inc(len(x))
    request.app.state.count_batches.update()
    values = y.tolist()
    if not np.isfinite(y).all():
        values = [[v if math.isfinite(v) else None for v in row] for row in values]
    return PredictResponse.model_construct(predictions=values)


def expect_writable() -> None:
    """Answer 403 where this service may not write into the folder of its live bank."""
    if not source.writable:
        raise HTTPException(403, "this service may not change its bank")


@app.put("/models/{key}", responses={201: {"model": ModelResponse}, **problems(403, 503)})
def put_model(key: PathKey, body: ModelRequest, response: Response) -> ModelResponse:
    """Add a model, or replace it while others predict: with a live bank in all workers."""
    expect_writable()
    with source.using() as bank:
        name = path_key(bank, key)
        response.status_code = 200 if name in bank else 201
        try:
            weights = {
                layer: np.array(values, np.float32) for layer, values in body.weights.items()
            }
            bank.add(name, weights, version=body.version, check_finite=True)
        except BankFileError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(
                422, str(error.args[0] if isinstance(error, KeyError) else error)
            ) from error
        return describe(bank, name)


@app.get("/models/{key}", responses=problems(404, 503))
def get_model(key: PathKey, weights: bool = False) -> ModelResponse:
    """Describe a model."""
    with source.using() as bank:
        return describe(bank, path_key(bank, key), weights)


def describe(bank: Bank, key: str | int, weights: bool = False) -> ModelResponse:
    """Return what is known about a model."""
    info = bank.info(key)
    arrays = {name: array.tolist() for name, array in bank[key].items()} if weights else None
    return ModelResponse(
        key=key,
        version=info.version,
        revision=info.revision,
        loaded_at=info.loaded_at,
        weights=arrays,
    )


@app.delete(
    "/models/{key}", status_code=204, response_model=None, responses=problems(403, 404, 503)
)
def delete_model(key: PathKey) -> None:
    """Remove a model: with a live bank in all workers."""
    expect_writable()
    with source.using() as bank:
        del bank[path_key(bank, key)]


@app.get("/healthz", responses={503: {"model": Health}})
async def healthz(response: Response) -> Health:
    """Say that this worker runs, and with what; 503 if its bank cannot be used."""
    bank, status = source.bank, "ok"
    models = sequence = None
    try:
        source.check()
    except BankUnavailableError as error:
        response.status_code, status = 503, str(error)
    with suppress(BankFileError, OSError):
        models, sequence = len(bank), getattr(bank, "sequence", None)
    return Health(
        status=status,
        worker=os.getpid(),
        models=models,
        sequence=sequence,
        reloads=source.reloads,
        architecture=repr(bank.architecture),
    )


@app.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """Describe everything, as a page."""
    return HTMLResponse(api_page(app.openapi()), headers={"Content-Security-Policy": POLICY})


@app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics() -> Response:
    """Return counters in Prometheus' text form."""
    with suppress(BankFileError, OSError):
        MODELS.set(len(source.bank))
    RELOADS.set(source.reloads)
    return Response(exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
