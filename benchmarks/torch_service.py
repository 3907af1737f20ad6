"""The service of examples/service with a torch module for each model, called one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import app as service
from mlpbank import Bank

torch.set_num_threads(1)  # of small modules more are slower


class TorchBank(Bank):
    """A bank whose predictions torch computes."""

    def predict(self, keys: Any, x: Any, **options: Any) -> Any:
        """Send every row through the module of its key."""
        with torch.inference_mode():
            rows = torch.from_numpy(x)
            return np.stack(
                [self.module(key)(row).numpy() for key, row in zip(keys, rows, strict=True)]
            )

    def module(self, key: str) -> torch.nn.Module:
        """Return the module of a key, made when it is first asked for."""
        modules: dict[str, torch.nn.Module] = self.metadata.setdefault("modules", {})
        if key not in modules:
            weights = self[key]
            layers: list[torch.nn.Module] = []
            for i, spec in enumerate(self.architecture.layers):
                layer = torch.nn.Linear(spec.input_size, spec.output_size)
                layer.load_state_dict(
                    {
                        "weight": torch.from_numpy(weights[f"layer_{i}"]).T,
                        "bias": torch.from_numpy(weights[f"layer_{i}.bias"]),
                    }
                )
                layers += [
                    layer,
                    {"relu": torch.nn.ReLU(), "none": torch.nn.Identity()}[spec.activation.value],
                ]
            modules[key] = torch.nn.Sequential(*layers)
        return modules[key]


def open_bank(path: str) -> Bank:
    """Return the bank of a file, every module made."""
    bank: Any = TorchBank.open(path)
    for key in bank:
        bank.module(key)
    return bank  # type: ignore[no-any-return]


service.source.open_bank = open_bank  # when the worker starts
app = service.app
