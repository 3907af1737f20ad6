"""Functions of one number in a normal form, which is the same for many ways to write an activation.

An expression is a polynomial: a sum of products of powers of `x` and of functions of other
expressions. So ``0.5 * x * (1 + erf(x / sqrt(2)))`` equals ``x * (0.5 + 0.5 * erf(x * 0.7071))``.
Equal expressions prove that two functions agree for every x; a test with some numbers would not.
"""

from __future__ import annotations

import math
from typing import Any

from mlpbank.architecture import Activation
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
    """Return leaky relu as max(a, slope * a), which holds for slopes from 0 to 1."""
    if not 0 <= slope < 1:
        raise Unknown
    return maximum(a, multiply(number(slope), a))


def maximum(*arguments: Expression) -> Expression:
    """Return the largest of several."""
    return arguments[0] if len(arguments) == 1 else _atom("max", *sorted(arguments))


def clip(a: Expression, low: float | None, high: float | None) -> Expression:
    """Return `a` clipped to two bounds, each of them None for no bound."""
    if low is not None and low > -_LARGEST:
        a = maximum(number(low), a)
    if high is not None and not high >= _LARGEST:
        a = _atom("min", number(high), a)
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


def _forms() -> list[tuple[Activation, Expression]]:
    root = number(math.sqrt(0.5))
    tanh = multiply(number(math.sqrt(2 / math.pi)), add(X, multiply(number(0.044715), X, X, X)))
    positive, negative_x = function("greater", X, ZERO), function("greater", ZERO, X)
    leak = multiply(number(0.01), X)
    bent = {
        Activation.RELU: ZERO,
        Activation.LEAKY_RELU: leak,
        Activation.ELU: function("expm1", X),
    }
    forms = [
        (Activation.RELU, maximum(ZERO, X)),
        (Activation.RELU, multiply(X, positive)),
        (Activation.TANH, function("tanh", X)),
        (Activation.SIGMOID, function("sigmoid", X)),
        (Activation.LEAKY_RELU, maximum(leak, X)),
        (
            Activation.LEAKY_RELU,
            subtract(maximum(ZERO, X), multiply(number(0.01), maximum(ZERO, negative(X)))),
        ),
        (Activation.ELU, function("elu", X, ONE)),
        (Activation.GELU, function("gelu", X)),
        (Activation.GELU, _gelu(add(ONE, function("erf", multiply(X, root))))),
        (Activation.GELU, _gelu(function("erfc", negative(multiply(X, root))))),
        (Activation.GELU_TANH, function("gelu_tanh", X)),
        (Activation.GELU_TANH, _gelu(add(ONE, function("tanh", tanh)))),
        (Activation.GELU_TANH, multiply(X, function("sigmoid", multiply(number(2), tanh)))),
        (Activation.SILU, function("silu", X)),
        (Activation.SOFTPLUS, function("softplus", X)),
        (Activation.SOFTPLUS, function("log1p", function("exp", X))),
        (Activation.NONE, X),
    ]
    for activation, below in bent.items():
        forms += [
            (activation, function("where", positive, X, below)),
            (activation, function("where", negative_x, below, X)),
        ]
    return forms


_FORMS = _forms()


def activation_of(expression: Expression) -> Activation | None:
    """Return the activation that equals an expression, None if mlpbank has none."""
    return next((activation for activation, form in _FORMS if same(expression, form)), None)
