"""The NIR readers of other frameworks, each as a function from a graph and an input to spikes."""

import contextlib
import io
from collections.abc import Callable

import nir
import nirtorch
import torch
from torch import Tensor, nn

import spikeloom
from spikeloom.export.graph.dynamics import neuron_of

DT = 1e-4


def step_by_step(model: nn.Module, x: Tensor) -> Tensor:
    """Call an imported model once for each step, handing its state on."""
    state, spikes = None, []
    with torch.no_grad():
        for now in x:
            result = model(now, state)
            y, state = result if isinstance(result, tuple) else (result, None)
            spikes.append(y)
    return torch.stack(spikes)


class _Stepped(nn.Module):
    """One of our neurons as nirtorch calls it: one step, explicit state."""

    def __init__(self, node: nir.NIRNode) -> None:
        super().__init__()
        self.neuron = neuron_of(node, DT)

    def forward(self, x: Tensor, state=None):
        y, state = spikeloom.run(self.neuron, x[None], state)
        return y[0], state


def _affine(node: nir.Affine) -> nn.Module:
    # nirtorch 2.6 loses the bias.
    module = nn.Linear(node.weight.shape[1], node.weight.shape[0])
    module.weight.data = torch.from_numpy(node.weight)
    module.bias.data = torch.from_numpy(node.bias)
    return module


class _Times(nn.Module):
    def __init__(self, node: nir.Scale) -> None:
        super().__init__()
        self.scale = torch.from_numpy(node.scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def with_nirtorch(graph: nir.NIRGraph, x: Tensor) -> Tensor:
    kinds = (nir.LIF, nir.IF, nir.LI, nir.I, nir.Threshold)
    node_map = {**dict.fromkeys(kinds, _Stepped), nir.Affine: _affine, nir.Scale: _Times}
    return step_by_step(nirtorch.nir_to_torch(graph, node_map), x)


def with_snntorch(graph: nir.NIRGraph, x: Tensor) -> Tensor:
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):
        return step_by_step(import_from_nir(graph), x)


def with_norse(graph: nir.NIRGraph, x: Tensor) -> Tensor:
    from norse.torch.utils.import_nir import from_nir

    return step_by_step(from_nir(graph, dt=DT, ignore_warnings=True), x)


def with_spikingjelly(graph: nir.NIRGraph, x: Tensor) -> Tensor:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return step_by_step(import_from_nir(graph, dt=DT), x)


HOST_READERS = {
    "spikingjelly": with_spikingjelly,
    "snntorch": with_snntorch,
    "norse": with_norse,
}
READERS: dict[str, Callable[[nir.NIRGraph, Tensor], Tensor]] = {
    "nirtorch": with_nirtorch,
    **HOST_READERS,
}
