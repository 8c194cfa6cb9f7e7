"""Minimal steps of the five families, and the same dynamics written as plain float64 loops.

Each family is one Case: a neuron in the step language, and a reference that knows nothing of it,
in which every custom derivative is spelled out as an autograd.Function of its own.
"""

import math
from dataclasses import dataclass, field

import torch

from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel.vocabulary import (
    absolute,
    clamp,
    detach,
    erf,
    fire,
    lookup,
    maximum,
    rint,
    sigmoid,
    sign,
    where,
    with_grad,
)
from spikeloom.neurons.surrogate import Triangle


@dataclass
class Case:
    """A family: its neuron for given parameter tensors, and its reference loop."""

    name: str
    neuron: object  # params -> Neuron
    reference: object  # (xs, states, params, steps) -> outputs, states
    params: dict = field(default_factory=dict)  # name -> (shape maker)
    inputs: int = 1
    states: int = 1
    # Whether a firing decision passes through exp, erf or log, which kernels round differently.
    inexact: bool = False

    def make(self, steps, neurons, dtype, requires_grad=True):
        """Fresh parameters for a run."""
        tensors = {
            name: make(steps, neurons).to(dtype).requires_grad_(requires_grad)
            for name, make in self.params.items()
        }
        return self.neuron(tensors), tensors

    def __str__(self):
        return self.name


