"""The adaptive threshold against a loop in float64."""

import pytest
import torch

from spikeloom import neurons, plugins, run
from spikeloom.modules import response_of


def loop(x, tau, rho, beta, threshold, reset):
    v = torch.full(x.shape[1:], reset or 0.0, dtype=torch.float64)
    a, spikes = torch.zeros_like(v), []
    for now in x.double():
        h = v + (now - (v - (reset or 0.0))) / tau
        s = (h >= threshold + a).double()
        v = h - s * (threshold + a) if reset is None else torch.where(s > 0, reset, h)
        a = rho * a + beta * s
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize("reset", [None, 0.0, -0.5])
def test_spikes_equal_an_independent_loop(reset):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 33, (20, 4, 5), generator=generator) / 8
    neuron = neurons.ALIF(2.0, 0.5, 0.25, 0.75, v_reset=reset)
    spikes, _ = run(neuron, x)
    expected = loop(x, 2.0, 0.5, 0.25, 0.75, reset)
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(spikes.double(), expected)


def test_the_kernel_differentiates_as_the_step_itself():
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    learned = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in {"tau": 2.0, "rho": 0.8, "beta": 0.3, "v_threshold": 0.5}.items()
    }
    neuron = neurons.ALIF(**learned)
    assert neuron.program is not None, neuron.reason
    found, expected = (
        torch.autograd.grad(run(neuron, x, implementation=how)[0].sum(), (x, *learned.values()))
        for how in ("llvm", "eager")
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rho", [1.0, -0.1])
def test_a_share_outside_its_range_is_refused(rho):
    with pytest.raises(ValueError, match=r"rho must be in \[0, 1\)"):
        neurons.ALIF(rho=rho)


def test_its_classes_in_the_hosts_agree_and_calibration_knows_its_decay():
    x = torch.rand(12, 2, 3, generator=torch.Generator().manual_seed(0)) * 3
    expected, _ = run(neurons.ALIF(rho=0.5), x)
    assert torch.equal(plugins.norse.ALIF(rho=0.5)(x)[0], expected)
    assert torch.equal(plugins.snntorch.ALIF(rho=0.5).sequence(x)[0], expected)
    assert torch.equal(plugins.spikingjelly.ALIFNode(rho=0.5, step_mode="m")(x), expected)
    assert response_of(plugins.norse.ALIF(tau=4.0)).decay == 0.75
