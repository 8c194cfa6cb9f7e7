"""The linear filter."""

import pytest
import torch

import spikeloom
from spikeloom.neurons import Trace


def test_one_stage_is_a_sum_of_decaying_inputs():
    x = torch.randn(10, 4, dtype=torch.float64)
    weights = 0.7 ** torch.arange(9, -1, -1, dtype=torch.float64)
    _, (z,) = spikeloom.run(Trace(0.7), x)
    torch.testing.assert_close(z, (weights[:, None] * x).sum(0))


def test_two_stages_are_two_filters_in_a_row():
    x = torch.randn(10, 4)
    current, _ = spikeloom.run(Trace(0.4), x)
    wanted, _ = spikeloom.run(Trace(0.8), current)
    found, (z, i) = spikeloom.run(Trace(0.8, synaptic_decay=0.4), x)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(z, found[-1]) and torch.equal(i, current[-1])


def test_decay_zero_is_the_identity():
    x = torch.randn(5, 6)
    assert torch.equal(spikeloom.run(Trace(0.0), x)[0], x)


def test_decays_per_channel_broadcast_and_learn():
    decay = torch.rand(3, 1, 1, requires_grad=True)
    x = torch.randn(5, 2, 3, 4, 4)
    y, _ = spikeloom.run(Trace(decay), x)
    for channel in range(3):
        single, _ = spikeloom.run(Trace(float(decay.detach()[channel])), x[:, :, channel])
        torch.testing.assert_close(y[:, :, channel], single)
    y.sum().backward()
    assert decay.grad.shape == (3, 1, 1) and decay.grad.isfinite().all()


@pytest.mark.parametrize("form", [float, torch.tensor, lambda value: torch.tensor([0.5, value])])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_decay_outside_zero_and_one_is_refused(value, form):
    with pytest.raises(ValueError, match=r"Trace: synaptic_decay must lie in \[0, 1\], got"):
        Trace(0.5, synaptic_decay=form(value))
    with pytest.raises(ValueError, match=r"Trace: decay must lie in \[0, 1\], got"):
        Trace(form(value))


def test_a_decay_of_another_type_is_refused():
    with pytest.raises(TypeError, match=r"Trace: decay must be a number or a tensor, got '0\.5'"):
        Trace("0.5")
