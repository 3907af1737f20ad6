"""The accuracy that the flights bank keeps in each weight dtype: the table of docs/precision.md."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np

from benchmarks.step import Step
from benchmarks.table import Quantity, Row, Table
from mlpbank import BatchedInference, Engine
from mlpbank.bench.cases import DTYPES
from mlpbank.bench.contender import Settings
from mlpbank.bench.measure import Progress
from mlpbank.cli.demo import load_bank, load_flights


class Minutes(Quantity):
    """A time."""

    unit = "min"


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the one step."""
    return [Step("precision", partial(_precision, args.settings))]


def _precision(settings: Settings, progress: Progress) -> Table:
    bank, flights = load_bank(), load_flights()
    *_, weights = bank.to_stacked()
    x, actual, slots = (flights[name] for name in ("features", "air_time", "model"))
    engine = Engine(settings.threads, settings.isa)
    exact = None
    rows: list[Row] = []
    for i, dtype in enumerate(DTYPES):
        progress(i / len(DTYPES), dtype)
        inference = BatchedInference(len(bank), bank.architecture, engine, dtype=dtype)
        inference.weights.load_stacked(weights)
        y = inference.forward(x, models=slots)[:, 0]
        exact = y if exact is None else exact
        difference = np.abs(y - exact)
        rows.append(
            {
                "": dtype,
                "mean absolute error": Minutes(np.abs(y - actual).mean()),
                "mean difference from float32": Minutes(difference.mean()),
                "largest": Minutes(difference.max()),
                "bytes": inference.weights.nbytes,
            }
        )
    return Table(f"{len(actual)} flights in {len(bank)} models", rows)
