"""Hooks, parametrizations and modules of PyTorch that change what a module computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mlpbank.convert._chain import join, unsupported


def require_initialized(module: Any, where: str) -> None:
    """Raise if a module has lazy layers that have seen no rows."""
    for name, part in module.named_modules():
        if isinstance(part, LazyModuleMixin) and any(map(is_lazy, part._parameters.values())):
            place = join(where, name) if name else where
            raise unsupported(
                place,
                f"{type(part).__name__} has no parameters yet; call the model with some rows first",
            )


def require_readable(module: Any, where: str) -> None:
    """Raise for modules of PyTorch that have no parameters yet, or no code in Python."""
    name = type(module).__name__
    if isinstance(module, LazyModuleMixin):
        require_initialized(module, where)
    if isinstance(module, torch.jit.ScriptModule):
        raise unsupported(
            where,
            f"{name} is TorchScript, which is not read; pass the original module, as it was "
            "before torch.jit.script or torch.jit.trace, or export that to ONNX",
        )
    if isinstance(module, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    ):
        raise unsupported(
            where,
            f"{name} is the graph of torch.export, which is not read; pass the original module, "
            "as it was before the export, or export that to ONNX",
        )


def has_known_hooks(module: Any) -> bool:
    """Return whether a module has hooks of PyTorch that compute a parameter."""
    return any(map(_target, module._forward_pre_hooks.values()))


def require_known_parametrization(functions: Any, name: str, where: str) -> None:
    """Raise if others than PyTorch's own functions compute a parameter."""
    for part in (functions, *functions):
        if part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__:
            raise hooked(part, join(where, name))
    for function in functions:
        if not type(function).__module__.startswith("torch.nn.utils."):
            raise unsupported(
                where,
                f"the parametrization {type(function).__name__} of {name} may compute anything; "
                "torch.nn.utils.parametrize.remove_parametrizations makes it a parameter",
            )


def apply_known_hooks(module: Any, where: str) -> None:
    """Replace hooks of PyTorch that compute parameters by their results."""
    known = {i: hook for i, hook in module._forward_pre_hooks.items() if _target(hook)}
    targets = [_target(hook) for hook in known.values()]
    for target in targets:
        others = [other for other in targets if other.startswith(f"{target}_")]
        if others or targets.count(target) > 1:
            raise unsupported(
                where,
                f"the hooks of {type(module).__name__} for {', '.join(targets)} depend on each "
                f"other; {_REMOVE}",
            )
    for hook, target in zip(known.values(), targets, strict=True):
        with torch.no_grad():
            module.__dict__[target] = _computed(hook, module).detach()
    module.__dict__["_forward_pre_hooks"] = type(module._forward_pre_hooks)(
        (i, hook) for i, hook in module._forward_pre_hooks.items() if i not in known
    )


def _target(hook: Any) -> str:
    """Return the name of the parameter that a hook of PyTorch's computes, "" for other hooks."""
    kind = type(hook)
    if kind in (WeightNorm, SpectralNorm):
        usual = not {"compute_weight", "__call__"} & vars(hook).keys()
        return str(hook.name) if usual else ""
    base = prune.BasePruningMethod
    if isinstance(hook, base):
        usual = kind.__call__ is base.__call__ and kind.apply_mask is base.apply_mask
        return str(hook._tensor_name) if usual and "apply_mask" not in vars(hook) else ""
    return ""


def _computed(hook: Any, module: Any) -> Any:
    if type(hook) is SpectralNorm:
        return hook.compute_weight(module, do_power_iteration=False)
    return hook.compute_weight(module) if type(hook) is WeightNorm else hook.apply_mask(module)


_REMOVE = "torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm makes them fixed"


def hooked(module: Any, where: str) -> Exception:
    """Return the error for a module with hooks, or a call, that may compute anything."""
    name, own = type(module).__name__, module.__dict__
    for table, what in (
        ("_forward_pre_hooks", "forward pre-hook"),
        ("_forward_hooks", "forward hook"),
    ):
        for hook in own[table].values():
            called = getattr(hook, "__qualname__", type(hook).__name__)
            return unsupported(
                where,
                f"{name} has a {what} {called}, which may do anything; "
                "call remove() of the handle that registering it returned, then convert",
            )
    replaced = next((n for n in ("forward", "_call_impl") if n in own), "forward")
    return unsupported(
        where,
        f"{name} has a {replaced} of its own set on the instance, which may do anything; "
        "define it in the class",
    )
