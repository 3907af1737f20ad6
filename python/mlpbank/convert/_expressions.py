"""Functions of one number in a normal form, which is the same for many ways to write an activation.

An expression is a polynomial: a sum of products of powers of `x` and of functions of other
expressions. So ``0.5 * x * (1 + erf(x / sqrt(2)))`` equals ``x * (0.5 + 0.5 * erf(x * 0.7071))``.
Equal expressions prove that two functions agree for every x; a test with some numbers would not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from mlpbank.architecture import PARAMETERS, Activation
from mlpbank.convert._chain import Activate, activate
from mlpbank.errors import MlpbankError

# (name, arguments); ((factor, power), ...); ((product, coefficient), ...). All are sorted.
Factor = tuple[str, tuple[Any, ...]]
Product = tuple[tuple[Factor, int], ...]
Expression = tuple[tuple[Product, float], ...]

_MOST_TERMS, _MOST_PARTS = 16, 100  # more than any activation has; bounds untrusted input
_HIGHEST_POWER = 8
_LARGEST = 3.4028234e38  # of float32; as a bound of Clip it means none
# Far above the rounding of a constant to float32, far below a difference of two functions.
_TOLERANCE = 1e-6


class Unknown(MlpbankError, ValueError):
    """An expression that is no part of an activation."""


def _atom(name: str, *arguments: Expression) -> Expression:
    if sum(map(_parts, arguments)) > _MOST_PARTS:
        raise Unknown
    return (((((name, arguments), 1),), 1.0),)


def _parts(a: Expression) -> int:
    return sum(
        1 + sum(1 + sum(map(_parts, factor[1])) for factor, _ in product) for product, _ in a
    )


X: Expression = _atom("x")


def number(value: float) -> Expression:
    """Return a constant."""
    value = float(value)
    if not math.isfinite(value):
        raise Unknown
    return (((), value),) if value else ()


ZERO, ONE = number(0), number(1)


def add(*terms: Expression) -> Expression:
    """Return a sum."""
    total: dict[Product, float] = {}
    for term in terms:
        for product, coefficient in term:
            total[product] = total.get(product, 0.0) + coefficient
    if len(total) > _MOST_TERMS:
        raise Unknown
    return tuple(
        sorted((product, coefficient) for product, coefficient in total.items() if coefficient)
    )


def multiply(*factors: Expression) -> Expression:
    """Return a product, multiplied out."""
    result = ONE
    for factor in factors:
        result = add(*(((_times(a, b), i * j),) for a, i in result for b, j in factor))
    return result


def _times(a: Product, b: Product) -> Product:
    powers = dict(a)
    for factor, power in b:
        before = powers.get(factor, 0)
        if before * power < 0 or abs(before + power) > _HIGHEST_POWER:  # x / x is not 1 at x = 0
            raise Unknown
        powers[factor] = before + power
    return tuple(sorted(powers.items()))


def negative(a: Expression) -> Expression:
    """Return ``-a``."""
    return multiply(number(-1), a)


def subtract(a: Expression, b: Expression) -> Expression:
    """Return ``a - b``."""
    return add(a, negative(b))


def power(a: Expression, exponent: Expression) -> Expression:
    """Return a power. The exponent must be a small positive integer."""
    value = constant(exponent)
    if value is None or value != int(value) or not 1 <= value <= _HIGHEST_POWER:
        raise Unknown
    return multiply(*[a] * int(value))


def reciprocal(a: Expression) -> Expression:
    """Return ``1 / a``."""
    if not a:
        raise Unknown
    if len(a) == 1:
        ((product, coefficient),) = a
        return ((tuple((factor, -n) for factor, n in product), 1.0 / coefficient),)
    for product, _ in a:
        # 1 / (1 + exp(-y)) is sigmoid(y).
        if len(product) == 1 and product[0][0][0] == "exp" and product[0][1] == 1:
            (inner,) = product[0][0][1]
            if same(a, add(ONE, function("exp", inner))):
                return function("sigmoid", negative(inner))
    return (((((("sum", (a,)), -1),)), 1.0),)


def divide(a: Expression, b: Expression) -> Expression:
    """Return ``a / b``."""
    return multiply(a, reciprocal(b))


def constant(a: Expression) -> float | None:
    """Return the value of a constant expression, None for any other."""
    if not a:
        return 0.0
    return a[0][1] if len(a) == 1 and not a[0][0] else None


def function(name: str, *arguments: Expression) -> Expression:
    """Return a function of other expressions. Functions with several forms become one of them."""
    if name == "silu":
        return multiply(arguments[0], function("sigmoid", arguments[0]))
    if name == "relu":
        return maximum(ZERO, arguments[0])
    if name == "log1p":
        return function("log", add(ONE, arguments[0]))
    if name == "expm1":
        return subtract(function("exp", arguments[0]), ONE)
    if name == "less":
        return function("greater", *arguments[::-1])
    if name == "logaddexp" and ZERO in arguments:
        return function("softplus", *(a for a in arguments if a != ZERO))
    return _atom(name, *arguments)


def leaky_relu(a: Expression, slope: float) -> Expression:
    """Return leaky relu, for slopes from 0 to 1 as max(a, slope * a)."""
    leak = multiply(number(slope), a)
    if 0 <= slope < 1:
        return maximum(a, leak)
    return function("where", function("greater", a, ZERO), a, leak)


def maximum(*arguments: Expression) -> Expression:
    """Return the largest of several."""
    return arguments[0] if len(arguments) == 1 else _atom("max", *sorted(arguments))


def minimum(*arguments: Expression) -> Expression:
    """Return the smallest of several."""
    return arguments[0] if len(arguments) == 1 else _atom("min", *sorted(arguments))


def clip(a: Expression, low: float | None, high: float | None) -> Expression:
    """Return `a` clipped to two bounds, each of them None for no bound."""
    if low is not None and low > -_LARGEST:
        a = maximum(number(low), a)
    if high is not None and not high >= _LARGEST:
        a = minimum(number(high), a)
    return a


def same(a: Any, b: Any) -> bool:
    """Return whether two expressions are equal except for the rounding of their constants."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_TOLERANCE)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def _gelu(share: Expression) -> Expression:
    return multiply(number(0.5), X, share)


