"""signGD in SpikingJelly: the node between temporal-difference layers, and the recipe."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("spikingjelly")

from spikingjelly.activation_based import ann2snn, base, functional

import spikeloom
from spikeloom.convert import SignGD
from spikeloom.neurons import Exponential
from spikeloom.plugins import spikingjelly as loom


def ann():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.LeakyReLU(0.2),
        nn.Linear(8, 3),
    ).eval()


def shown(x, steps):
    """An image in the first step, nothing in the others."""
    increments = torch.zeros(steps, *x.shape)
    increments[0] = x
    return increments


def converted(model, x, **settings):
    return ann2snn.FXConverter(loom.SignGDRecipe([x], **settings)).convert(model)


def test_the_recipe_computes_what_our_own_conversion_computes():
    model, x = ann(), torch.randn(32, 1, 6, 6)
    snn = converted(model, x, steps=32)
    functional.set_step_mode(snn, "m")
    with torch.no_grad():
        found = snn(shown(x, 32)).sum(0)
        assert torch.allclose(found, SignGD(32).apply(model, x)(x), atol=1e-3)
        assert torch.allclose(found, model(x), atol=0.05)


def test_single_steps_equal_the_sequence_and_reset_starts_anew():
    model, x = ann(), torch.randn(8, 1, 6, 6)
    snn = converted(model, x, steps=12)
    functional.set_step_mode(snn, "m")
    with torch.no_grad():
        whole = snn(shown(x, 12))
        functional.reset_net(snn)
        functional.set_step_mode(snn, "s")
        steps = torch.stack([snn(now) for now in shown(x, 12)])
        assert torch.allclose(steps, whole, atol=1e-5)
        functional.reset_net(snn)
        assert torch.allclose(snn(x), whole[0], atol=1e-5)


def test_a_sequence_may_come_in_chunks():
    model, x = ann(), torch.randn(8, 1, 6, 6)
    snn = converted(model, x, steps=12)
    functional.set_step_mode(snn, "m")
    with torch.no_grad():
        whole = snn(shown(x, 12))
        functional.reset_net(snn)
        parts = [snn(part) for part in shown(x, 12).split(5)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


class Reading(nn.Module):
    """Token ids and a mask in; numbers, constants and a dict out."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 6), nn.Linear(6, 4)

    def forward(self, ids, mask):
        h = self.words(ids) * mask[..., None]
        h = torch.relu(self.layer(h.sum(1) / mask.sum(1, keepdim=True)))
        return {"out": torch.sqrt(h), "bias": self.layer.bias, "kind": "words", "size": 4}


def test_ids_masks_and_constants_pass_through_time():
    torch.manual_seed(0)
    model, ids = Reading().double(), torch.randint(0, 9, (6, 5))
    mask = torch.arange(5) < torch.tensor([5, 4, 3, 3, 2, 1])[:, None]
    recipe = loom.SignGDRecipe([(ids, mask)], steps=24)
    snn = ann2snn.FXConverter(recipe).convert(model)
    own = SignGD(24).apply(model, [(ids, mask)])
    moves = torch.zeros(24, 6, 5, dtype=torch.long)
    moves[0] = ids
    with torch.no_grad():
        single = [snn(now, mask) for now in moves]  # what is true once stays true
        functional.reset_net(snn)
        functional.set_step_mode(snn, "m")
        found, expected = snn(moves, mask.expand(24, 6, 5)), own(ids, mask)
    assert (found["kind"], found["size"]) == ("words", 4)
    for name in ("out", "bias"):
        assert torch.allclose(found[name].sum(0), expected[name], atol=1e-6)
        assert torch.allclose(torch.stack([y[name] for y in single]), found[name], atol=1e-6)


def test_another_batch_without_a_reset_is_refused():
    snn = converted(ann(), torch.randn(8, 1, 6, 6), steps=16)
    snn(torch.randn(8, 1, 6, 6))
    with pytest.raises(
        ValueError, match=r"input 0 has shape \[3, 1, 6, 6\].*call functional.reset"
    ):
        snn(torch.randn(3, 1, 6, 6))


def test_another_number_of_arguments_is_refused():
    snn = converted(ann(), torch.randn(8, 1, 6, 6), steps=16)
    with pytest.raises(TypeError, match="takes increments of the arguments"):
        snn(torch.randn(8, 1, 6, 6), torch.randn(8))


def test_every_spiking_node_is_a_node_of_spikingjelly():
    model, x = ann(), torch.randn(16, 1, 6, 6)
    before = copy.deepcopy(model.state_dict())
    snn = converted(model, x, steps=16)
    nodes = [module for module in snn.modules() if isinstance(module, loom.SpikeloomNode)]
    assert len(nodes) == 2 == len(snn.report.rows)  # the pool computes the GELU itself
    assert isinstance(snn, base.MemoryModule)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert copy.deepcopy(snn)(x).shape == (16, 3)


def test_an_unhandled_operator_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmin(-1), nn.Linear(4, 2))

    class Odd(nn.Module):
        def forward(self, x):
            return torch.fmod(x, 0.5)

    model[1] = Odd()
    with pytest.raises(NotImplementedError, match="fmod"):
        converted(model, torch.randn(8, 4))


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_the_node_stands_between_temporal_difference_layers(step_mode):
    from spikingjelly.activation_based.ann2snn import operators

    first, second = nn.Linear(6, 8), nn.Linear(8, 2)
    layers = []
    for layer in (first, second):
        twin = operators.TDLinear(layer.in_features, layer.out_features, step_mode=step_mode)
        twin.load_state_dict(layer.state_dict())
        layers.append(twin)
    node = loom.SignGDNode("gelu", Exponential(0.5, 0.85), step_mode=step_mode)
    net, x = nn.Sequential(layers[0], node, layers[1]), torch.randn(5, 6)
    arriving = shown(x, 40)
    with torch.no_grad():
        if step_mode == "m":
            total = net(arriving).sum(0)
        else:
            total = sum(net(now) for now in arriving)
        exact = second(torch.nn.functional.gelu(first(x)))
    assert torch.allclose(total, exact, atol=0.01)


def test_the_component_is_listed_and_repeats_the_neuron():
    from spikeloom import plugins

    assert ("spikingjelly", "SignGDNode") in {(c.host, c.name) for c in plugins.components()}
    arriving = 0.3 * torch.randn(10, 4)
    node = loom.SignGDNode("silu", Exponential(0.5, 0.9), step_mode="m")
    moves, _ = spikeloom.run(spikeloom.neurons.SignGD("silu", Exponential(0.5, 0.9)), arriving)
    assert torch.equal(node(arriving), moves)
