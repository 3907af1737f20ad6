"""The accuracy that the flights bank keeps in each weight dtype; the table of docs/precision.md.

python examples/flights/precision.py
"""

import numpy as np

from mlpbank import BatchedInference
from mlpbank.cli.demo import load_bank, load_flights


def main() -> None:
    """Print a row for each dtype."""
    bank, flights = load_bank(), load_flights()
    stacked = bank.to_stacked().weights
    features, actual, models = (flights[name] for name in ("features", "arrival_delay", "model"))
    exact = None
    print("dtype      mean absolute error  mean and largest difference from float32 (minutes)  bytes")
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        inference = BatchedInference(len(bank), bank.architecture, dtype=dtype)
        inference.weights.load_stacked(stacked)
        predicted = inference.forward(features, models=models)[:, 0]
        exact = predicted if exact is None else exact
        difference = np.abs(predicted - exact)
        error = np.abs(predicted - actual).mean()
        nbytes = inference.weights.nbytes
        print(f"{dtype:10s} {error:19.3f} {difference.mean():14.4f} {difference.max():10.3f} {nbytes:30d}")


if __name__ == "__main__":
    main()
