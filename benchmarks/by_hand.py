"""The models of a bank as other libraries have them, one by one, for contenders of engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlpbank import Bank

KEY = "flight"


class Models:
    """What makes the model of a key, from the weights of all: small to send."""

    def __init__(self, path: str) -> None:
        keys, self.architecture, weights = Bank.open(path).to_stacked()
        self.index = {key: i for i, key in enumerate(keys)}
        count = range(len(self.architecture.layers))
        self.weights = [weights[f"layer_{j}"] for j in count]
        self.biases = [weights[f"layer_{j}.bias"] for j in count]

    def sklearn(self, key: Any) -> Any:
        """Return an MLPRegressor."""
        from sklearn.neural_network import MLPRegressor

        i, layers = self.index[key], self.architecture.layers
        model = MLPRegressor(
            tuple(layer.output_size for layer in layers[:-1]),
            activation=layers[0].activation.value,
        )
        model.coefs_ = [weights[i] for weights in self.weights]
        model.intercepts_ = [biases[i] for biases in self.biases]
        model.n_layers_, model.n_outputs_, model.out_activation_ = len(layers) + 1, 1, "identity"
        model.n_features_in_ = self.architecture.input_size
        return model

    def torch(self, key: Any) -> Any:
        """Return a torch.nn.Sequential."""
        import torch

        torch.set_num_threads(1)  # of small modules more are slower
        i = self.index[key]
        modules: list[Any] = []
        for weights, biases in zip(self.weights, self.biases, strict=True):
            linear = torch.nn.Linear(*weights.shape[1:])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weights[i].T.copy()))
                linear.bias.copy_(torch.from_numpy(biases[i]))
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])


class TorchLoop:
    """An actor that groups each batch by key and calls a torch module for each, made once."""

    def __init__(self, models: Models, names: Sequence[str]) -> None:
        self._names = list(names)
        self._modules = {key: models.torch(key) for key in models.index}

    def __call__(self, batch: Any) -> Any:
        """Return the batch with predictions."""
        import pandas
        import torch

        found = []
        with torch.inference_mode():
            for key, group in batch.groupby(KEY):
                x = torch.from_numpy(group[self._names].to_numpy(np.float32))
                found.append(group.assign(prediction=self._modules[key](x)[:, 0].numpy()))
        return pandas.concat(found)
