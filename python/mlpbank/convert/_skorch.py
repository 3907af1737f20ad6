"""skorch: the module of a fitted net, and what predict_proba does to its results."""

from __future__ import annotations

from typing import Any

import numpy as np
import skorch
import torch
from skorch.utils import _infer_predict_nonlinearity

from mlpbank.architecture import Activation
from mlpbank.convert import torch as _torch
from mlpbank.convert._chain import Activate, Dense, Step, join, unsupported
from mlpbank.convert._torch_parts import Plans
from mlpbank.errors import InvalidValueError

_OWN: tuple[str, ...] = (
    "predict",
    "predict_proba",
    "forward",
    "forward_iter",
    "evaluation_step",
    "infer",
)
_OWN += ("_get_predict_nonlinearity",)


def steps(
    net: Any, where: str = "", plans: Plans | None = None, output: str | int | None = None
) -> list[Step]:
    """Return the steps of ``predict`` of a regressor, ``predict_proba`` of any other net.

    Raises
    ------
    UnsupportedLayerError
        The net has methods of its own, or the module is no chain of layers.
    ValueError
        The net is not initialized.
    """
    name = type(net).__name__
    if not getattr(net, "initialized_", False) or not hasattr(net, "module_"):
        place = f"{where}: " if where else ""
        raise InvalidValueError(
            f"{place}expected a fitted {name}, got one that is not; call fit or initialize"
        )
    for method in _OWN:
        found = getattr(type(net), method, None)
        if method in vars(net) or not str(getattr(found, "__module__", "")).startswith("skorch."):
            raise unsupported(
                where,
                f"{name} has a {method} of its own, which may compute anything; "
                "convert its module_ instead",
            )
    chain = _torch.steps(net.module_, join(where, "module_"), plans, output)
    if isinstance(net, skorch.NeuralNetRegressor):
        is_plain = net.predict_nonlinearity in ("auto", None)
        if not is_plain or _infer_predict_nonlinearity(net).__name__ != "_identity":
            raise _unknown(net, where)
        return chain
    return chain + _nonlinearity(net, chain, where)


def _nonlinearity(net: Any, chain: list[Step], where: str) -> list[Step]:
    """Return the steps that skorch appends by the criterion of the net."""
    if net.predict_nonlinearity is None:
        return []
    if net.predict_nonlinearity != "auto":
        raise _unknown(net, where)
    place = join(where, "predict_nonlinearity")
    criteria = [getattr(net, f"{name}_") for name in net._criteria]
    kind = type(criteria[0]) if len(criteria) == 1 else None
    if kind is torch.nn.CrossEntropyLoss:
        return [Activate(Activation.SOFTMAX, place)]
    if kind is torch.nn.BCEWithLogitsLoss:
        width = next(s.weight.shape[1] for s in reversed(chain) if isinstance(s, Dense))
        if width != 1:
            raise unsupported(place, f"expected one output with {kind.__name__}, got {width}")
        # skorch gives both classes, and sigmoid(z) is the second of softmax([0, z]).
        both = Dense(np.array([[0.0, 1.0]]), None, place)
        return [both, Activate(Activation.SOFTMAX, place)]
    if kind is torch.nn.BCELoss:
        place = join(where, "predict_nonlinearity")
        return [Dense(np.array([[-1.0, 1.0]]), np.array([1.0, 0.0]), place)]
    if _infer_predict_nonlinearity(net).__name__ != "_identity":
        raise _unknown(net, where)
    return []


def _unknown(net: Any, where: str) -> Exception:
    return unsupported(
        where,
        f"{type(net).__name__} has the predict_nonlinearity {net.predict_nonlinearity!r}, which "
        "may compute anything; convert its module_ and apply it to the results",
    )
