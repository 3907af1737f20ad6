"""Activation, LayerSpec and Architecture: the network that all models of a bank share."""

from __future__ import annotations

import enum
import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mlpbank import _core
from mlpbank.errors import InvalidTypeError, InvalidValueError, TooLargeError


class Activation(str, enum.Enum):
    """The function that a layer applies to its outputs.

    A plain string such as ``"relu"`` works wherever an Activation is expected. ``gelu`` is exact
    (erf); ``gelu_tanh`` is the tanh approximation. ``prelu`` is leaky_relu with one slope that each
    model has learned. ``softmax`` runs over all outputs of a row, on the last layer only.
    docs/activations.md has all formulas; `LayerSpec` takes the parameters of those that have some.
    """

    NONE = "none"
    RELU = "relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    LEAKY_RELU = "leaky_relu"
    ELU = "elu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    SOFTPLUS = "softplus"
    CELU = "celu"
    SELU = "selu"
    MISH = "mish"
    HARDSWISH = "hardswish"
    HARDSIGMOID = "hardsigmoid"
    RELU6 = "relu6"
    CLIP = "clip"
    SOFTSIGN = "softsign"
    EXP = "exp"
    EXPM1 = "expm1"
    PRELU = "prelu"
    SOFTMAX = "softmax"

    def __str__(self) -> str:
        return self.value


# The parameters of each activation that has some, in the order of the core, and their defaults.
PARAMETERS: dict[Activation, dict[str, float]] = {
    Activation.LEAKY_RELU: {"alpha": 0.01},
    Activation.ELU: {"alpha": 1.0},
    Activation.CELU: {"alpha": 1.0},
    Activation.HARDSIGMOID: {"alpha": float(str(np.float32(1 / 6))), "beta": 0.5},
    Activation.CLIP: {"low": -math.inf, "high": math.inf},
}
PARAMETER_NAMES = ("alpha", "beta", "low", "high")
_CELU_ALPHAS = (1e-6, 1e6)  # between these, x / alpha keeps its digits


def parameters_of(activation: Activation, given: Mapping[str, object]) -> tuple[float, ...]:
    """Return the values of an activation's parameters, in order, with defaults for the others.

    Kernels compute in float32. A value is the shortest number that float32 rounds as the given one,
    so 0.2 and what float32 makes of it are equal.

    Raises
    ------
    TypeError, ValueError
        The activation has no parameter of this name, or cannot have this value.
    """
    known = PARAMETERS.get(activation, {})
    if not known and not given:
        return ()
    for name, value in given.items():
        if name not in known:
            has = " and ".join(known) if known else "no parameters"
            raise InvalidValueError(
                f"{name}: activation {activation.value!r} has {has}, got {name}={value!r}"
            )
    values = tuple(
        _parameter(name, given[name]) if name in given else default
        for name, default in known.items()
    )
    _check_range(activation, dict(zip(known, values, strict=True)))
    return values


def _parameter(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"{name}: expected a number, got {value!r}")
    try:
        with np.errstate(over="ignore"):
            rounded = np.float32(float(value))
    except OverflowError:  # an int of many digits
        rounded = np.float32(math.nan)
    if math.isnan(rounded) or (math.isinf(rounded) and not math.isinf(value)):
        raise InvalidValueError(f"{name}: expected a number that float32 can hold, got {value!r}")
    return float(str(rounded)) + 0.0  # -0 becomes 0


def _check_range(activation: Activation, values: Mapping[str, float]) -> None:
    what = activation.value
    if activation is Activation.CLIP:
        low, high = values["low"], values["high"]
        if math.isinf(low) and math.isinf(high):
            raise InvalidValueError(f"low: expected a finite bound of {what!r}, low or high")
        if low > high or low == math.inf or high == -math.inf:
            raise InvalidValueError(
                f"low: expected at most high, which is {high!r}, for {what!r}, got {low!r}"
            )
        return
    for name, value in values.items():
        if math.isinf(value):
            raise InvalidValueError(f"{name}: expected a finite number for {what!r}, got {value!r}")
    if activation is Activation.CELU:
        lowest, highest = _CELU_ALPHAS
        if not lowest <= values["alpha"] <= highest:
            raise InvalidValueError(
                f"alpha: expected {lowest:g} to {highest:g} for {what!r}, got {values['alpha']!r}"
            )
    if activation is Activation.HARDSIGMOID and values["alpha"] <= 0:
        raise InvalidValueError(
            f"alpha: expected a positive number for {what!r}, got {values['alpha']!r}"
        )


