"""The functions that a sign-gradient-descent neuron can compute, and what each does on a tie."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from spikeloom.kernel import vocabulary as words
from spikeloom.neurons.forms import NoForm

__all__ = ["FUNCTIONS", "Function", "as_function", "register"]


@dataclass(frozen=True)
class Function:
    """One function of one or two operands.

    Attributes:
        name: Its name; a function of one operand has that of the operation of torch that it
            computes.
        value: The function, in the words of :mod:`spikeloom.kernel.vocabulary`. Arguments with a
            default are its constants, under the names that torch's operation gives them.
        strict: On a tie (the estimate equals the value) the neuron emits 0 if strict, else 1.
        operands: One or two.
        sides: For a function with an inverse that is cheaper: the two sides of an equivalent
            comparison ``left > right``, given the estimate and the operands.
    """

    name: str
    value: Callable[..., Any]
    strict: bool = True
    operands: int = 1
    sides: Callable[..., tuple[Any, Any]] | None = None

    @property
    def constants(self) -> tuple[str, ...]:
        """The names of its constants."""
        arguments = inspect.signature(self.value).parameters.values()
        return tuple(each.name for each in arguments if each.default is not each.empty)

    def slopes(self) -> tuple[float, ...]:
        """The multiples of its operand whose largest the function is.

        Raises:
            NoForm: If it is none such.
        """
        constants = getattr(self.value, "keywords", {})
        slopes = {
            "relu": (1.0, 0.0),
            "leaky_relu": (1.0, constants.get("negative_slope", 0.01)),
            "abs": (1.0, -1.0),
            "identity": (1.0,),
        }
        # A function of the user's own may bear one of these names.
        value = getattr(self.value, "func", self.value)
        if self.name not in slopes or value is not FUNCTIONS[self.name].value:
            raise NoForm(
                f"there is no {self.name} to compare an estimate with",
                'use relu, leaky_relu, abs or identity, or allow on_inexact="extension"',
            )
        if max(slopes[self.name]) > 1:
            raise NoForm("a negative_slope above 1 makes it a minimum", "use a slope up to 1")
        return slopes[self.name]

    def is_above(self, y: Any, *x: Any) -> Any:
        """Whether the estimate ``y`` lies above the value: the bit that is sent."""
        left, right = (y, self.value(*x)) if self.sides is None else self.sides(y, *x)
        return left > right if self.strict else left >= right


def _leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    return words.where(x >= 0, x, negative_slope * x)


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1.0 + words.erf(x * math.sqrt(0.5)))


def _gelu_sigmoid(x: Any) -> Any:
    return x * words.sigmoid(1.702 * x)


def _gelu_tanh(x: Any) -> Any:
    return x * words.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))


def _silu(x: Any) -> Any:
    return x * words.sigmoid(x)


def _elu(x: Any, alpha: float = 1.0) -> Any:
    return words.where(x > 0, x, alpha * (words.exp(words.minimum(x, 0.0)) - 1.0))


def _softplus(x: Any, beta: float = 1.0) -> Any:
    z = beta * x
    return (words.relu(z) + words.log(1.0 + words.exp(-words.absolute(z)))) / beta


def _square(x: Any) -> Any:
    return x * x


def _sqrt(x: Any) -> Any:
    return words.sqrt(words.maximum(x, 0.0))  # an estimate of 0 is negative at every other step


def _reciprocal(x: Any) -> Any:
    return 1.0 / x


def _identity(x: Any) -> Any:
    return x


def _multiply(a: Any, b: Any) -> Any:
    return a * b


def _divide(a: Any, b: Any) -> Any:
    return a / b


def _mul_inverse_sqrt(a: Any, b: Any) -> Any:
    return a / words.sqrt(b)


def _without_division(y: Any, a: Any, b: Any) -> tuple[Any, Any]:
    # A negative b gives NaN, which compares as "not above".
    return words.sqrt(b) * y, a


# Ties: those of the published code where it has the function, strict elsewhere. ReLU's decides
# often, because a silent unit starts on its target.
FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function("relu", words.relu, strict=False),
        Function("leaky_relu", _leaky_relu),
        Function("gelu", _gelu),
        Function("gelu_sigmoid", _gelu_sigmoid),
        Function("gelu_tanh", _gelu_tanh),
        Function("silu", _silu),
        Function("sigmoid", words.sigmoid),
        Function("tanh", words.tanh),
        Function("elu", _elu),
        Function("softplus", _softplus),
        Function("abs", words.absolute),
        Function("square", _square, strict=False),
        Function("exp", words.exp, strict=False),
        Function("sqrt", _sqrt),
        Function("reciprocal", _reciprocal),
        Function("identity", _identity),
        Function("maximum", words.maximum, operands=2),
        Function("multiply", _multiply, strict=False, operands=2),
        Function("divide", _divide, operands=2),
        Function("mul_inverse_sqrt", _mul_inverse_sqrt, operands=2, sides=_without_division),
    )
}


def register(function: Function) -> None:
    """Make a function known by its name: to the neurons, to ``convert.SignGD``, and in files.

    ``convert.SignGD`` then lets one neuron compute the operation of torch of this name, with the
    constants of each call.

    Args:
        function: The function.

    Raises:
        TypeError: If it is no :class:`Function`.
        ValueError: If its name is taken, or torch's operation of this name has no argument that is
            called like one of its constants.

    Example:
        >>> from spikeloom.kernel.vocabulary import where
        >>> from spikeloom.neurons import SignGD
        >>> from spikeloom.neurons.signgd_functions import FUNCTIONS, Function, register
        >>> def hardshrink(x, lambd=0.5):
        ...     return where((x > lambd) | (x < -lambd), x, 0.0 * x)
        >>> register(Function("hardshrink", hardshrink))
        >>> SignGD("hardshrink", [1.0, 0.5], lambd=0.25).constants
        {'lambd': 0.25}
        >>> _ = FUNCTIONS.pop("hardshrink")  # and forget it again
    """
    if not isinstance(function, Function):
        raise TypeError(f"function: must be a Function, got {type(function).__name__}")
    if function.name in FUNCTIONS:
        raise ValueError(f"function: {function.name!r} is there already; take another name")
    _check_constants(function)
    FUNCTIONS[function.name] = function


def _check_constants(function: Function) -> None:
    """Refuse constants that no call of the operation of its name could give it."""
    namespace, _, name = function.name.rpartition("::")
    operation = getattr(getattr(torch.ops, namespace or "aten"), name, None)
    if not isinstance(operation, torch._ops.OpOverloadPacket):
        return
    schema = getattr(operation, operation.overloads()[0])._schema
    known = [argument.name for argument in schema.arguments]
    for constant in function.constants:
        if constant not in known:
            raise ValueError(
                f"function: the operation {function.name!r} has no argument {constant!r}; "
                f"name the constant as in the operation's schema: {', '.join(known)}"
            )


def as_function(function: str | Callable[..., Any] | Function, **constants: float) -> Function:
    """A function by its name, or one of your own.

    Args:
        function: A name in ``FUNCTIONS``; a Python function of one operand, written in the words
            of :mod:`spikeloom.kernel.vocabulary`; or a :class:`Function`, which also states its
            tie rule and its operands.
        constants: Of the function: ``negative_slope`` of leaky_relu, ``alpha`` of elu, ``beta`` of
            softplus, or your own function's.

    Raises:
        TypeError: If it is neither, or a constant does not belong to it.
        ValueError: If there is no such name, or a constant is not finite (beta: not positive).
    """
    if isinstance(function, str):
        if function not in FUNCTIONS:
            raise ValueError(
                f"function: must be one of {', '.join(FUNCTIONS)}; got {function!r}. One of your "
                f"own is known after neurons.signgd_functions.register(...) in this process"
            )
        found = FUNCTIONS[function]
    elif isinstance(function, Function):
        found = function
    elif callable(function):
        found = Function(getattr(function, "__name__", type(function).__name__), function)
    else:
        raise TypeError(f"function: must be a name or a function, got {function!r}")
    for name, value in constants.items():
        if name not in found.constants:
            known = ", ".join(found.constants) or "none"
            raise TypeError(f"function: {found.name} has no constant {name!r}; it has {known}")
        if not math.isfinite(value) or (name == "beta" and value <= 0):
            raise ValueError(f"{name}: must be finite, and beta positive; got {value}")
    if not constants:
        return found
    return replace(found, value=partial(found.value, **constants))
