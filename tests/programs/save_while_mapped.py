"""Save over a bank file that is mapped by another process: save_while_mapped.py PATH."""

from __future__ import annotations

import sys

from mlpbank import Bank

bank = Bank.open(sys.argv[1])
for key in list(bank)[2:]:
    del bank[key]
bank["a"] = {"layer_0": [[0.0] * 5] * 3, "layer_1": [[0.0] * 2] * 5, "layer_1.bias": [7, 8]}
bank.save(sys.argv[1])