def _bent(below: Expression) -> list[Expression]:
    """Return the ways to choose between x and what stands for it below 0."""
    return [
        function("where", function("greater", X, ZERO), X, below),
        function("where", function("greater", ZERO, X), below, X),
    ]


def _forms() -> list[tuple[Activation, Expression]]:
    root = number(math.sqrt(0.5))
    tanh = multiply(number(math.sqrt(2 / math.pi)), add(X, multiply(number(0.044715), X, X, X)))
    sixth = number(1 / 6)
    return [
        (Activation.RELU, maximum(ZERO, X)),
        (Activation.RELU, multiply(X, function("greater", X, ZERO))),
        *((Activation.RELU, form) for form in _bent(ZERO)),
        (Activation.RELU6, clip(X, 0.0, 6.0)),
        (Activation.TANH, function("tanh", X)),
        (Activation.SIGMOID, function("sigmoid", X)),
        (Activation.GELU, function("gelu", X)),
        (Activation.GELU, _gelu(add(ONE, function("erf", multiply(X, root))))),
        (Activation.GELU, _gelu(function("erfc", negative(multiply(X, root))))),
        (Activation.GELU_TANH, function("gelu_tanh", X)),
        (Activation.GELU_TANH, _gelu(add(ONE, function("tanh", tanh)))),
        (Activation.GELU_TANH, multiply(X, function("sigmoid", multiply(number(2), tanh)))),
        (Activation.SILU, function("silu", X)),
        (Activation.SOFTPLUS, function("softplus", X)),
        (Activation.SOFTPLUS, function("log1p", function("exp", X))),
        (Activation.SELU, function("selu", X)),
        (Activation.MISH, function("mish", X)),
        (Activation.MISH, multiply(X, function("tanh", function("softplus", X)))),
        (Activation.MISH, multiply(X, function("tanh", function("log1p", function("exp", X))))),
        (Activation.HARDSWISH, function("hardswish", X)),
        (Activation.HARDSWISH, multiply(X, function("hardsigmoid", X, sixth, number(0.5)))),
        (Activation.HARDSWISH, multiply(X, clip(add(X, number(3)), 0.0, 6.0), sixth)),
        (Activation.HARDSWISH, multiply(X, clip(add(multiply(sixth, X), number(0.5)), 0.0, 1.0))),
        (Activation.HARDSIGMOID, multiply(clip(add(X, number(3)), 0.0, 6.0), sixth)),
        (Activation.SOFTSIGN, function("softsign", X)),
        (Activation.SOFTSIGN, divide(X, add(ONE, function("abs", X)))),
        (Activation.EXP, function("exp", X)),
        (Activation.EXPM1, function("expm1", X)),
        (Activation.NONE, X),
    ]


def _leaky_relu(alpha: float) -> list[Expression]:
    leak = multiply(number(alpha), X)
    below = multiply(number(alpha), maximum(ZERO, negative(X)))
    usual = [maximum(leak, X)] if 0 < alpha < 1 else []
    return [*usual, subtract(maximum(ZERO, X), below), *_bent(leak)]


def _elu(alpha: float) -> list[Expression]:
    below = multiply(number(alpha), function("expm1", X))
    return [function("elu", X, number(alpha)), *_bent(below)]


def _hardsigmoid(alpha: float, beta: float) -> list[Expression]:
    return [
        function("hardsigmoid", X, number(alpha), number(beta)),
        clip(add(multiply(number(alpha), X), number(beta)), 0.0, 1.0),
    ]


def _clip(low: float, high: float) -> list[Expression]:
    upper = X if math.isinf(high) else minimum(number(high), X)
    return [clip(X, low, high), upper if math.isinf(low) else maximum(number(low), upper)]


_FORMS = _forms()
# The forms of activations with parameters, made of parameters.
_FORMS_WITH: dict[Activation, Callable[..., list[Expression]]] = {
    Activation.LEAKY_RELU: _leaky_relu,
    Activation.ELU: _elu,
    Activation.CELU: lambda alpha: [function("celu", X, number(alpha))],
    Activation.CLIP: _clip,  # before hardsigmoid, which is the same with alpha 1 and beta 0
    Activation.HARDSIGMOID: _hardsigmoid,
}
_MOST_CONSTANTS = 6  # of an expression whose constants are tried as parameters


def _constants(a: Any) -> Iterator[float]:
    if isinstance(a, float):
        yield a
    elif isinstance(a, tuple):
        for part in a:
            yield from _constants(part)


def activation_of(expression: Expression) -> Activate | None:
    """Return the activation that equals an expression, None if mlpbank has none.

    Parameters are among the constants of the expression. Of each choice of them the forms are made
    and compared.
    """
    for activation, form in _FORMS:
        if same(expression, form):
            return activate(activation, "")
    constants = {*_constants(expression), 0.0, 1.0}
    if len(constants) > _MOST_CONSTANTS:
        return None
    for activation, forms in _FORMS_WITH.items():
        names = PARAMETERS[activation]
        tried = [constants | {default} for default in names.values() if math.isinf(default)]
        for values in itertools.product(*(tried or [constants] * len(names))):
            try:
                equal = any(same(expression, form) for form in forms(*values))
            except Unknown:
                continue
            if equal:
                return activate(activation, "", **dict(zip(names, values, strict=True)))
    return None
