"""Every drop-in beside the framework's own class: forward and backward of a sequence on the CPU.

Prints the framework's time divided by ours:

    python examples/benchmarks/drop_ins.py --steps 16 --neurons 10000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import norse.torch as norse
import snntorch
import torch
from cpu import interleaved, train
from norse.torch.module.snn import SNN
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import neuron as spikingjelly

from spikeloom.plugins import norse as our_norse
from spikeloom.plugins import snntorch as our_snntorch
from spikeloom.plugins import spikingjelly as our_spikingjelly

Forward = Callable[[torch.Tensor], torch.Tensor]

SPIKINGJELLY: dict[str, tuple[Any, ...]] = {
    "LIFNode": (),
    "IFNode": (),
    "ParametricLIFNode": (),
    "SimpleLIFNode": (2.0, True),
    "QIFNode": (),
    "EIFNode": (),
    "IzhikevichNode": (),
    "KLIFNode": (),
    "CUBALIFNode": (),
    "LIAFNode": (torch.relu, False),
}
SNNTORCH: dict[str, dict[str, float]] = {
    "Leaky": {"beta": 0.5},
    "Synaptic": {"alpha": 0.5, "beta": 0.5},
    "Alpha": {"alpha": 0.9, "beta": 0.5},
    "Lapicque": {"beta": 0.5},
}
# Ours over time, and Norse's own, a cell where it has nothing else.
NORSE = {
    "LIF": norse.LIF,
    "LI": norse.LI,
    "IAF": norse.IAF,
    "LIFAdEx": norse.LIFAdEx,
    "LIBox": norse.LIBoxCell,
    "LIFBox": norse.LIFBoxCell,
}


def with_reset(node: Any) -> Forward:
    """A node of SpikingJelly's over a sequence, from rest."""
    node.step_mode = "m"  # not every one has it as an argument

    def forward(x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(node)
        return node(x)

    return forward


def by_steps(layer: Any) -> Forward:
    """A neuron of snnTorch's over a sequence, from rest."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        found = layer.reset_mem()
        states = found if isinstance(found, tuple) else (found,)
        spikes = []
        for now in x:
            spike, *states = layer(now, *states)
            spikes.append(spike)
        return torch.stack(spikes)

    return forward


def by_state(module: Any) -> Forward:
    """A module of Norse's over a sequence, from rest."""
    if isinstance(module, SNN):
        return lambda x: module(x)[0]

    def forward(x: torch.Tensor) -> torch.Tensor:
        state, spikes = None, []
        for now in x:
            spike, state = module(now, state)
            spikes.append(spike)
        return torch.stack(spikes)

    return forward


def pairs() -> dict[str, tuple[Forward, Forward]]:
    """The name of the framework's class, ours, and its own."""
    found: dict[str, tuple[Forward, Forward]] = {}
    for name, arguments in SPIKINGJELLY.items():
        ours, theirs = (
            with_reset(getattr(home, name)(*arguments)) for home in (our_spikingjelly, spikingjelly)
        )
        found[name] = ours, theirs
    for name, settings in SNNTORCH.items():
        layer = getattr(our_snntorch, name)(**settings, time_first=True)
        theirs = by_steps(getattr(snntorch, name)(**settings))
        found[name] = (lambda x, layer=layer: layer(x)[0]), theirs
    for name, cls in NORSE.items():
        module = getattr(our_norse, name)()
        found[cls.__name__] = (lambda x, module=module: module(x)[0]), by_state(cls())
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--neurons", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    x = (torch.randn(args.steps, args.neurons) * 0.5 + 0.5).clamp(0.0, 1.0)
    ratios = {}
    for name, (ours, theirs) in pairs().items():
        times = interleaved({"ours": train(x, ours), "theirs": train(x, theirs)}, args.rounds)
        ratios[name] = times["theirs"]["median"] / times["ours"]["median"]
    print("| The framework's class | Its time divided by ours |\n|---|---|")
    for name, ratio in ratios.items():
        print(f"| `{name}` | {ratio:.1f} |")


if __name__ == "__main__":
    main()
