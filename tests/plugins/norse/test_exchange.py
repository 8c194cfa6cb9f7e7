"""Norse as the other side of a NIR file, and as found on a machine; H numbers as elsewhere."""

import subprocess
import sys

import nir
import norse.torch as snn
import numpy as np
import pytest
import torch
from norse.torch import LIFBoxParameters
from torch import nn

from spikeloom import export
from spikeloom.plugins import norse
from spikeloom.plugins.contract import adaptive, same


def over_time(net, x):
    """A network that Norse has read from a NIR graph, step by step."""
    state, outputs = None, []
    for now in x:
        y, state = net(now, state)
        outputs.append(y.detach())
    return torch.stack(outputs)


@pytest.mark.parametrize("cell", [norse.LIFBoxCell, lambda: norse.LIFBoxCell(dt=0.002)])
def test_norses_exporter_never_takes_our_cell_for_one_of_its_own(cell, tmp_path):
    """H 16: a subclass of Norse's cell would be written as a nir.LIF whatever it computes."""
    net = snn.SequentialState(nn.Linear(3, 4), cell(), nn.Linear(4, 2))
    graph = snn.to_nir(net, torch.rand(1, 3))
    assert not any(isinstance(node, (nir.LIF, nir.CubaLIF)) for node in graph.nodes.values())
    with pytest.raises(AttributeError, match="to_dict"):
        nir.write(tmp_path / "net.nir", graph)


@pytest.mark.parametrize("make", [norse.make, norse.make_cell], ids=["sequence", "cell"])
def test_our_exporter_refuses_what_nir_cannot_state(make, tmp_path):
    """H 16: by name, and before anything is written."""
    net = snn.SequentialState(nn.Linear(3, 4), make(adaptive()), nn.Linear(4, 2))
    path = tmp_path / "net.nir"
    with pytest.raises(export.NotExpressible, match=r"1 \(Spikeloom"):
        export.to_nir(net, torch.rand(6, 2, 3), path=path)
    assert not path.exists()


@pytest.mark.parametrize("cls", [norse.LIFBox, norse.LIFBoxCell])
def test_our_file_read_by_norse_spikes_like_our_network(cls):
    """H 17: the same dt on both sides, tau in seconds."""
    torch.manual_seed(0)
    dt = 1e-4
    p = LIFBoxParameters(tau_mem_inv=torch.tensor(1 / (2 * dt)))
    net = snn.SequentialState(nn.Linear(6, 8), cls(p, dt), nn.Linear(8, 5), cls(p, dt))
    x = 12 * torch.rand(50, 4, 6)
    with torch.no_grad():
        net[2].weight.mul_(12)
    graph, report = export.to_nir(net, x, dt=dt)
    assert report.mismatch == 0
    np.testing.assert_allclose(graph.nodes["1"].tau, 2 * dt, rtol=1e-6)
    spikes, _ = net(x) if cls is norse.LIFBox else snn.Lift(net)(x)
    assert 0.1 < spikes.mean() < 0.9
    same(over_time(snn.from_nir(graph, dt=dt), x), spikes.detach())


@pytest.mark.parametrize(("dt", "k"), [(1e-4, 2.0), (1e-3, 5.0), (1e-4, 3.7)])
def test_the_portable_lif_read_by_norse_spikes_like_ours(dt, k):
    """H 17: tau in seconds, r = 1, hard reset to 0, read with the same dt."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 3, (8, 6)).astype(np.float32)
    bias = np.full(8, 0.5, np.float32)
    neuron = {
        "tau": np.full(8, k * dt, np.float32),
        "r": np.ones(8, np.float32),
        "v_leak": np.zeros(8, np.float32),
        "v_reset": np.zeros(8, np.float32),
        "v_threshold": np.ones(8, np.float32),
    }
    graph = nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type={"input": np.array([6])}),
            "affine": nir.Affine(weight=weight, bias=bias),
            "lif": nir.LIF(**neuron),
            "output": nir.Output(output_type={"output": np.array([8])}),
        },
        edges=[("input", "affine"), ("affine", "lif"), ("lif", "output")],
    )
    theirs = snn.from_nir(graph, dt=dt)
    x = torch.from_numpy(rng.random((50, 4, 6), dtype=np.float32))
    linear = nn.Linear(6, 8)
    linear.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    tau_mem_inv = 1 / torch.from_numpy(neuron["tau"])
    ours = norse.LIFBox(LIFBoxParameters(tau_mem_inv=tau_mem_inv), dt=dt)
    spikes, _ = ours(torch.stack([linear(now) for now in x]))
    assert 0.1 < spikes.mean() < 0.9
    same(over_time(theirs, x), spikes.detach())


def test_neither_norses_version_nor_torchvision_is_asked_for():
    """H 18: some builds of Norse 1.1 call themselves 0.0.0, some have no version at all."""
    lines = (
        "import sys",
        "sys.modules['torchvision'] = None",
        "import torch, norse",
        "norse.__version__ = None",
        "from spikeloom.plugins import norse as loom",
        "spikes, state = loom.LIFBox()(torch.full((20, 3), 3.0))",
        "assert spikes.sum() > 0",
    )
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