def _activation(value: str | Activation) -> Activation:
    try:
        return Activation(value)
    except ValueError:
        known = ", ".join(repr(a.value) for a in Activation)
        raise InvalidValueError(f"activation: expected one of {known}, got {value!r}") from None


def _with_defaults(name: str, value: str | Activation) -> Activation:
    """Return an activation that needs no parameters. Errors call the argument `name`."""
    activation = _activation(value)
    if activation is Activation.CLIP:
        raise InvalidValueError(
            f"{name}: {activation.value!r} needs bounds, which mlp does not take; "
            "give Architecture layers such as LayerSpec(8, 4, 'clip', low=0, high=1)"
        )
    return activation


def as_index(value: object) -> int | None:
    """Return an integer of any kind as an int, and None for all else; truth is no number."""
    if isinstance(value, (bool, np.bool_)):  # NumPy's was an index until NumPy 2.3
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def positive_int(value: object, name: str) -> int:
    """Return `value` as an int. Errors call it `name`.

    Raises
    ------
    InvalidTypeError
        It is not an integer.
    InvalidValueError
        It is not positive.
    TooLargeError
        It does not fit in 63 bits.
    """
    number = as_index(value)
    if number is None:
        raise InvalidTypeError(f"{name}: expected a positive integer, got {value!r}")
    if number <= 0:
        raise InvalidValueError(f"{name}: expected a positive integer, got {number}")
    if number >= 2**63:
        raise TooLargeError(f"{name}: too large, got {number}")
    return number


