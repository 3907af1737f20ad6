"""Training checkpoints: dicts that hold a state dict beside an optimizer, an epoch and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlpbank.errors import InvalidValueError, UnknownKeyError

# The names under which training code and libraries keep a model or a copy of it.
_USUAL = {
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"),
    *("weights", "model_weights", "ema", "model_ema", "ema_state_dict", "state_dict_ema"),
    *("ema_model", "ema_model_state_dict", "best_state_dict", "best_model"),
}
# What belongs to training: never a part of what the model computes.
_TRAINING = re.compile(
    r"optim|sched|callback|loop|hyper_?param|hparams|config|^args$|epoch|step|iter|loss|metric|"
    r"version|rng|random|seed|history|^lr$|^best_(?!state|model)|swa_|amp|"
    r"acc(uracy)?$|score|auc$|r2$|ma[ep]e?$|r?mse$|time|date|patience|batch_size|learning_rate",
    re.IGNORECASE,
)
# What may be a scaling of inputs or outputs, also where it is a plain number.
_SCALING = re.compile(r"mean|std|scale|norm|shift|offset|\bmin|\bmax", re.IGNORECASE)
_ARRAYS = {"weight", "kernel", "w", "W"}


def state_dict_of(params: Any, name: str | None = None) -> Any:
    """Return the parameters in a training checkpoint; anything else as it is.

    Parameters
    ----------
    params : mapping or other
    name : str, optional
        The entry to take, where a checkpoint has several.

    Raises
    ------
    UnknownKeyError
        There is no entry `name`.
    InvalidValueError
        Several entries could be the model, or one beside it could belong to the model.
    """
    if name is not None:
        if not isinstance(params, Mapping) or name not in params:
            got = ", ".join(map(str, params)) if isinstance(params, Mapping) else "no mapping"
            raise UnknownKeyError(f"checkpoint: expected an entry {name!r}, got {got:.300}")
        return state_dict_of(params[name])
    if not isinstance(params, Mapping) or "params" in params:  # `params` is a collection of Flax
        return params
    models = [key for key in params if _has_layers(params[key]) and not _is_training(key)]
    usual = [key for key in models if str(key).lower() in _USUAL]
    others = [key for key in params if key not in models and not _is_random(params[key])]
    if not models or not (others or len(usual) > 1):
        return params
    if any(hasattr(params[key], "shape") and not _is_training(key) for key in others):
        return params  # arrays beside it: a tree of parameters, to be read as such
    if len(models) > 1:
        raise InvalidValueError(
            f"checkpoint: expected one model, got {', '.join(map(repr, models))}; "
            f"give one of them, such as checkpoint[{models[0]!r}] "
            f"(mlpbank convert: --checkpoint {models[0]})"
        )
    for key in others:
        if _may_belong(str(key), params[key]):
            raise InvalidValueError(
                f"checkpoint: {key!r} beside {models[0]!r} may change what the model computes; "
                f"give checkpoint[{models[0]!r}] itself (mlpbank convert: --checkpoint "
                f"{models[0]}), and a scaler as input_scaler= or output_scaler="
            )
    return state_dict_of(params[models[0]])


def _is_training(key: Any) -> bool:
    return _TRAINING.search(str(key)) is not None and str(key).lower() not in _USUAL


def _is_random(value: Any) -> bool:
    """Return whether an entry is the random state of a dropout of Flax NNX, and nothing else."""
    if isinstance(value, Mapping):
        return len(value) > 0 and all(map(_is_random, value.values()))
    return type(value).__name__.startswith("Rng")


def _has_layers(value: Any) -> bool:
    """Return whether a mapping holds the matrix of a layer somewhere."""
    if not isinstance(value, Mapping):
        return False
    return any(
        _has_layers(part)
        if isinstance(part, Mapping)
        else hasattr(part, "shape") and str(key).rpartition(".")[2].rpartition("/")[2] in _ARRAYS
        for key, part in value.items()
    )


def _may_belong(key: str, value: Any) -> bool:
    """Return whether an entry beside a model may be a part of it, such as a scaler."""
    if _is_training(key) or (isinstance(value, Mapping) and "growth_factor" in value):
        return False  # the latter is a GradScaler
    if hasattr(value, "transform") or _SCALING.search(key):
        return True
    return _has_numbers(value)


def _has_numbers(value: Any) -> bool:
    """Return whether there is more in an entry than words, whole numbers and switches."""
    if isinstance(value, Mapping):
        return any(_has_numbers(part) or _SCALING.search(str(k)) for k, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return any(map(_has_numbers, value))
    return value is not None and not isinstance(value, (str, bytes, bool, int))
