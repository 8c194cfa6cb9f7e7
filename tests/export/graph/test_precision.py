"""The precision in which a graph is computed, whatever its arrays have."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons, plugins
from spikeloom.export import from_nir, run_nir, to_nir

HOSTS = {
    "neutral": SpikingLayer,
    "spikingjelly": plugins.spikingjelly.make,
    "snntorch": plugins.snntorch.make,
    "norse": plugins.norse.make,
}
X = 3 * torch.rand(20, 4, 2, generator=torch.Generator().manual_seed(1))


def graph(dtype) -> nir.NIRGraph:
    """Two layers whose weights no float32 holds, if they are float64."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    one = np.ones(3, dtype)
    lif = nir.LIF(tau=np.array([2e-4, 4e-4, 8e-4], dtype), r=one, v_leak=0 * one, v_threshold=one)
    layers = nir.Affine(drawn(3, 2), drawn(3)), lif, nir.Linear(drawn(2, 3))
    return nir.NIRGraph.from_list(*layers)


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("host", HOSTS)
def test_a_graph_of_float64_arrays_takes_float32_by_default(host):
    network = from_nir(graph(np.float64), make=HOSTS[host])
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    y = network(X)
    assert y.dtype == torch.float32 and y.any()
    assert torch.equal(y, from_nir(graph(np.float32))(X))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("arrays", [np.float32, np.float64])
def test_a_model_has_the_precision_that_was_asked_for(arrays, host):
    network = from_nir(graph(arrays), make=HOSTS[host], dtype=torch.float64)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float64}
    kept = network.part("affine").weight.detach().numpy()
    np.testing.assert_array_equal(kept, graph(arrays).nodes["affine"].weight)
    assert network(X.double()).dtype == torch.float64


def test_the_precision_of_torch_is_the_default(double_by_default):
    network = from_nir(graph(np.float32))
    assert network(X.double()).dtype == torch.float64


def test_a_graph_runs_in_the_precision_of_its_input():
    linear = nir.Linear(graph(np.float64).nodes["affine"].weight)
    alone = nir.NIRGraph.from_list(linear)
    x = X.double()
    exact = x.numpy() @ linear.weight.T
    np.testing.assert_allclose(run_nir(alone, x).numpy(), exact, rtol=1e-12)
    assert run_nir(alone, X).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_runs_in_the_precision_that_was_asked_for(dtype):
    g = graph(np.float64)
    y = run_nir(g, X, dtype=dtype)
    assert y.dtype == dtype
    assert torch.equal(y, run_nir(g, X.to(dtype)))


def test_whole_numbers_are_kept_in_float64():
    weight = np.array([[2**24 + 1]])
    network = from_nir(nir.NIRGraph.from_list(nir.Linear(weight)), dtype=torch.float64)
    assert network(torch.ones(1, 1, 1, dtype=torch.float64)).item() == 2**24 + 1


def test_a_model_in_float64_is_exported_as_in_float32(double_by_default):
    net = nn.Sequential(nn.Linear(2, 3), SpikingLayer(neurons.LIF())).float()
    net[0].weight.data.copy_(torch.tensor([[1.5, -0.5], [1.0, 2.0], [-0.25, 3.0]]))
    _, report = to_nir(net, X)
    assert report.mismatch == 0.0


@pytest.mark.parametrize("dtype", [torch.int64, "float32", np.float64])
def test_a_precision_that_is_none_is_refused(dtype):
    with pytest.raises(TypeError, match=r"dtype: must be a floating-point torch\.dtype, got"):
        from_nir(graph(np.float32), dtype=dtype)