@dataclass(frozen=True)
class LayerSpec:
    """One fully-connected layer, ``activation(x @ W + b)``.

    Parameters
    ----------
    input_size, output_size : int
        Numbers of inputs and outputs. W is (input_size, output_size), b is (output_size,).
    activation : Activation or str
        The function applied to the outputs.
    alpha : float, optional
        Of ``leaky_relu`` (0.01), ``elu`` (1), ``celu`` (1) and ``hardsigmoid`` (1/6). These
        defaults are PyTorch's. None for other activations.
    beta : float, optional
        Of ``hardsigmoid`` (0.5), which is ``alpha * x + beta`` between 0 and 1.
    low, high : float, optional
        The bounds of ``clip``, of which one may be left out.

    Raises
    ------
    TypeError, ValueError, OverflowError
        A size is not a positive integer of at most 63 bits, the activation is unknown, or it does
        not have a parameter or not with this value.

    Examples
    --------
    >>> LayerSpec(8, 4, "leaky_relu", alpha=0.2)
    LayerSpec(8, 4, 'leaky_relu', alpha=0.2)
    >>> LayerSpec(8, 4, "elu").alpha
    1.0
    """

    input_size: int
    output_size: int
    activation: Activation = Activation.NONE
    alpha: float | None = field(default=None, kw_only=True)
    beta: float | None = field(default=None, kw_only=True)
    low: float | None = field(default=None, kw_only=True)
    high: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_size", positive_int(self.input_size, "input_size"))
        object.__setattr__(self, "output_size", positive_int(self.output_size, "output_size"))
        object.__setattr__(self, "activation", _activation(self.activation))
        given = {
            name: value for name in PARAMETER_NAMES if (value := getattr(self, name)) is not None
        }
        if given or self.activation in PARAMETERS:
            values = parameters_of(self.activation, given)
            for name, value in zip(PARAMETERS[self.activation], values, strict=True):
                object.__setattr__(self, name, value)

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of the activation, by name. Those of ``clip`` may be infinite."""
        return {name: getattr(self, name) for name in PARAMETERS.get(self.activation, ())}

    def _two_parameters(self) -> tuple[float, float]:
        """Return the parameters as the core takes them, 0 where there is none."""
        first, second, *_ = (*self.parameters.values(), 0.0, 0.0)
        return first, second

    def _unusual(self) -> dict[str, float]:
        """Return the parameters that do not have their default."""
        defaults = PARAMETERS.get(self.activation, {})
        return {name: v for name, v in self.parameters.items() if v != defaults[name]}

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._unusual().items())
        return (
            f"LayerSpec({self.input_size}, {self.output_size}, {self.activation.value!r}{options})"
        )


class Architecture:
    """The layers of a network, first to last. Immutable, hashable and picklable.

    Parameters
    ----------
    layers : iterable of LayerSpec
        At least one. Each input size equals the output size of the layer before.

    Raises
    ------
    TypeError
        An element is not a LayerSpec.
    ValueError
        There is no layer, or two neighbours do not fit. The message names both sizes.
    OverflowError
        The parameters do not fit in the address space.

    Examples
    --------
    >>> Architecture([LayerSpec(32, 64, "relu"), LayerSpec(64, 1)]) == Architecture.mlp(32, 64, 1)
    True
    """

    __slots__ = ("_core", "_layers")

    def __init__(self, layers: Iterable[LayerSpec]) -> None:
        if not isinstance(layers, Iterable):
            raise InvalidTypeError(f"layers: expected LayerSpecs, got {layers!r}")
        self._layers = tuple(layers)
        for i, layer in enumerate(self._layers):
            if not isinstance(layer, LayerSpec):
                raise InvalidTypeError(f"layers[{i}]: expected a LayerSpec, got {layer!r}")
        self._core = _core.Architecture(
            [
                (
                    layer.input_size,
                    layer.output_size,
                    layer.activation.value,
                    *layer._two_parameters(),
                )
                for layer in self._layers
            ]
        )

    @classmethod
    def mlp(
        cls,
        *sizes: int,
        activation: str | Activation = "relu",
        output_activation: str | Activation = "none",
    ) -> Architecture:
        """Return the architecture with these layer sizes, input first.

        Parameters
        ----------
        *sizes : int
            At least two: ``mlp(32, 64, 1)`` has a layer 32 -> 64 and a layer 64 -> 1.
        activation, output_activation : Activation or str
            Activation of all layers but the last, and of the last.

        Raises
        ------
        TypeError, ValueError, OverflowError
            There are fewer than two sizes, `LayerSpec` refuses one of them, or the activation is
            ``clip``, which has no default bounds; layers of `LayerSpec` have bounds.
        """
        if len(sizes) < 2:
            raise InvalidValueError(
                f"sizes: expected at least two, an input and an output size, got {len(sizes)}"
            )
        activations = [("activation", activation)] * (len(sizes) - 2)
        activations.append(("output_activation", output_activation))
        return cls(
            LayerSpec(i, o, _with_defaults(name, value))
            for i, o, (name, value) in zip(sizes, sizes[1:], activations, strict=False)
        )

    def validate(self) -> None:
        """Check again what the constructor checked.

        Raises
        ------
        ValueError, OverflowError
            As for the constructor.
        """
        self._core.validate()

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layers, first to last."""
        return self._layers

    @property
    def input_size(self) -> int:
        """Number of inputs of the first layer."""
        return self._layers[0].input_size

    @property
    def output_size(self) -> int:
        """Number of outputs of the last layer."""
        return self._layers[-1].output_size

    @property
    def num_parameters(self) -> int:
        """Number of weights, biases and learned slopes of one model."""
        return self._core.num_parameters

    def __eq__(self, other: object) -> bool:
        return self._layers == other._layers if isinstance(other, Architecture) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._layers)

    def __repr__(self) -> str:
        return f"Architecture([{', '.join(map(repr, self._layers))}])"

    def __reduce__(self) -> tuple[type[Architecture], tuple[tuple[LayerSpec, ...]]]:
        return Architecture, (self._layers,)


def array_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of one model, by its name in a weights mapping."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, layer in enumerate(architecture.layers):
        shapes[f"layer_{i}"] = (layer.input_size, layer.output_size)
        shapes[f"layer_{i}.bias"] = (layer.output_size,)
        if layer.activation is Activation.PRELU:
            shapes[f"layer_{i}.slope"] = ()
    return shapes
