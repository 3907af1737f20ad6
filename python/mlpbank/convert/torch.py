"""PyTorch: modules whose forward is a chain of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from mlpbank.convert import _torch_fx
from mlpbank.convert._chain import Step, batch_norm, join, unsupported
from mlpbank.convert._torch_hooks import (
    has_known_hooks,
    hooked,
    require_known_parametrization,
    require_readable,
)
from mlpbank.convert._torch_mode import as_in_eval_mode
from mlpbank.convert._torch_parts import (
    OPTIONS,
    Chain,
    Plans,
    activation,
    dense,
    require_flat,
    to_numpy,
)
from mlpbank.convert._torch_tracer import WRAPPERS

_Reader = Callable[[Any, str, Chain, Plans], None]


def steps(
    module: Any, where: str = "", plans: Plans | None = None, output: str | int | None = None
) -> list[Step]:
    """Return the chain of steps that a module computes in eval mode.

    Parameters
    ----------
    module : torch.nn.Module
    where : str
        Its place, for messages.
    plans : dict, optional
        Keeps traced forwards. Pass one dict for all modules of one call.
    output : str or int, optional
        The result to take, of a forward that returns several.

    Raises
    ------
    UnsupportedLayerError
        The module is no such chain, or has an unsupported layer.
    """
    for name in _GLOBAL_HOOKS:
        if getattr(nn.modules.module, name, None):
            raise unsupported(
                where,
                f"PyTorch has hooks for every module ({name}), which may do anything; "
                "remove them first",
            )
    chain = Chain(output)
    collect(module, where, chain, {} if plans is None else plans)
    if output is not None and not chain.taken:
        raise unsupported(
            where,
            f"output={output!r}: {type(module).__name__} has one result; leave output out",
        )
    return chain


_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def collect(module: Any, where: str, chain: Chain, plans: Plans) -> None:
    """Append the steps of a module to a chain."""
    kind, own = type(module), module.__dict__
    read = _LAYERS.get(kind)  # exact types first, because this runs for all layers of all models
    if read is None and kind.__module__.startswith("torch."):
        require_readable(module, where)
        if kind.__name__ in WRAPPERS:
            _require_usual_wrapper(module, where)
            # No place of its own for what torch.compile returns: it looks like the module.
            place = where if kind.__name__ == "OptimizedModule" else join(where, "module")
            collect(getattr(module, WRAPPERS[kind.__name__]), place, chain, plans)
            return
    if own["_forward_pre_hooks"] and has_known_hooks(module):
        with as_in_eval_mode(module, where):
            collect(module, where, chain, plans)
        return
    if (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or "forward" in own
        or "_call_impl" in own
    ):
        raise hooked(module, where)
    if read is not None:
        if kind.forward is not _FORWARDS[kind] or kind.__call__ is not nn.Module.__call__:
            raise unsupported(
                where, f"the forward of {kind.__name__} was replaced by one that may do anything"
            )
        read(module, where, chain, plans)
    elif parametrize.is_parametrized(module):
        for name, functions in module.parametrizations.items():
            require_known_parametrization(functions, name, where)
        read = _inherited(kind.__mro__[1]) or _traced  # after the class that PyTorch made for it
        with as_in_eval_mode(module, where):
            read(module, where, chain, plans)
    elif read := _inherited(kind):
        read(module, where, chain, plans)
    elif kind.__module__.startswith("torch.") and not isinstance(module, fx.GraphModule):
        raise unsupported(where, f"{kind.__name__} is not supported")
    else:
        _traced(module, where, chain, plans)


def _traced(module: Any, where: str, chain: Chain, plans: Plans) -> None:
    _torch_fx.collect(module, where, chain, plans, collect)


def _require_usual_wrapper(module: Any, where: str) -> None:
    own, compiled = module.__dict__, module.__dict__.get("forward")
    usual = (
        compiled is None
        or hasattr(compiled, "_torchdynamo_orig_callable")
        or getattr(compiled, "__self__", None) is module
    )
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or not usual:
        raise hooked(module, where)


def _sequential(module: Any, where: str, chain: Chain, plans: Plans) -> None:
    if chain.output is None:
        for name, child in module._modules.items():
            collect(child, join(where, name), chain, plans)
        return
    output, last = chain.output, next(reversed(module._modules), None)
    for name, child in module._modules.items():
        chain.output = output if name == last else None
        collect(child, join(where, name), chain, plans)
    chain.output = output


def _linear(module: Any, where: str, chain: Chain, plans: Plans) -> None:
    if chain.is_vector:
        chain.require_rows(where, "Linear")
    chain.append(dense(module.weight, module.bias, where))


def _batch_norm(module: Any, where: str, chain: Chain, plans: Plans) -> None:
    chain.require_rows(where, "BatchNorm1d")
    if module.running_mean is None or module.running_var is None:
        raise unsupported(
            where,
            "BatchNorm1d without running statistics depends on the other rows; "
            "train it with track_running_stats=True",
        )
    mean, variance = to_numpy(module.running_mean, where), to_numpy(module.running_var, where)
    gamma = None if module.weight is None else to_numpy(module.weight, where)
    beta = None if module.bias is None else to_numpy(module.bias, where)
    chain.append(batch_norm(mean, variance, gamma, beta, module.eps, where))


def _flatten(module: Any, where: str, chain: Chain, plans: Plans) -> None:
    if (module.start_dim, module.end_dim) in ((0, -1), (0, 1)) and chain.row() == (1,):
        chain.is_vector = True
        return
    require_flat(module.start_dim, module.end_dim, where)


def _nothing(module: Any, where: str, chain: Chain, plans: Plans) -> None:
    pass


def _activation(name: str) -> _Reader:
    def read(module: Any, where: str, chain: Chain, plans: Plans) -> None:
        if name == "softmax":
            chain.require_rows(where, name)
        chain.append(
            activation(
                name, {option: getattr(module, option) for option in OPTIONS.get(name, ())}, where
            )
        )

    return read


_LAYERS: dict[Any, _Reader] = {
    nn.Sequential: _sequential,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.Flatten: _flatten,
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.AlphaDropout: _nothing,
    nn.ReLU: _activation("relu"),
    nn.Tanh: _activation("tanh"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.LeakyReLU: _activation("leaky_relu"),
    nn.ELU: _activation("elu"),
    nn.GELU: _activation("gelu"),
    nn.SiLU: _activation("silu"),
    nn.Softplus: _activation("softplus"),
    nn.CELU: _activation("celu"),
    nn.SELU: _activation("selu"),
    nn.Mish: _activation("mish"),
    nn.Hardswish: _activation("hardswish"),
    nn.Hardsigmoid: _activation("hardsigmoid"),
    nn.ReLU6: _activation("relu6"),
    nn.Hardtanh: _activation("hardtanh"),
    nn.Softsign: _activation("softsign"),
    nn.PReLU: _activation("prelu"),
    nn.Softmax: _activation("softmax"),
}


# The forwards of PyTorch, to notice if a program replaces one.
_FORWARDS: dict[Any, Any] = {kind: kind.forward for kind in _LAYERS}
# _READ: attributes by which layers are read. _IDLE: attributes that a subclass may define without
# a change of what it computes.
_READ = {"weight", "bias", "running_mean", "running_var", "training", "eps", "start_dim", "end_dim"}
_READ = _READ.union(*OPTIONS.values())
_IDLE = {
    "__init__",
    "__module__",
    "__doc__",
    "__qualname__",
    "__annotations__",
    "__repr__",
    "extra_repr",
}
_IDLE |= {
    "train",
    "eval",
    "state_dict",
    "load_state_dict",
    "_load_from_state_dict",
    "_save_to_state_dict",
}
_IDLE |= {
    "__dict__",
    "__weakref__",
    "__slots__",
    "__constants__",
    "__jit_unused_properties__",
    "reset_parameters",
}
_IDLE |= {
    "__static_attributes__",
    "__firstlineno__",
    "__annotate__",
    "__annotate_func__",
    "__annotations_cache__",
}


def _inherited(kind: Any) -> _Reader | None:
    """Return the reader of a subclass that computes the same as its base, else None."""
    for i, base in enumerate(kind.__mro__):
        if base in _LAYERS:
            known = _READ.union(dir(base)) - _IDLE
            own = any(known & set(vars(below)) for below in kind.__mro__[:i])
            return None if own or kind.forward is not _FORWARDS[base] else _LAYERS[base]
    return None
