"""The layers that are timed: spikeloom's, each framework's own, and a hand-written loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import spikeloom
from spikeloom.neurons import LIF, surrogate

Forward = Callable[[Tensor], Tensor]


def ours() -> dict[str, Forward]:
    """spikeloom without a framework: numbers that divide exactly, others, and a learned one."""
    atan = surrogate.ATan()
    tau = torch.tensor(2.3, device="cuda", requires_grad=True)
    neurons = {
        "spikeloom": LIF(2.0, surrogate=atan),
        "spikeloom, soft reset, tau 2.7": LIF(2.7, v_reset=None, surrogate=atan),
        "spikeloom, learned tau": LIF(tau, surrogate=atan),
    }
    return {
        name: lambda x, neuron=neuron: spikeloom.run(neuron, x, implementation="cupy")[0]
        for name, neuron in neurons.items()
    }


def spikingjelly() -> dict[str, Forward]:
    """SpikingJelly's LIFNode and ours; its own is named by the backend that it selected."""
    from spikingjelly._ops import lif
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based import surrogate as theirs

    from spikeloom.plugins import spikingjelly as loom

    def forward(kind: type) -> Forward:
        node = kind(tau=2.0, surrogate_function=theirs.ATan(), step_mode="m").cuda()

        def call(x: Tensor) -> Tensor:
            functional.reset_net(node)
            return node(x)

        return call

    backend = lif._selection.diagnostics(torch.device("cuda", 0))["implementation"]
    return {
        f"SpikingJelly's own ({backend})": forward(neuron.LIFNode),
        "spikeloom in SpikingJelly": forward(loom.LIFNode),
    }


def snntorch() -> dict[str, Forward]:
    """snnTorch's Leaky, in the loop that its users write, and ours."""
    import snntorch
    from snntorch import surrogate as theirs

    from spikeloom.plugins import snntorch as loom

    own = snntorch.Leaky(beta=0.9, spike_grad=theirs.atan()).cuda()
    fused = loom.Leaky(beta=0.9, spike_grad=theirs.atan()).cuda()

    def loop(x: Tensor) -> Tensor:
        membrane, spikes = torch.zeros_like(x[0]), []
        for now in x:
            spike, membrane = own(now, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return {"snnTorch's own, loop": loop, "spikeloom in snnTorch": lambda x: fused.sequence(x)[0]}


def norse() -> dict[str, Forward]:
    """Norse's LIFBoxCell, in the loop that its users write, and ours."""
    from norse.torch import LIFBoxCell

    from spikeloom.plugins import norse as loom

    cell, fused = LIFBoxCell().cuda(), loom.LIFBox().cuda()

    def loop(x: Tensor) -> Tensor:
        state, spikes = None, []
        for now in x:
            spike, state = cell(now, state)
            spikes.append(spike)
        return torch.stack(spikes)

    return {"Norse's own, loop": loop, "spikeloom in Norse": lambda x: fused(x)[0]}


FRAMEWORKS = {"spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse}


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return grad / (1.0 + (torch.pi * u) ** 2)


def hand_written(x: Tensor) -> Tensor:
    """LIF with tau 2 and hard reset as a user writes it for torch.compile: a plain function."""
    v, spikes = torch.zeros_like(x[0], dtype=torch.float32), []
    for t in range(x.shape[0]):
        h = v + (x[t].float() - v) * 0.5
        s = _Spike.apply(h - 1.0)
        v = (1.0 - s) * h
        spikes.append(s.to(x.dtype))
    return torch.stack(spikes)


def compiled(x: Tensor, backend: str = "inductor") -> Forward:
    """The hand-written loop, compiled for inputs like this one as one graph.

    Raises:
        RuntimeError: If torch did not compile it as one graph: its times would be the loop's own.
    """
    from torch._dynamo.utils import counters

    torch._dynamo.reset()  # its limit of variants of one function would fall back to the loop
    counters.clear()
    function = torch.compile(hand_written, fullgraph=True, dynamic=False, backend=backend)
    function(x.detach().requires_grad_()).sum().backward()
    graphs = counters["stats"]["unique_graphs"]
    if graphs != 1 or counters["graph_break"]:
        raise RuntimeError(f"torch.compile made {graphs} graphs of the loop, not one")
    return function
