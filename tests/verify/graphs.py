"""Random small networks that share modules, branch, rearrange axes, and pad and pool in any way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom
from spikeloom import neurons
from tests.models.spiking_mlp.cases import wake

Step = Callable[["Graph", list[Tensor]], Tensor]
METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten(0, 1)": lambda x: x.flatten(0, 1),
    "flatten(1)": lambda x: torch.flatten(x, 1),
    "flatten(-2)": lambda x: x.flatten(start_dim=-2),
    "unflatten(0, (2, -1))": lambda x: x.unflatten(0, (2, -1)),
    "unflatten(0, shape)": lambda x: x.unflatten(0, (2, x.shape[0] // 2)),
    "movedim": lambda x: x.movedim(-1, 2),
    "transpose": lambda x: x.transpose(0, 1),
    "contiguous": lambda x: x.contiguous(),
    "half": lambda x: x * 0.5,
    "shift": lambda x: x + 1.0,
    "rows": lambda x: x + x.shape[0],
    "part": lambda x: x[..., :-1],
}


class Doubled(nn.Linear):
    """A weight layer that is more than one."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Graph(nn.Module):
    """Steps one after the other, each on an earlier value."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self.steps: list[Step] = []
        self.outputs: list[int] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        values = [x]
        for step in self.steps:
            values.append(step(self, values))
        return [values[i] for i in self.outputs]


def graph(rng: random.Random, length: int) -> tuple[Graph, Tensor]:
    """A network in float64 and eval mode, and an input for it."""
    torch.manual_seed(rng.randrange(1000))
    model, x = Graph(), 3 * torch.randn(4, 3, 6, 4, dtype=torch.float64)
    values = [x]
    while len(model.steps) < length:
        step = _step(rng, model, values)
        try:
            with torch.no_grad():
                value = step(model, values)
        except (RuntimeError, ValueError, IndexError):
            continue  # the shapes do not fit
        if value.numel() and value.dim() > 1 and value.dim() < 6 and bool(value.isfinite().all()):
            model.steps.append(step)
            values.append(value)
    model.outputs = [length, *(i for i in range(1, length) if rng.random() < 0.05)]
    return model, x


def _step(rng: random.Random, model: Graph, values: list[Tensor]) -> Step:
    i = len(values) - 1 if rng.random() < 0.85 else rng.randrange(len(values))
    kind = rng.random()
    if kind < 0.08:
        return _sum(i, rng.randrange(len(values)))
    if kind < 0.2:
        method = METHODS[rng.choice(list(METHODS))]
        return lambda model, values: method(values[i])
    if kind < 0.23 and model.parts:
        return _reading(i, rng.choice(list(model.parts)))
    if kind < 0.35 and model.parts:
        return _calling(i, rng.choice(list(model.parts)))
    name = str(len(model.parts))
    model.parts[name] = _module(rng, values[i]).double().eval()
    return _calling(i, name)


def _calling(i: int, name: str) -> Step:
    return lambda model, values: model.parts[name](values[i])


def _reading(i: int, name: str) -> Step:
    def step(model: Graph, values: list[Tensor]) -> Tensor:
        weight: Any = getattr(model.parts[name], "weight", None)
        if weight is None:
            raise ValueError("nothing to read")
        return values[i] + weight.sum()

    return step


def _sum(i: int, j: int) -> Step:
    return lambda model, values: values[i] + values[j]


def _module(rng: random.Random, x: Tensor) -> nn.Module:
    channels, last = x.shape[1], x.shape[-1]
    dims = x.dim()
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[dims]
    choice = rng.choice(("norm",) * 5 + ("weight",) * 4 + ("neuron",) * 3 + ("pool",) * 2 + ("",))
    if choice == "norm":
        module: nn.Module = norm(channels, affine=rng.random() < 0.9)
    elif choice == "weight":
        module = _weight(rng, dims, channels, last)
    elif choice == "neuron":
        tau, reset = rng.choice((2.0, 2.0, 3.0)), rng.choice((0.0, None))
        module = spikeloom.SpikingLayer(neurons.LIF(tau, v_reset=reset))
    elif choice == "pool":
        module = nn.AvgPool2d(
            rng.choice((2, (1, 2), (2,))),
            stride=rng.choice((None, 1)),
            padding=rng.choice((0, 0, (0, 1))),
            ceil_mode=rng.random() < 0.2,
            count_include_pad=rng.random() < 0.7,
            divisor_override=rng.choice((None, None, 1, 3)),
        )
    else:
        start = rng.choice((0, 1, 1, 1, 2))
        module = rng.choice(
            (nn.Flatten(start), nn.Flatten(0, 1), nn.Identity(), nn.Dropout(), nn.ReLU())
        )
    module = wake(module, rng.randrange(1000))
    if rng.random() < 0.05:
        module.register_forward_hook(lambda module, args, y: y - 0.25)
    return module


def _weight(rng: random.Random, dims: int, channels: int, last: int) -> nn.Module:
    outputs, bias = rng.choice((2, 3, 4, channels)), rng.random() < 0.7
    if dims == 2 or rng.random() < 0.3:
        return rng.choice((nn.Linear, nn.Linear, nn.Linear, Doubled))(last, outputs, bias)
    kinds: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    options: dict[str, Any] = {"padding": rng.choice((0, 0, 1, "same", "valid"))}
    options["dilation"] = rng.choice((1, 1, 2))
    options["padding_mode"] = rng.choice(("zeros", "circular"))
    if rng.random() < 0.1:
        return (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 3](
            channels, outputs, rng.choice((1, 2))
        )
    if channels % 2 == 0 and rng.random() < 0.2:
        options["groups"], outputs = 2, 4
    return kinds[dims - 3](channels, outputs, rng.choice((1, 2)), bias=bias, **options)
