"""exp, log and erf on vectors of neurons.

In float32 each is a polynomial or rational of our own fit, written in vector instructions, with
the largest errors that the tests assert: exp 1, log 1.5 and erf 5 units in the last place.
In float64 the C library's functions are called neuron by neuron: exactness there is for checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spikeloom.kernel.llvm_text import Lanes

# exp(r) = 1 + r + r**2 Q(r) on |r| <= ln(2) / 2.
EXP = (1.3934545e-3, 8.3637768e-3, 4.1666456e-2, 1.6666573e-1, 0.5, 1.0, 1.0)
# log(1 + f) = f - f**2 / 2 + f**3 P(f) on sqrt(1/2) <= 1 + f <= sqrt(2).
LOG = (
    0.07149753719568253,
    -0.115712009370327,
    0.11661510914564133,
    -0.12411050498485565,
    0.14249937236309052,
    -0.1666848063468933,
    0.20000708103179932,
    -0.24999989569187164,
    0.3333333134651184,
)
# erf(x) = x A(x**2) / B(x**2) on |x| <= 3.925; beyond, erf is 1 in float32.
ERF_A = (
    -1.2829818096804502e-08,
    4.6148179535521194e-06,
    0.0003769699251279235,
    0.003839491168037057,
    0.05424955487251282,
    0.18514183163642883,
    1.128379225730896,
)
ERF_B = (
    6.245163967832923e-05,
    0.001301982905715704,
    0.01543253380805254,
    0.11388062685728073,
    0.4974110722541809,
    1.0,
)
# ln(2) in two parts; the first has few bits, so its small multiples are exact.
LN2_HIGH = 0.693359375
LN2_LOW = math.log(2.0) - LN2_HIGH


def apply(lanes: Lanes, name: str, x: str) -> str:
    """``exp``, ``log`` or ``erf`` of a vector."""
    if lanes.real == "double":
        results = [lanes.f.call("double", name, ("double", a)) for a in lanes.per_lane(x, "double")]
        return lanes.gathered(results)
    return {"exp": _exp, "log": _log, "erf": _erf}[name](lanes, x)


def _fma(lanes: Lanes, a: str, b: str, c: str) -> str:
    return lanes.intrinsic("fma", a, b, c)


def _horner(lanes: Lanes, coefficients: Sequence[float], x: str) -> str:
    value = lanes.number(coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fma(lanes, value, x, lanes.number(coefficient))
    return value


def _power_of_two(lanes: Lanes, exponent: str) -> str:
    biased = lanes.int_op("add", exponent, lanes.integer(127))
    return lanes.cast(
        "bitcast", lanes.int_op("shl", biased, lanes.integer(23)), lanes.int, lanes.type
    )


def _exp(lanes: Lanes, x: str) -> str:
    x = lanes.limited(x, -104.0, 89.0)
    scaled = lanes.real_op("mul", x, lanes.number(1.0 / math.log(2.0)))
    n = lanes.intrinsic("roundeven", scaled)
    r = _fma(lanes, n, lanes.number(-LN2_HIGH), x)
    r = _fma(lanes, n, lanes.number(-LN2_LOW), r)
    p = _horner(lanes, EXP, r)
    # In two halves, because 2**n itself may lie beyond float32.
    whole = lanes.truncated(n)
    half = lanes.int_op("ashr", whole, lanes.integer(1))
    rest = lanes.int_op("sub", whole, half)
    p = lanes.real_op("mul", p, _power_of_two(lanes, half))
    return lanes.real_op("mul", p, _power_of_two(lanes, rest))


def _log(lanes: Lanes, x: str) -> str:
    tiny = lanes.compare("olt", x, lanes.number(2.0**-126))
    grown = lanes.real_op("mul", x, lanes.number(2.0**23))
    bits = lanes.cast("bitcast", lanes.select(tiny, grown, x), lanes.type, lanes.int)
    # Shifted so that the mantissa lies in [sqrt(1/2), sqrt(2)).
    shifted = lanes.int_op("sub", bits, lanes.integer(0x3F3504F3))
    exponent = lanes.int_op("ashr", shifted, lanes.integer(23))
    exponent = lanes.select(
        tiny, lanes.int_op("sub", exponent, lanes.integer(23)), exponent, lanes.int
    )
    mantissa = lanes.int_op(
        "add", lanes.int_op("and", shifted, lanes.integer(0x7FFFFF)), lanes.integer(0x3F3504F3)
    )
    n = lanes.cast("sitofp", exponent, lanes.int, lanes.type)
    f = lanes.real_op(
        "sub", lanes.cast("bitcast", mantissa, lanes.int, lanes.type), lanes.number(1.0)
    )
    square = lanes.real_op("mul", f, f)
    tail = lanes.real_op("mul", _horner(lanes, LOG, f), lanes.real_op("mul", f, square))
    tail = _fma(lanes, n, lanes.number(LN2_LOW), tail)
    tail = _fma(lanes, square, lanes.number(-0.5), tail)
    result = _fma(lanes, n, lanes.number(LN2_HIGH), lanes.real_op("add", f, tail))
    zero, infinity = lanes.number(0.0), lanes.number(math.inf)
    result = lanes.select(lanes.compare("oeq", x, zero), lanes.number(-math.inf), result)
    result = lanes.select(lanes.compare("ult", x, zero), lanes.number(math.nan), result)
    return lanes.select(lanes.compare("oeq", x, infinity), infinity, result)


def _erf(lanes: Lanes, x: str) -> str:
    x = lanes.limited(x, -3.925, 3.925)
    square = lanes.real_op("mul", x, x)
    above = lanes.real_op("mul", x, _horner(lanes, ERF_A, square))
    ratio = lanes.real_op("div", above, _horner(lanes, ERF_B, square))
    return lanes.limited(ratio, -1.0, 1.0)
