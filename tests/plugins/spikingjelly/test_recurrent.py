"""LinearRecurrentContainer beside SpikingJelly's own."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from spikeloom.kernel import feedback
from spikeloom.nn import feedback as loops
from spikeloom.plugins import spikingjelly

T, BATCH, N = 12, 3, 6


@pytest.fixture
def loop_calls(monkeypatch):
    """Counts the sequences that are one call."""
    calls, run = [], loops.run_loop

    def counted(*arguments):
        calls.append(arguments)
        return run(*arguments)

    monkeypatch.setattr(loops, "run_loop", counted)
    monkeypatch.setattr(feedback, "WORTH_EVENTS", 0)
    return calls


def pair(node=spikingjelly.LIFNode, host=neuron.LIFNode, bias=True):
    """SpikingJelly's container and ours, with weights that are exact."""
    torch.manual_seed(0)
    theirs = layer.LinearRecurrentContainer(host(), N, N, bias=bias, step_mode="m").double()
    for parameter in theirs.parameters():
        parameter.data = torch.randint(-24, 25, parameter.shape).double() / 16
    ours = spikingjelly.LinearRecurrentContainer(node(), N, N, bias=bias, step_mode="m").double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def drive(*shape):
    torch.manual_seed(1)
    return torch.randint(-16, 49, shape or (T, BATCH, N)).double() / 32


NODES = {
    "LIFNode": (spikingjelly.LIFNode, neuron.LIFNode),
    "IFNode": (spikingjelly.IFNode, neuron.IFNode),
    "ParametricLIFNode": (spikingjelly.ParametricLIFNode, neuron.ParametricLIFNode),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NODES)
def test_spikes_states_and_gradients_equal_the_host(name, bias, loop_calls):
    theirs, ours = pair(*NODES[name], bias=bias)
    torch.manual_seed(2)
    weight, found = torch.randn(T, BATCH, N, dtype=torch.float64), []
    for module in (theirs, ours):
        x = drive().requires_grad_()
        y = module(x)
        loss = (y * weight).sum() + module.sub_module.v.sum()
        grads = torch.autograd.grad(loss, (x, *(p for _, p in sorted(module.named_parameters()))))
        found.append((y, module.y, module.sub_module.v, *grads))
    assert 0.05 < found[0][0].mean() < 0.95
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)
    assert len(loop_calls) == 1


def test_a_sequence_goes_on_where_another_has_ended_and_a_reset_begins_anew(loop_calls):
    theirs, ours = pair()
    x = drive()
    whole = theirs(x)
    assert torch.equal(torch.cat((ours(x[:5]), ours(x[5:]))), whole)
    functional.reset_net(ours)
    assert torch.equal(ours(x), whole)
    assert len(loop_calls) == 3


def test_single_steps_are_the_hosts():
    theirs, ours = pair()
    theirs.step_mode = ours.step_mode = "s"
    for now in drive():
        assert torch.equal(ours(now), theirs(now))


def test_another_batch_needs_a_reset_as_in_the_host():
    _, ours = pair()
    ours(drive())
    with pytest.raises(ValueError, match="reset_net"):
        ours(drive(T, BATCH + 1, N))


class Halved(spikingjelly.LIFNode):
    def single_step_functional_forward(self, inputs, states):
        return super().single_step_functional_forward((0.5 * inputs[0],), states)


STEPPED = {
    "SpikingJelly's own neuron": lambda: neuron.LIFNode(),
    "a layer before the neuron": lambda: nn.Sequential(nn.Linear(N, N), spikingjelly.LIFNode()),
    "a node with a step of its own": lambda: Halved(),
    "a recorded potential": lambda: spikingjelly.LIFNode(store_v_seq=True),
}


@pytest.mark.parametrize("name", STEPPED)
def test_anything_else_inside_is_run_step_by_step_as_the_host_does(name, loop_calls):
    torch.manual_seed(0)
    ours = spikingjelly.LinearRecurrentContainer(STEPPED[name](), N, N, step_mode="m").double()
    theirs = layer.LinearRecurrentContainer(copy.deepcopy(ours.sub_module), N, N, step_mode="m")
    theirs = theirs.double()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(drive()), theirs(drive()))
    assert not loop_calls


def test_a_hook_on_the_node_sees_every_step(loop_calls):
    _, ours = pair()
    seen = []
    ours.sub_module.register_forward_hook(lambda *call: seen.append(call))
    ours(drive())
    assert len(seen) == T and not loop_calls
