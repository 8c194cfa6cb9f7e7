"""Random small networks either export exactly or are refused; none is written wrongly."""

import nir
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeloom import Neuron, SpikingLayer, neurons
from spikeloom.export import NotExpressible, Verdict, read, run_nir, to_nir
from spikeloom.modules import neuron_of

T = 12


def hard_or_soft(draw) -> Neuron:
    """A neuron of any family, with or without an exact single node."""
    kind = draw(st.sampled_from(["LIF", "IF", "Leaky", "LIFBox", "ternary"]))
    if kind == "ternary":
        decay = draw(st.sampled_from([0.0, 0.0, 0.25]))
        return neurons.ElasticBiSpike(draw(st.sampled_from([0.5, 1.0, 2.0])), decay=decay)
    threshold = draw(st.sampled_from([0.5, 1.0, 1.5]))
    reset = draw(st.sampled_from([0.0, None, -0.25]))
    if kind == "LIF":
        return neurons.LIF(
            draw(st.sampled_from([1.0, 2.0, 4.0])),
            threshold,
            reset,
            decay_input=draw(st.booleans()),
            fires_at_threshold=draw(st.booleans()),
        )
    if kind == "IF":
        return neurons.IF(threshold, reset, fires_at_threshold=draw(st.booleans()))
    if kind == "Leaky":
        return neurons.Leaky(
            draw(st.sampled_from([0.0, 0.5, 0.75, 1.0])),
            threshold,
            draw(st.sampled_from(["zero", "subtract", "none"])),
            reset_delay=draw(st.booleans()),
            graded_spikes_factor=draw(st.sampled_from([1.0, 0.5])),
        )
    return neurons.LIFBox(
        draw(st.sampled_from([500.0, 250.0])),
        v_th=threshold,
        reset_method=draw(st.sampled_from(["value", "subtract"])),
    )


class Steps(nn.Module):
    """Layers without a time axis, applied to each step."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Net(nn.Module):
    """Blocks in a chain, some with a shortcut around them."""

    def __init__(self, blocks: list[nn.Module], shortcuts: list[bool]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.shortcuts = shortcuts

    def forward(self, x: Tensor) -> Tensor:
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            y = block(x)
            x = x + y if shortcut else y
        return x


def image_block(draw, weights) -> tuple[nn.Module, tuple[int, ...], int]:
    """A convolution, a neuron on its map, perhaps a pool, and a flattening."""
    groups = draw(st.sampled_from([1, 1, 2]))
    before, after = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = draw(st.sampled_from([1, 3, (1, 3)]))
    options = {"stride": draw(st.integers(1, 2)), "padding": draw(st.sampled_from([0, 1]))}
    conv = nn.Conv2d(before, after, kernel, groups=groups, bias=draw(st.booleans()), **options)
    conv.weight = weights(*conv.weight.shape)
    if conv.bias is not None:
        conv.bias = weights(after)
    neuron = SpikingLayer(hard_or_soft(draw))
    # Halves and quarters of spikes are exact; a maximum has no counterpart.
    pool = draw(st.sampled_from([[], [nn.AvgPool2d(2)], [nn.AvgPool2d((1, 2))], [nn.MaxPool2d(2)]]))
    block = nn.Sequential(Steps(conv), neuron, Steps(*pool, nn.Flatten()))
    with torch.no_grad():
        width = block(torch.zeros(1, 1, before, 6, 6)).shape[2]
    return block, (before, 6, 6), width


@st.composite
def networks(draw) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def weights(*shape: int) -> nn.Parameter:
        return nn.Parameter((torch.randn(shape, generator=generator) * 6).round() / 4)

    blocks: list[nn.Module] = []
    shortcuts: list[bool] = []
    shape: tuple[int, ...] = (draw(st.integers(1, 5)),)
    if draw(st.booleans()):
        block, shape, width = image_block(draw, weights)
        blocks.append(block)
        shortcuts.append(False)
    else:
        (width,) = shape
    for _ in range(draw(st.integers(1, 4))):
        new = draw(st.integers(1, 5))
        fc = nn.Linear(width, new, bias=draw(st.booleans()))
        fc.weight = weights(new, width)
        if fc.bias is not None:
            fc.bias = weights(new)
        extra = draw(st.sampled_from([[], [nn.Dropout()], [nn.Identity()], [nn.ReLU()]]))
        neuron = SpikingLayer(hard_or_soft(draw))
        blocks.append(nn.Sequential(fc, *extra, neuron))
        shortcuts.append(draw(st.booleans()) and new == width)
        width = new
    x = torch.rand(T, 2, *shape, generator=generator) * 4
    return Net(blocks, shortcuts), x.mul(4).round() / 4


def counted(graph: nir.NIRGraph, *kinds: type) -> int:
    return sum(isinstance(node, kinds) for node in graph.nodes.values())


@pytest.mark.timeout(120)
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(networks(), st.sampled_from(["raise", "subgraph"]), st.sampled_from(["portable", "nir"]))
def test_a_random_network_is_written_exactly_or_refused(tmp_path_factory, drawn, flag, target):
    net, x = drawn
    path = tmp_path_factory.mktemp("random") / "net.nir"
    try:
        graph, report = to_nir(net, x, on_inexact=flag, target=target, path=path)
    except NotExpressible as refusal:
        names = {name for name, _ in net.named_modules()}
        assert refusal.offences
        assert all(offence.module in names for offence in refusal.offences)
        assert not path.exists()
        return
    expected = net.eval()(x).detach()
    assert torch.equal(run_nir(graph, x), expected)
    assert torch.equal(run_nir(read(path), x), expected)
    # Nothing is lost: each neuron fires somewhere in the graph, each weight is there.
    spiking = [neuron for m in net.modules() if (neuron := neuron_of(m)) is not None]
    signs = sum(2 if isinstance(n, neurons.ElasticBiSpike) else 1 for n in spiking)
    assert counted(graph, nir.LIF, nir.IF, nir.Threshold) == signs
    layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert counted(graph, nir.Affine, nir.Linear) >= len(layers)
    for layer, node in ((nn.Conv2d, nir.Conv2d), (nn.AvgPool2d, nir.AvgPool2d)):
        assert counted(graph, node) == sum(isinstance(m, layer) for m in net.modules())
    exact = [row for row in report.rows if row[2] == Verdict.EXACT]
    assert flag == "subgraph" or len(exact) == len(report.rows)


def test_the_random_networks_are_of_both_kinds():
    outcomes, kinds = [], set()

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(networks())
    def count(drawn):
        net, x = drawn
        try:
            graph, _ = to_nir(net, x, on_inexact="subgraph")
            kinds.update(type(node) for node in graph.nodes.values())
            kinds.update(type(neuron_of(m)) for m in net.modules())
            outcomes.append(bool(net(x).any()))
        except NotExpressible:
            outcomes.append(None)

    count()
    assert outcomes.count(True) > 10
    assert outcomes.count(None) > 10
    assert kinds >= {nir.Conv2d, nir.AvgPool2d, nir.I, nir.LI, neurons.ElasticBiSpike}
