"""The largest error of every activation over all 2^32 floats, against float64.

    python tests/helpers/activation_errors.py  # every activation, the fastest instruction set; an hour
    python tests/helpers/activation_errors.py tanh gelu --isa avx2

Prints, for each, the largest error in units of the last place (of subnormal results: of 2^-149), the largest in units
of 2^-23 counted absolutely or relatively, whichever is less, and where each occurs. softmax, which is no function of
one number, is left out; its exponential is that of sigmoid.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from mlpbank import Activation, Architecture, BatchedInference, Engine, LayerSpec, available_isas
from mlpbank._activations import ACTIVATIONS

Floats = npt.NDArray[np.float32]
CHUNK = 1 << 22


class Elementwise:
    """An activation as the engine computes it: a layer 1 -> 1, weight 1 and bias -0, which keeps the sign of 0."""

    def __init__(self, activation: Activation, isa: str) -> None:
        self.bank = BatchedInference(1, Architecture([LayerSpec(1, 1, activation)]), Engine(isa=isa), layout="panel")
        self.bank.load_weights(0, {"layer_0": [1.0], "layer_0.bias": [-0.0]})

    def __call__(self, x: Floats) -> Floats:
        """Return the activation of every x."""
        return self.bank.forward(x.reshape(1, -1, 1)).reshape(-1)


def errors(x: Floats, y: Floats, truth: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return each error in ULP and in eps; infinite where only one of the two is NaN or infinite."""
    with np.errstate(all="ignore"):
        rounded = truth.astype(np.float32)
        same = (rounded == y) | (np.isnan(rounded) & np.isnan(y))
        error = np.abs(y.astype(np.float64) - truth)
        error = np.where(np.isfinite(y) & np.isfinite(truth), error, np.inf)
        ulp = np.where(same & ~np.isfinite(truth), 0.0, error / np.spacing(np.abs(rounded)).astype(np.float64))
        eps = np.where(same & ~np.isfinite(truth), 0.0, np.minimum(error, error / np.abs(truth)) / 2.0**-23)
    return np.where(np.isnan(ulp), 0.0, ulp), np.where(np.isnan(eps), 0.0, eps)


def main() -> None:
    """Print one line for each activation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [a.value for a in Activation if a is not Activation.SOFTMAX]
    parser.add_argument("activations", nargs="*", default=names, metavar="ACTIVATION")
    parser.add_argument("--isa", default=available_isas()[0])
    parser.add_argument("--step", type=int, default=1, help="look at every n-th float only")
    args = parser.parse_args()
    for name in args.activations:
        activation = Activation(name)
        compute = Elementwise(activation, args.isa)
        worst = [(0.0, np.float32(0)), (0.0, np.float32(0))]
        for start in range(0, 2**32, CHUNK * args.step):
            bits = np.arange(start, min(start + CHUNK * args.step, 2**32), args.step, dtype=np.uint64)
            x = bits.astype(np.uint32).view(np.float32)
            with np.errstate(all="ignore"):
                truth = ACTIVATIONS[activation](x.astype(np.float64))
            for i, error in enumerate(errors(x, compute(x), truth)):
                at = int(error.argmax())
                if error[at] > worst[i][0]:
                    worst[i] = float(error[at]), x[at]
        (ulp, ulp_at), (eps, eps_at) = worst
        print(f"{name:10s} {args.isa:8s} {ulp:10.2f} ULP at {ulp_at!s:15s} {eps:6.2f} eps at {eps_at!s}", flush=True)


if __name__ == "__main__":
    main()
