"""PyTorch: modules whose forward is a chain of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from mlpbank.architecture import Activation
from mlpbank.convert import _torch_fx
from mlpbank.convert._chain import Activate, Step, batch_norm, join, unsupported
from mlpbank.convert._torch_parts import (
    OPTIONS,
    SQUEEZED,
    Plans,
    activation,
    dense,
    require_flat,
    to_numpy,
)

_Reader = Callable[[Any, str, list[Step], Plans], None]


def steps(module: Any, where: str = "", plans: Plans | None = None) -> list[Step]:
    """Return the chain of steps that a module computes in eval mode.

    Parameters
    ----------
    module : torch.nn.Module
    where : str
        Its place, for messages.
    plans : dict, optional
        Keeps traced forwards. Pass one dict for all modules of one call.

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
    chain: list[Step] = []
    collect(module, where, chain, {} if plans is None else plans)
    squeezed = False
    for step in chain:
        if not isinstance(step, Activate):
            continue
        squeezed |= step.activation is SQUEEZED.activation
        if squeezed and step.activation is Activation.SOFTMAX:
            raise unsupported(step.where, "softmax after a squeeze runs over rows")
    return chain


_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def collect(module: Any, where: str, chain: list[Step], plans: Plans) -> None:
    """Append the steps of a module to a chain."""
    kind = type(module)
    # torch.compile returns an OptimizedModule.
    if kind.__name__ == "OptimizedModule" and kind.__module__.startswith("torch."):
        compiled = module.__dict__.get("forward")
        usual = (
            hasattr(compiled, "_torchdynamo_orig_callable")
            or getattr(compiled, "__self__", None) is module
        )
        if module._forward_hooks or module._forward_pre_hooks or not usual:
            raise _hooked(module, where)
        module = module._orig_mod
        kind = type(module)
    own = module.__dict__
    if (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or "forward" in own
        or "_call_impl" in own
    ):
        raise _hooked(module, where)
    read = _LAYERS.get(kind)  # exact types first, because this runs for all layers of all models
    if read is None:
        read = (
            _parametrized(module, where)
            if parametrize.is_parametrized(module)
            else _inherited(kind)
        )
    elif kind.forward is not _FORWARDS[kind] or kind.__call__ is not nn.Module.__call__:
        raise unsupported(
            where, f"the forward of {kind.__name__} was replaced by one that may do anything"
        )
    if read is not None:
        read(module, where, chain, plans)
    elif kind is nn.DataParallel:
        collect(module.module, join(where, "module"), chain, plans)
    elif kind.__module__.startswith("torch.") and not isinstance(module, fx.GraphModule):
        raise unsupported(where, f"{kind.__name__} is not supported")
    else:
        _torch_fx.collect(module, where, chain, plans, collect)


def _sequential(module: Any, where: str, chain: list[Step], plans: Plans) -> None:
    for name, child in module._modules.items():
        collect(child, join(where, name), chain, plans)


def _linear(module: Any, where: str, chain: list[Step], plans: Plans) -> None:
    chain.append(dense(module.weight, module.bias, where))


def _batch_norm(module: Any, where: str, chain: list[Step], plans: Plans) -> None:
    if module.training:
        raise unsupported(where, "BatchNorm1d is in training mode; call model.eval() first")
    if module.running_mean is None or module.running_var is None:
        raise unsupported(where, "BatchNorm1d without running statistics depends on the other rows")
    mean, variance = to_numpy(module.running_mean, where), to_numpy(module.running_var, where)
    gamma = None if module.weight is None else to_numpy(module.weight, where)
    beta = None if module.bias is None else to_numpy(module.bias, where)
    chain.append(batch_norm(mean, variance, gamma, beta, module.eps, where))


def _flatten(module: Any, where: str, chain: list[Step], plans: Plans) -> None:
    require_flat(module.start_dim, module.end_dim, where)


def _nothing(module: Any, where: str, chain: list[Step], plans: Plans) -> None:
    pass


def _activation(name: str) -> _Reader:
    def read(module: Any, where: str, chain: list[Step], plans: Plans) -> None:
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


def _parametrized(module: Any, where: str) -> _Reader | None:
    """Return the reader of a module whose parameters functions of PyTorch compute."""
    for name, functions in module.parametrizations.items():
        if (
            functions._forward_hooks
            or functions._forward_pre_hooks
            or "forward" in functions.__dict__
        ):
            raise _hooked(functions, join(where, name))
        for function in functions:
            place = f"the parametrization {type(function).__name__} of {name}"
            if not type(function).__module__.startswith("torch.nn.utils."):
                raise unsupported(
                    where,
                    f"{place} may compute anything; "
                    "torch.nn.utils.parametrize.remove_parametrizations makes it a parameter",
                )
            if function.training and type(function).__name__ == "_SpectralNorm":
                raise unsupported(where, f"{place} is in training mode; call model.eval() first")
            if (
                function._forward_hooks
                or function._forward_pre_hooks
                or "forward" in function.__dict__
            ):
                raise _hooked(function, join(where, name))
    return _inherited(type(module).__mro__[1])  # after the class that PyTorch made for the module


def _hooked(module: Any, where: str) -> Exception:
    what = (
        f"{type(module).__name__} has forward hooks, or a forward of its own, that may do anything"
    )
    return unsupported(where, what)
