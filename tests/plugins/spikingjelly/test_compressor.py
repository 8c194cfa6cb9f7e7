"""Signed spikes survive memory optimisation; H as in SpikingJelly's conformance list."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, memopt
from torch import nn

from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons.surrogate import ATan
from spikeloom.plugins import spikingjelly as loom
from spikeloom.plugins.contract import same


def ternary_step(x, state, p):
    (v,) = state
    h = v + x
    s = fire(h - 1.0, ATan()) - fire(-1.0 * h - 1.0, ATan())
    return s, (h - s,)


TERNARY = Neuron(ternary_step)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("amplitude", [1.0, 0.37])
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (4, 5, 7), (2, 1, 0, 3), ()])
def test_every_level_comes_back_exactly(bits, amplitude, shape):
    """H 27."""
    compressor = loom.SignedSpikeCompressor(bits, amplitude)
    half = 2 ** (bits - 1)
    for dtype in (torch.float32, torch.float64):
        x = torch.randint(-half, half, shape).to(dtype) * amplitude
        packed = compressor.compress(x)
        assert packed.codes.dtype == torch.uint8
        assert packed.codes.numel() == -(-x.numel() * bits // 8)
        restored = compressor.decompress(packed)
        assert restored.dtype == dtype
        same(restored, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ternary_spikes_of_16_bits_come_back(dtype):
    x = torch.tensor([-1, 0, 1, 1, 0, -1, -1], dtype=dtype)
    compressor = loom.SignedSpikeCompressor()
    same(compressor.decompress(compressor.compress(x)), x)


def test_non_contiguous_spikes_come_back():
    x = torch.randint(-1, 2, (5, 7)).float().T
    compressor = loom.SignedSpikeCompressor()
    same(compressor.decompress(compressor.compress(x)), x)


def test_the_hosts_own_compressors_would_lose_the_sign():
    """H 27: why this one exists."""
    x = torch.tensor([-1.0, 0.0, 1.0])
    own = (
        memopt.BooleanSpikeCompressor(),
        memopt.Uint8SpikeCompressor(),
        memopt.BitSpikeCompressor(),
        memopt.SparseSpikeCompressor(),
    )
    for compressor in own:
        assert not torch.equal(compressor.decompress(compressor.compress(x)), x)


@pytest.mark.parametrize("value", [2.0, -3.0, 0.5, float("nan"), float("inf")])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="multiples -2 to 1"):
        loom.SignedSpikeCompressor().compress(torch.tensor([0.0, value]))


@pytest.mark.parametrize(
    "settings", [{"bits": 3}, {"bits": "2"}, {"amplitude": 0.0}, {"amplitude": float("nan")}]
)
def test_bad_arguments_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        loom.SignedSpikeCompressor(**settings)


def gradients(net, x):
    functional.reset_net(net)
    x = x.clone().requires_grad_()
    y = net(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


def network(node):
    return nn.Sequential(nn.Linear(6, 5), nn.Sequential(node(), nn.Linear(5, 4), node()))


@pytest.mark.parametrize("compress", [False, True])
def test_optimised_memory_gives_the_same_gradients(compress):
    """H 26: level 1 of SpikingJelly's optimizer."""
    net = network(lambda: loom.LIFNode(step_mode="m"))
    plain = copy.deepcopy(net)
    x = (torch.rand(6, 3, 6) < 0.5).float() * 2
    optimised = memopt.optimize_memory(
        net, loom.LIFNode, lambda model: model(x), level=1, compress=compress
    )
    assert any("Checkpoint" in type(module).__name__ for module in optimised.modules())
    for own, expected in zip(gradients(optimised, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_chunks_of_compressed_ternary_spikes_give_the_same_gradients(chunks):
    """H 26 and 27: checkpoint_module with the signed compressor."""
    first, second = (loom.make(TERNARY) for _ in range(2))
    plain = nn.Sequential(nn.Linear(6, 5), first, nn.Sequential(second))
    net = copy.deepcopy(plain)
    compressor = loom.SignedSpikeCompressor(bits=2)
    net[2] = memopt.checkpoint_module(net[2], compressor=compressor, chunks=chunks)
    x = torch.randn(7, 3, 6) * 2
    results = list(zip(gradients(net, x), gradients(plain, x), strict=True))
    assert set(results[0][0].unique().tolist()) == {-1.0, 0.0, 1.0}
    for own, expected in results:
        torch.testing.assert_close(own, expected)
