"""The largest error of every activation over all 2^32 floats, against float64.

An hour for all activations; `--activations tanh,gelu` looks at some, `--step N` at every n-th
float. Errors are in units of the last place (ULP; of subnormal results: of 2^-149), and in eps =
2^-23, absolute or relative, whichever is less. softmax is no function of one number and left out;
its exponential is that of sigmoid. Parameters have their defaults; the bounds of clip are -1 and 1,
the slope of prelu is 0.25.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.step import Step
from benchmarks.table import Quantity, Row, Table
from mlpbank import Activation, Architecture, BatchedInference, Engine
from mlpbank._activations import activated
from mlpbank.bench.cases import layer
from mlpbank.bench.measure import Progress

Floats = npt.NDArray[np.float32]
CHUNK = 1 << 22
SLOPE = 0.25
NAMES = [a.value for a in Activation if a is not Activation.SOFTMAX]


class Ulp(Quantity):
    """An error in units of the last place."""

    unit = "ULP"


class Eps(Quantity):
    """An error in units of 2^-23."""

    unit = "eps"


class Elementwise:
    """An activation as the engine computes it: one layer 1 -> 1 of weight 1.

    The bias is -0, which keeps the sign of 0.
    """

    def __init__(self, activation: Activation, engine: Engine) -> None:
        self.layer = layer(1, 1, activation.value)
        weights = {"layer_0": [1.0], "layer_0.bias": [-0.0]}
        self.slope = SLOPE if activation is Activation.PRELU else None
        if self.slope is not None:
            weights["layer_0.slope"] = [self.slope]
        self.inference = BatchedInference(1, Architecture([self.layer]), engine, layout="panel")
        self.inference.load_weights(0, weights)

    def __call__(self, x: Floats) -> Floats:
        """Return the activation of every x."""
        return self.inference.forward(x.reshape(1, -1, 1)).reshape(-1)

    def exact(self, x: Floats) -> npt.NDArray[np.float64]:
        """Return the same in float64."""
        return activated(self.layer, x.astype(np.float64), self.slope)


def errors(y: Floats, truth: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return each error in ULP and in eps; infinite where only one is NaN or infinite."""
    with np.errstate(all="ignore"):
        rounded = truth.astype(np.float32)
        same = (rounded == y) | (np.isnan(rounded) & np.isnan(y))
        error = np.abs(y.astype(np.float64) - truth)
        error = np.where(np.isfinite(y) & np.isfinite(truth), error, np.inf)
        right = same & ~np.isfinite(truth)
        ulp = error / np.spacing(np.abs(rounded)).astype(np.float64)
        eps = np.minimum(error, error / np.abs(truth)) / 2.0**-23
        ulp, eps = np.where(right, 0.0, ulp), np.where(right, 0.0, eps)
    return np.where(np.isnan(ulp), 0.0, ulp), np.where(np.isnan(eps), 0.0, eps)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--activations", metavar="A,B,...", default=",".join(NAMES))
    parser.add_argument("--step", type=int, default=1, help="look at every n-th float only")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return a step for each activation."""
    engine = Engine(args.settings.threads, args.settings.isa)
    chosen = [Activation(name) for name in args.activations.split(",")]
    return [Step(a.value, partial(_largest, a, engine, args.step)) for a in chosen]


def _largest(activation: Activation, engine: Engine, step: int, progress: Progress) -> Table:
    compute = Elementwise(activation, engine)
    worst = [(0.0, np.float32(0)), (0.0, np.float32(0))]
    for start in range(0, 2**32, CHUNK * step):
        progress(start / 2**32, "every float")
        bits = np.arange(start, min(start + CHUNK * step, 2**32), step, dtype=np.uint64)
        x = bits.astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            truth = compute.exact(x)
        for i, error in enumerate(errors(compute(x), truth)):
            at = int(error.argmax())
            if error[at] > worst[i][0]:
                worst[i] = float(error[at]), x[at]
    (ulp, ulp_at), (eps, eps_at) = worst
    row: Row = {
        "": activation.value,
        "ULP": Ulp(ulp),
        "at": str(ulp_at),
        "eps": Eps(eps),
        "at (eps)": str(eps_at),
    }
    return Table(f"Largest error of {activation.value}, {engine.isa}", [row])
