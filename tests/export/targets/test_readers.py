"""Readers that are not among the requirements: what their profiles say of them, where installed.

``pip install --no-deps sinabs pbr`` next to the other requirements is enough.
"""

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons
from spikeloom.export import NotExpressible, run_nir, to_nir
from spikeloom.export.targets.compatibility import findings

pytestmark = pytest.mark.readers

T, B, DT = 20, 2, 1e-4
F = np.float32
ONE = np.ones(3, F)
PLANE = {"stride": np.array([1, 1]), "kernel_size": np.array([2, 2])}
FILTER = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": ONE[:2]}
RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(F)


# A node of each kind, the shape that it takes and the one that it gives.
NODES = {
    "Affine": (nir.Affine(weight=weights(2, 3), bias=ONE[:2]), (3,), (2,)),
    "Linear": (nir.Linear(weight=weights(2, 3)), (3,), (2,)),
    "Conv1d": (nir.Conv1d(input_shape=4, weight=weights(2, 3, 3), **FILTER), (3, 4), (2, 4)),
    "Conv2d": (
        nir.Conv2d(input_shape=(4, 4), weight=weights(2, 3, 3, 3), **FILTER),
        (3, 4, 4),
        (2, 4, 4),
    ),
    "SumPool2d": (nir.SumPool2d(padding=np.array([0, 0]), **PLANE), (3, 4, 4), (3, 3, 3)),
    "SumPool2d, padded": (nir.SumPool2d(padding=np.array([1, 1]), **PLANE), (3, 4, 4), (3, 5, 5)),
    "AvgPool2d": (nir.AvgPool2d(padding=np.array([0, 0]), **PLANE), (3, 4, 4), (3, 3, 3)),
    "Flatten": (nir.Flatten(input_type=np.array([3, 4]), start_dim=-2, end_dim=-1), (3, 4), (12,)),
    "IF": (nir.IF(r=ONE / F(DT), v_threshold=ONE), (3,), (3,)),
    "LIF": (nir.LIF(tau=2e-4 * ONE, r=ONE, v_leak=0 * ONE, v_threshold=ONE), (3,), (3,)),
    "LI": (nir.LI(tau=2e-4 * ONE, r=ONE, v_leak=0 * ONE), (3,), (3,)),
    "LI, r = 2": (nir.LI(tau=2e-4 * ONE, r=2 * ONE, v_leak=0 * ONE), (3,), (3,)),
    "I": (nir.I(r=ONE / F(DT)), (3,), (3,)),
    "Scale": (nir.Scale(scale=2 * ONE), (3,), (3,)),
    "Threshold": (nir.Threshold(threshold=ONE), (3,), (3,)),
    "CubaLIF": (
        nir.CubaLIF(tau_syn=2e-4 * ONE, tau_mem=2e-4 * ONE, r=ONE, v_leak=0 * ONE, v_threshold=ONE),
        (3,),
        (3,),
    ),
}


def graph_of(name: str) -> tuple[nir.NIRGraph, Tensor]:
    node, shape, shape_out = NODES[name]
    ends = {
        "input": nir.Input(input_type=np.array(shape)),
        "output": nir.Output(output_type=np.array(shape_out)),
    }
    graph = nir.NIRGraph(
        nodes={**ends, "node": node}, edges=[("input", "node"), ("node", "output")]
    )
    return graph, 3 * torch.rand(T, B, *shape, generator=torch.Generator().manual_seed(0))


def with_sinabs(graph: nir.NIRGraph, x: Tensor) -> Tensor:
    """Step by step, the state kept in the modules."""
    pytest.importorskip("sinabs")
    from sinabs.nir import from_nir

    model = from_nir(graph, batch_size=x.shape[1])
    state, spikes = None, []
    with torch.no_grad():
        for now in x:
            y, state = model(now, state)
            spikes.append(y)
    return torch.stack(spikes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NODES)
def test_sinabs_reads_each_node_as_its_profile_says(name):
    pytest.importorskip("sinabs")
    graph, x = graph_of(name)
    found = list(findings("sinabs", graph.nodes, graph.edges, DT))
    if any(not finding.silent for finding in found):
        with pytest.raises((ValueError, AttributeError)):
            with_sinabs(graph, x)
        return
    y, expected = with_sinabs(graph, x), run_nir(graph, x)
    alike = y.shape == expected.shape and torch.allclose(y, expected, atol=1e-5)
    assert alike == (not found)


@pytest.mark.filterwarnings("ignore")
def test_sinabs_computes_something_else_from_the_portable_file():
    pytest.importorskip("sinabs")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), SpikingLayer(neurons.LIF(v_threshold=0.5)))
    x = 3 * torch.rand(T, B, 3)
    graph, _ = to_nir(net, x)
    assert not torch.equal(with_sinabs(graph, x), net(x).detach())
    with pytest.raises(NotExpressible, match="for sinabs"):
        to_nir(net, x, target="sinabs")
