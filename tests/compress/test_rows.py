"""Transposed, three-dimensional and GPT-2's layers, against outputs computed weight by weight."""

import copy

import pytest
import safetensors.torch
import torch
from spikingjelly.activation_based import layer as sjl
from spikingjelly.activation_based import neuron as sjn
from torch import nn
from transformers.pytorch_utils import Conv1D

from spikeloom import SpikingLayer, compress, neurons
from spikeloom.rows import in_weight_shape, is_weight_layer, outputs_first, outputs_of
from tests.compress.cases import dense_filter, solved, spikes

LAYERS = {
    "linear": lambda: nn.Linear(6, 4),
    "GPT-2's": lambda: Conv1D(4, 6),
    "1d": lambda: nn.ConvTranspose1d(6, 4, 3),
    "1d, strided, padded": lambda: nn.ConvTranspose1d(6, 4, 4, stride=3, padding=2),
    "1d, all": lambda: nn.ConvTranspose1d(
        6, 4, 3, stride=3, padding=1, output_padding=2, dilation=2, groups=2
    ),
    "2d": lambda: nn.ConvTranspose2d(6, 4, 2, bias=False),
    "2d, padded beyond the kernel": lambda: nn.ConvTranspose2d(6, 4, 1, padding=1),
    "2d, all": lambda: nn.ConvTranspose2d(
        6, 4, (3, 2), stride=(2, 1), padding=(2, 0), output_padding=(1, 0), dilation=2, groups=2
    ),
    "2d, SpikingJelly's": lambda: sjl.ConvTranspose2d(6, 4, 3, stride=2, step_mode="m"),
    "3d": lambda: nn.ConvTranspose3d(6, 4, 2, stride=2, output_padding=1, groups=2),
    "convolution, 3d": lambda: nn.Conv3d(6, 4, (1, 2, 3), stride=(1, 2, 1), padding=1, groups=2),
    "convolution, 3d, circular": lambda: nn.Conv3d(6, 4, 2, padding=1, padding_mode="circular"),
}