class Fire(torch.autograd.Function):
    """A spike at u >= 0 with a triangular derivative of height 1 and half-width 1."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u >= 0).to(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad * torch.clamp(1 - u.abs(), min=0)


# --- OAT: sign, two ranges chosen from the complete value, thresholds a power of two apart -----

RANGE = 2.0


def oat(params):
    def begin(x, state, p):
        (v, _, _) = state
        v = v + x
        outer = where(absolute(v) > RANGE, 1.0, 0.0)
        return absolute(v), sign(v), outer

    def step(x, state, p):
        v, s, row = state
        theta = lookup(p.theta, row)
        z = fire(v - theta, Triangle(), strict=True)
        return s * z * theta, (v - z * theta, s, row)

    steps = params["theta"].shape[1]
    table = {"theta": Gated(params["theta"])}
    return Neuron(step, begin=begin, steps=steps, state=("v", "s", "row"), params=table)


class FireAbove(Fire):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u)


def oat_loop(xs, states, params, steps):
    total = states[0] + xs[0].sum(0)
    v, s = total.abs(), torch.sign(total.detach())
    row = (total.abs() > RANGE).long()
    outputs = []
    for t in range(steps):
        theta = params["theta"][row, t]
        z = FireAbove.apply(v - theta)
        outputs.append(s * z * theta)
        v = v - z * theta
    return [outputs], [v, s, row.to(v)]


# --- HG: a gate over several tables of thresholds, resets and weights ---------------------------

EDGES = (-1.0, 0.0, 1.5)


def hg(params):
    def begin(x, state, p):
        v = state[0] + x
        row = 0.0 * v
        for edge in EDGES:
            row = row + where(v >= edge, 1.0, 0.0)
        return v, row

    def step(x, state, p):
        v, row = state
        s = fire(v - lookup(p.theta, row), Triangle())
        return s * lookup(p.d, row), (v - s * lookup(p.h, row), row)

    tables = {name: Gated(value) for name, value in params.items()}
    steps = params["theta"].shape[1]
    return Neuron(step, begin=begin, steps=steps, state=("v", "row"), params=tables)


def hg_loop(xs, states, params, steps):
    v = states[0] + xs[0].sum(0)
    row = sum((v >= edge).long() for edge in EDGES)
    outputs = []
    for t in range(steps):
        s = Fire.apply(v - params["theta"][row, t])
        outputs.append(s * params["d"][row, t])
        v = v - s * params["h"][row, t]
    return [outputs], [v, row.to(v)]


# --- Ternary fire: amplitude learned a step, reset by a factor whose gradient is cut -------------


def ternary(params):
    def step(x, state, p):
        (v,) = state
        m = v + x
        q = m / p.alpha
        code = clamp(rint(q), -1.0, 1.0)
        inside = where(absolute(q) <= 1.0, 1.0, 0.0)
        slope = where(absolute(q) <= 1.0, rint(q) - q, code)
        y = with_grad(p.alpha * code, (m, inside), (p.alpha, slope))
        return y, (m * (p.decay * detach(p.alpha - y)),)

    values = {"alpha": PerStep(params["alpha"]), "decay": params["decay"]}
    return Neuron(step, params=values)


class Quantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, m, alpha):
        q = m / alpha
        ctx.save_for_backward(q)
        return alpha * torch.clamp(torch.round(q), -1, 1)

    @staticmethod
    def backward(ctx, grad):
        (q,) = ctx.saved_tensors
        inside = q.abs() <= 1
        slope = torch.where(inside, torch.round(q) - q, torch.clamp(torch.round(q), -1, 1))
        return grad * inside, (grad * slope).sum()


def ternary_loop(xs, states, params, steps):
    (v,) = states
    outputs = []
    for t in range(steps):
        m = v + xs[0][t]
        alpha = params["alpha"][t]
        y = Quantise.apply(m, alpha)
        v = m * (params["decay"] * (alpha - y).detach())
        outputs.append(y)
    return [outputs], [v]


# --- signGD: a sign tracker of GELU, and of the maximum of two inputs ---------------------------


def signgd_gelu(params):
    def step(x, state, p):
        y, u = state
        u = u + x
        s = fire(0.5 * u * (1.0 + erf(u * math.sqrt(0.5))) - y, Triangle())
        move = p.eta * (2.0 * s - 1.0)
        return move, (y + move, u)

    return Neuron(step, state=("y", "u"), params={"eta": PerStep(params["eta"])})


def signgd_gelu_loop(xs, states, params, steps):
    y, u = states
    outputs = []
    for t in range(steps):
        u = u + xs[0][t]
        target = 0.5 * u * (1 + torch.erf(u * math.sqrt(0.5)))
        move = params["eta"][t] * (2 * Fire.apply(target - y) - 1)
        y = y + move
        outputs.append(move)
    return [outputs], [y, u]


def signgd_maximum(params):
    def step(x, state, p):
        y, a, b = state
        a, b = a + x[0], b + x[1]
        s = fire(maximum(a, b) - y, Triangle())
        move = p.eta * (2.0 * s - 1.0)
        return (move, s), (y + move, a, b)

    steps = {"eta": PerStep(params["eta"])}
    return Neuron(step, state=("y", "a", "b"), inputs=2, params=steps)


def signgd_maximum_loop(xs, states, params, steps):
    y, a, b = states
    moves, spikes = [], []
    for t in range(steps):
        a, b = a + xs[0][t], b + xs[1][t]
        s = Fire.apply(torch.maximum(a, b) - y)
        move = params["eta"][t] * (2 * s - 1)
        y = y + move
        moves.append(move)
        spikes.append(s)
    return [moves, spikes], [y, a, b]


# --- A linear filter of two poles, one decay a neuron -------------------------------------------


def two_pole(params):
    def step(x, state, p):
        z, i = state
        i = p.synaptic * i + x
        z = p.decay * z + sigmoid(p.gain) * i
        return z, (z, i)

    return Neuron(step, state=("z", "i"), params=dict(params))


def two_pole_loop(xs, states, params, steps):
    z, i = states
    outputs = []
    for t in range(steps):
        i = params["synaptic"] * i + xs[0][t]
        z = params["decay"] * z + torch.sigmoid(params["gain"]) * i
        outputs.append(z)
    return [outputs], [z, i]


def uniform(low, high, *shape):
    return torch.rand(shape, dtype=torch.float64) * (high - low) + low


def powers(rows):
    """Thresholds that halve from step to step, larger in outer rows."""

    def make(steps, neurons):
        scale = 2.0 ** -torch.arange(steps, dtype=torch.float64)
        return torch.stack([(row + 1.01) * scale for row in range(rows)])

    return make


CASES = [
    Case("oat", oat, oat_loop, {"theta": powers(2)}, states=3),
    Case(
        "hg",
        hg,
        hg_loop,
        {
            "theta": lambda steps, n: uniform(-0.5, 0.5, 4, steps),
            "h": lambda steps, n: uniform(0.1, 1.0, 4, steps),
            "d": lambda steps, n: uniform(-1.0, 1.0, 4, steps),
        },
        states=2,
    ),
    Case(
        "ternary",
        ternary,
        ternary_loop,
        {
            "alpha": lambda steps, n: uniform(0.5, 1.5, steps),
            "decay": lambda s, n: uniform(0.2, 0.4),
        },
    ),
    Case(
        "signgd-gelu",
        signgd_gelu,
        signgd_gelu_loop,
        {"eta": lambda steps, n: uniform(0.05, 0.5, steps)},
        states=2,
        inexact=True,
    ),
    Case(
        "signgd-maximum",
        signgd_maximum,
        signgd_maximum_loop,
        {"eta": lambda steps, n: uniform(0.05, 0.5, steps)},
        inputs=2,
        states=3,
    ),
    Case(
        "two-pole",
        two_pole,
        two_pole_loop,
        {
            "synaptic": lambda steps, n: uniform(0.1, 0.9, n),
            "decay": lambda steps, n: uniform(0.1, 0.9),
            "gain": lambda steps, n: uniform(-1.0, 1.0, n),
        },
        states=2,
        inexact=True,
    ),
]
