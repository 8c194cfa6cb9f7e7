"""How far nodes reach: per channel, and drawn to their likes where samples are few."""

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.reach import with_floor
from spikeloom.neurons import Exponential

QUICK = Exponential(1.0, 0.8)


def scales_of(model, x, **settings):
    snn = SignGD(8, QUICK, margin=1.0, **settings).apply(model, x)
    return [snn.scales[site.name] * QUICK.reach(8) for site in snn.plan.sites], snn


@torch.no_grad()
@pytest.mark.parametrize(
    ("per", "axes"), [("channel", (0, 2, 3)), ("neuron", (0,)), ("node", (0, 1, 2, 3))]
)
def test_of_many_samples_reach_is_the_largest_magnitude_of_each_part(per, axes):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU()), torch.randn(10_000, 2, 4, 4)
    (reach,), _ = scales_of(model, x, per=per)
    torch.testing.assert_close(reach, model(x).abs().amax(axes, keepdim=True))


@torch.no_grad()
def test_auto_takes_each_neuron_where_samples_suffice_and_each_channel_else():
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU()), torch.randn(256, 2, 4, 4)
    assert scales_of(model, x)[0][0].shape == (1, 3, 2, 2)
    assert scales_of(model, x[:255])[0][0].shape == (1, 3, 1, 1)
    # All batches count, not only the first.
    assert scales_of(model, [x[:128], x[128:]])[0][0].shape == (1, 3, 2, 2)


class Moved(nn.Module):
    """Features that are last, then in front, then last again."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(3, 6)

    def forward(self, x):
        h = torch.tanh(self.first(x)).transpose(1, 2)
        h = torch.abs(h)
        return torch.sigmoid(self.second(h)).permute(0, 2, 1).exp()


def test_channels_are_followed_through_moved_axes():
    _, snn = scales_of(Moved(), torch.randn(8, 3, 4), decompose=True)
    found = [(site.operator, site.channel) for site in snn.plan.sites]
    assert found == [("tanh", 2), ("abs", 1), ("sigmoid", 2), ("exp", 1)]


def test_few_samples_draw_each_reach_to_the_largest_of_its_channel_and_of_the_node():
    reach = torch.tensor([[[0.1, 8.0], [0.1, 0.2]]])  # [1, channels, pixels]
    assert torch.equal(with_floor(reach, 4), torch.full((1, 2, 2), 8.0))
    found = with_floor(reach, 144, channel=1)  # a quarter
    torch.testing.assert_close(found, torch.tensor([[[2.0, 8.0], [0.5, 0.5]]]))


def test_a_channel_is_drawn_to_its_node_once():
    found = with_floor(torch.tensor([[0.1, 8.0, 3.0]]), 144, channel=1)
    torch.testing.assert_close(found, torch.tensor([[2.0, 8.0, 3.0]]))
    assert torch.equal(with_floor(torch.tensor([0.0, 4.0]), 144), torch.tensor([1.0, 4.0]))


def test_a_node_that_was_silent_reaches_1():
    assert torch.equal(with_floor(torch.zeros(3), 10), torch.ones(3))


@torch.no_grad()
def test_the_pixels_of_a_channel_count_as_values_of_it():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 3, 1), nn.GELU()), torch.randn(4, 2, 12, 12)
    with torch.no_grad():
        model[0].weight *= torch.tensor([1.0, 0.01, 0.5]).view(3, 1, 1, 1)
        model[0].bias.zero_()
    (reach,), _ = scales_of(model, x)
    largest = model(x).abs().amax((0, 2, 3), keepdim=True)
    # The largest of 4 samples of 144 pixels each, so at least an eighth of the node's largest.
    torch.testing.assert_close(reach, largest.clamp_min(largest.max() / 8))