def case(name, T=5, batch=3):
    """A layer in front of a neuron, and spikes for it."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    space = (4, 3, 3)[: layer.weight.dim() - 2]
    many = isinstance(layer, sjl.ConvTranspose2d) or not space

    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.neuron = layer, SpikingLayer(neurons.LIF(tau=4.0))

        def forward(self, x):
            if many:
                return self.neuron(self.layer(x))
            return self.neuron(self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2]))

    return Steps().eval(), spikes(T, batch, 6, *space)


def responses(layer, y):
    """What each weight alone makes of an input: rows ``[outputs, d, samples and positions]``."""
    alone = copy.deepcopy(layer).double()
    alone.step_mode = "s"
    alone.bias = nn.Parameter(torch.zeros(outputs_of(layer), dtype=torch.float64))
    found = {}
    with torch.no_grad():
        for at in range(layer.weight.numel()):
            alone.weight.zero_()
            alone.weight.view(-1)[at] = 1.0
            out = alone(y)
            out = out.movedim(1 if layer.weight.dim() > 2 else -1, 0).flatten(1)
            (row,) = out.abs().sum(1).nonzero()[:, 0].tolist() or (None,)
            found[at] = (row, out)
    places = torch.arange(layer.weight.numel()).reshape(layer.weight.shape)
    rows = outputs_first(layer, places).flatten(1)
    assert all(found[at][0] in (row, None) for row, ats in enumerate(rows.tolist()) for at in ats)
    return torch.stack(
        [torch.stack([found[at][1][row] for at in ats]) for row, ats in enumerate(rows.tolist())]
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_hessian_is_that_of_outputs_computed_weight_by_weight(name):
    model, x = case(name)
    y = dense_filter(x, 0.75).flatten(0, 1)
    alone = responses(model.layer, y)
    positions = alone.shape[2] / len(x)
    expected = 2 / positions * alone @ alone.mT
    found = compress.layer_hessian(x.double(), model.layer, neurons.Trace(0.75))
    groups = found if found.dim() == 3 else found[None]
    for hessian, rows in zip(groups, expected.chunk(len(groups)), strict=True):
        for row in rows:
            torch.testing.assert_close(hessian, row, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_stay_are_the_least_squares_solution_for_the_outputs(name):
    model, x = case(name)
    stats = compress.calibrate(model, [x])
    dense = outputs_first(model.layer, model.layer.weight.detach().clone()).flatten(1).double()
    alone = responses(model.layer, dense_filter(x, 0.75).flatten(0, 1))
    report = compress.prune(model, stats, 0.5)
    mask = outputs_first(model.layer, model.layer.weight_mask).flatten(1)
    pruned = outputs_first(model.layer, model.layer.weight.detach()).flatten(1).double()
    assert int(mask.sum()) == mask.numel() // 2
    before = after = 0.0
    for row in range(len(dense)):
        H = alone[row] @ alone[row].T
        expected = solved(dense[row, None], H, mask[row, None])
        torch.testing.assert_close(pruned[row, None], expected, rtol=1e-3, atol=1e-4)
        before += float((dense[row] @ alone[row]).square().sum())
        after += float(((dense[row] - pruned[row]) @ alone[row]).square().sum())
    assert report.column("membrane after") == [pytest.approx(after / before, rel=1e-4)]


@pytest.mark.parametrize("name", LAYERS)
def test_weights_on_a_grid_are_codes_times_the_scale_of_their_row(name):
    model, x = case(name)
    stats = compress.calibrate(model, [x])
    compress.prune(model, stats, 0.3)
    compress.quantize(model, stats, 4)
    layer = model.layer
    weight, codes = (outputs_first(layer, t).flatten(1) for t in (layer.weight, layer.weight_codes))
    assert torch.equal(weight, layer.weight_scale[:, None] * codes)
    assert not layer.weight[layer.weight_mask].any() and codes.unique().numel() > 4
    loaded, _ = case(name)
    compress.load_compressed(loaded, model.state_dict())
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_kept_beside_a_weight_is_contiguous_as_file_formats_ask(name):
    net, x = case(name)
    compress.prune(net, compress.calibrate(net, [x]), sparsity=0.5)
    compress.quantize(net, compress.calibrate(net, [x]), bits=4)
    loaded = safetensors.torch.load(safetensors.torch.save(net.state_dict()))
    again = case(name)[0]
    compress.load_compressed(again, loaded)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.items())
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_what_each_output_adds_up(name):
    layer = LAYERS[name]()
    rows = outputs_first(layer, layer.weight)
    assert is_weight_layer(layer) and len(rows) == outputs_of(layer) == 4
    assert torch.equal(in_weight_shape(layer, rows.flatten(1)), layer.weight)


def test_groups_of_a_pattern_are_input_channels_of_a_transposed_convolution_too():
    torch.manual_seed(0)
    model = nn.Sequential(
        sjl.ConvTranspose2d(8, 4, 2, groups=2, step_mode="m"), sjn.LIFNode(step_mode="m")
    ).eval()
    stats = compress.calibrate(model, [spikes(4, 3, 8, 3, 3)])
    compress.prune(model, stats, pattern="2:4")
    kept = ~model[0].weight_mask  # [8 inputs, 2 outputs of each group, kernel]
    assert (kept.unflatten(0, (2, 4)).sum(1) == 2).all()


def test_decays_of_channels_go_to_the_rows_of_a_transposed_convolution():
    torch.manual_seed(0)
    tau = torch.tensor([2.0, 4.0, 8.0]).reshape(3, 1, 1)
    model = nn.Sequential(
        sjl.ConvTranspose2d(2, 3, 2, step_mode="m"), SpikingLayer(neurons.LIF(tau))
    ).eval()
    x = spikes(5, 3, 2, 4, 4)
    stats = compress.calibrate(model, [x])
    assert sorted(int(block.rows) for block in stats["0"].spiking) == [0, 1, 2]
    for block in stats["0"].spiking:
        decay = 1 - 1 / float(tau[int(block.rows)])
        expected = compress.layer_hessian(x, model[0], neurons.Trace(decay))
        torch.testing.assert_close(block.hessian, expected)


def test_an_output_size_of_its_own_is_refused():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.neuron = nn.ConvTranspose1d(2, 3, 3, stride=2), neuron()

        def forward(self, x):
            out = self.layer(x.flatten(0, 1), output_size=[10])
            return self.neuron(out.unflatten(0, x.shape[:2]))

    def neuron():
        return SpikingLayer(neurons.LIF())

    with pytest.raises(ValueError, match="'layer': puts out something else"):
        compress.calibrate(Sized().eval(), [spikes(4, 3, 2, 4)])


def test_a_layer_within_vmap_is_named():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.neuron = nn.Linear(4, 4), SpikingLayer(neurons.LIF())

        def forward(self, x):
            return self.neuron(torch.vmap(self.layer)(x))

    with pytest.raises(ValueError, match=r"layer 'layer': is called within torch\.vmap"):
        compress.calibrate(Mapped().eval(), [spikes(4, 3, 4)])


def test_gpt2_is_pruned_in_its_linear_layers():
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = GPT2Model(config).eval()
    tokens = torch.randint(0, 20, (6, 8))
    stats = compress.calibrate(model, [{"input_ids": tokens}])
    assert list(stats) == [
        f"h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    dense = model(tokens).last_hidden_state
    report = compress.prune(model, stats, 0.5)
    linear, embedded = 8 * (24 + 8 + 32 + 32), (20 + 8) * 8
    assert report.notes == [
        f"{linear // 2} of {linear + embedded} weights removed, "
        f"{linear / 2 / (linear + embedded):.2%}",
        f"{linear // 2} of {linear} weights in these layers, 50.00%",
        "Left out (Embedding is not a layer that can be compressed): wte.weight, wpe.weight, "
        f"{embedded} weights",
    ]
    change = (model(tokens).last_hidden_state - dense).norm() / dense.norm()
    assert 0 < change < 0.5
