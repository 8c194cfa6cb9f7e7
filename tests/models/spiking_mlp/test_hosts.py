"""The same spiking MLP in every framework: equal spikes, the host's loop, reset and containers."""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons, plugins
from spikeloom.models.spiking_mlp import ChannelBlock, Parts, TokenBlock
from spikeloom.verify import check_mfi, count_energy, fold_norms
from tests.models.spiking_mlp.cases import image, small, wake

HOSTS = ("spikingjelly", "snntorch", "norse")


def make_of(host: str):
    return getattr(plugins, host).make


def reset(host: str, model: nn.Module) -> None:
    if host == "spikingjelly":
        from spikingjelly.activation_based import functional

        functional.reset_net(model)
    elif host == "snntorch":
        plugins.snntorch.reset(model)


def step(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.train()
    model(x).mean(0).logsumexp(1).sum().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_computes_the_neutral_network(host):
    neutral, model = wake(small()), wake(small(make=make_of(host)))
    assert model.state_dict().keys() == neutral.state_dict().keys()
    x = image(2, 1, 8, 8, dtype=torch.float32)
    assert torch.equal(model.eval()(x), neutral.eval()(x))
    reset(host, model)
    for own, expected in zip(step(model, x), step(neutral, x), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize("host", HOSTS)
def test_a_few_steps_of_training_lower_the_loss_in_every_host(host):
    model = small(make=make_of(host))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, labels = image(30, 1, 8, 8, dtype=torch.float32), torch.arange(30) % 3
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).mean(0), labels)
        loss.backward()
        optimizer.step()
        reset(host, model)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("host", HOSTS)
def test_proofs_and_counts_are_those_of_the_neutral_network(host):
    x = image(2, 1, 8, 8, dtype=torch.float32)
    neutral = fold_norms(wake(small()).eval())
    model = fold_norms(wake(small(make=make_of(host))).eval(), make=make_of(host))
    proof, expected = check_mfi(model, x), check_mfi(neutral, x)
    assert proof.ok, proof
    assert (proof.accumulates, proof.additions) == (expected.accumulates, expected.additions)
    assert count_energy(model, x).proxy == count_energy(neutral, x).proxy


def test_spikingjelly_keeps_state_until_it_is_reset():
    from spikingjelly.activation_based import functional

    model = wake(small(make=plugins.spikingjelly.make)).eval()
    x = image(2, 1, 8, 8, dtype=torch.float32)
    first = model(x)
    assert not torch.equal(model(x), first)
    functional.reset_net(model)
    assert torch.equal(model(x), first)


def test_spikingjellys_own_neuron_fits_in_too():
    from spikingjelly.activation_based import neuron

    def own(description: spikeloom.Neuron) -> nn.Module:
        assert isinstance(description, neurons.LIF)
        return neuron.LIFNode(detach_reset=True, step_mode="m")

    x = image(2, 1, 8, 8)
    assert torch.allclose(
        wake(small(make=own)).double().eval()(x), wake(small()).double().eval()(x), atol=1e-12
    )


@pytest.mark.parametrize("host", HOSTS)
def test_the_blocks_come_from_every_host_and_fit_into_containers(host):
    torch.manual_seed(0)
    blocks = nn.Sequential(
        TokenBlock((4, 4), 6, Parts(make_of(host))),
        make_of(host)(neurons.LIF(decay_input=False)) if host == "spikingjelly" else nn.ReLU(),
        ChannelBlock((4, 4), 6, 3, Parts(make_of(host), bn_axis="token")),
    )
    y = blocks((image(3, 2, 6, 4, 4, dtype=torch.float32) > 1).float())
    assert y.shape == (3, 2, 6, 4, 4)
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in blocks.parameters())


def test_a_norse_container_takes_the_model_as_a_layer():
    from norse.torch import SequentialState

    model = wake(small(make=plugins.norse.make)).eval()
    x = image(4, 2, 1, 8, 8, dtype=torch.float32)
    y, _ = SequentialState(model, plugins.norse.make(neurons.LIFBox()))(x)
    assert y.shape == (4, 2, 10)


def test_strict_neurons_differ_only_at_the_threshold():
    strict = neurons.LIF(detach_reset=True, fires_at_threshold=False)
    x = image(2, 1, 8, 8)
    y = wake(small(neuron=strict)).double().eval()(x)
    assert torch.equal(y, wake(small()).double().eval()(x))
