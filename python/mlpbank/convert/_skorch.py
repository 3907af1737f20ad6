"""skorch: the module of a fitted net, what predict_proba does to its results, and its classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import skorch
import skorch.dataset
import skorch.utils
import torch
from torch.utils.data import DataLoader

from mlpbank.architecture import Activation
from mlpbank.convert import torch as _torch
from mlpbank.convert._chain import Activate, Dense, Step, join, unsupported
from mlpbank.convert._torch_parts import Plans
from mlpbank.errors import InvalidValueError, UnsupportedLayerError

_OWN: tuple[str, ...] = (
    "predict",
    "predict_proba",
    "forward",
    "forward_iter",
    "evaluation_step",
    "infer",
    "get_dataset",
    "get_iterator",
)
_OWN += ("_get_predict_nonlinearity",)
# What hands rows to the module, and the class that hands them on as they are.
_LOADERS: dict[str, Any] = {"dataset": skorch.dataset.Dataset, "iterator_valid": DataLoader}
# Options of these that change rows or their order.
_LOADING = ("collate_fn", "sampler", "batch_sampler", "shuffle", "drop_last", "length")


def steps(
    net: Any, where: str = "", plans: Plans | None = None, output: str | int | None = None
) -> list[Step]:
    """Return the steps of ``predict`` of a regressor, ``predict_proba`` of any other net.

    Raises
    ------
    UnsupportedLayerError
        The net has methods or loaders of its own, a threshold other than 0.5, or a module that is
        no chain of layers.
    ValueError
        The net is not initialized.
    """
    name = type(net).__name__
    if not getattr(net, "initialized_", False) or not hasattr(net, "module_"):
        place = f"{where}: " if where else ""
        raise InvalidValueError(
            f"{place}expected a fitted {name}, got one that is not; call fit or initialize"
        )
    _require_usual(net, where)
    if output not in (None, 0):
        raise unsupported(
            where,
            f"output={output!r}: predict of {name} takes the first result; convert its module_ "
            "for another",
        )
    chain = _module(net, join(where, "module_"), plans, output)
    return _with_nonlinearity(net, chain, where)


def classes(net: Any, outputs: int) -> tuple[int, ...] | None:
    """Return what ``predict`` of a classifier gives for each of its outputs: their numbers.

    skorch does not look at ``classes_`` there.

    Raises
    ------
    ValueError
        The net was given other classes.
    """
    if not predicts_classes(net) or outputs == 1:
        return None
    numbers = tuple(range(outputs))
    given = getattr(net, "classes", None)
    if given is not None and len(given) and list(given) != list(numbers):
        raise InvalidValueError(
            f"classes: {type(net).__name__} has classes={list(given)!r:.200}, but its predict "
            f"gives the numbers of outputs, 0 to {outputs - 1}; set its classes to None for these, "
            "and then give labels to what is converted: "
            "dataclasses.replace(convert.convert(net), classes=(...))"
        )
    return numbers


def predicts_classes(net: Any) -> bool:
    """Return whether ``predict`` is something else than ``predict_proba``."""
    return isinstance(net, (skorch.NeuralNetClassifier, skorch.NeuralNetBinaryClassifier))


def _require_usual(net: Any, where: str) -> None:
    name = type(net).__name__
    for method in _OWN:
        found = getattr(type(net), method, None)
        if method in vars(net) or not str(getattr(found, "__module__", "")).startswith("skorch."):
            raise unsupported(
                where,
                f"{name} has a {method} of its own, which may compute anything; "
                "convert its module_ instead",
            )
    for loader, usual in _LOADERS.items():
        options = [f"{loader}__{option}" for option in _LOADING]
        own = [option for option in options if vars(net).get(option)]
        if getattr(net, loader) is not usual or own:
            raise unsupported(
                where,
                f"{name} has {own[0] if own else f'a {loader}'} of its own, which may change rows; "
                "convert its module_ instead",
            )
    threshold = getattr(net, "threshold", 0.5)
    if isinstance(net, skorch.NeuralNetBinaryClassifier) and threshold != 0.5:
        raise unsupported(
            where,
            f"{name} has threshold={threshold!r}; labels of a bank are those of 0.5. Set it to 0.5 "
            "and compare the second column of predict with your threshold",
        )


def _module(net: Any, where: str, plans: Plans | None, output: Any) -> list[Step]:
    """Return the steps of the module's result, the first one of a tuple."""
    try:
        return _torch.steps(net.module_, where, plans, output)
    except UnsupportedLayerError:
        if output is not None:
            raise
        try:
            return _torch.steps(net.module_, where, plans, 0)
        except UnsupportedLayerError:
            pass
        raise


def _with_nonlinearity(net: Any, chain: list[Step], where: str) -> list[Step]:
    """Return the steps with what skorch appends by the criterion of the net."""
    function = None
    if net.predict_nonlinearity == "auto":
        function = skorch.utils._infer_predict_nonlinearity(net)
    elif net.predict_nonlinearity is not None:
        function = net.predict_nonlinearity
    place = join(where, "predict_nonlinearity")
    width = next(s.weight.shape[1] for s in reversed(chain) if isinstance(s, Dense))
    criteria = " and ".join(type(getattr(net, f"{name}_")).__name__ for name in net._criteria)
    if isinstance(net, skorch.NeuralNetBinaryClassifier) and width != 1:
        raise unsupported(place, f"expected one output of {type(net).__name__}, got {width}")
    if function is None or function is skorch.utils._identity:
        return chain
    if _is_softmax(function):
        if width == 1:  # that of a vector would run over rows
            raise unsupported(place, f"expected several outputs with {criteria}, got one")
        return [*chain, Activate(Activation.SOFTMAX, place)]
    to_both = function is skorch.utils._sigmoid_then_2d
    if to_both or function is skorch.utils._make_2d_probs:
        if width != 1:
            raise unsupported(place, f"expected one output with {criteria}, got {width}")
        if not to_both:
            return [*chain, Dense(np.array([[-1.0, 1.0]]), np.array([1.0, 0.0]), place)]
        return [*_of_two_classes(chain, place), Activate(Activation.SOFTMAX, place)]
    raise unsupported(
        where,
        f"{type(net).__name__} has the predict_nonlinearity {net.predict_nonlinearity!r}, which "
        "may compute anything; convert its module_ and apply it to the results",
    )


def _of_two_classes(chain: list[Step], place: str) -> list[Step]:
    """Return the steps of 0 and z. The sigmoid of z is the second of their softmax."""
    last = chain[-1]
    if not isinstance(last, Dense):
        return [*chain, Dense(np.array([[0.0, 1.0]]), None, place)]
    weight = np.concatenate([np.zeros_like(last.weight), last.weight], axis=1)
    bias = last.bias
    if bias is not None:
        bias = np.concatenate([np.zeros_like(bias), bias])
    return [*chain[:-1], Dense(weight, bias, last.where)]


def _is_softmax(function: Any) -> bool:
    return (
        isinstance(function, partial)
        and function.func is torch.softmax
        and not function.args
        and function.keywords == {"dim": -1}
    )
