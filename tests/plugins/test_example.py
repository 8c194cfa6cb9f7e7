"""What one example of a host's exporter stands for: a step or a sequence, with or without batch."""

import pytest
import torch
from torch import nn

from spikeloom import plugins
from spikeloom.plugins.example import example_of

sj, st, no = plugins.spikingjelly, plugins.snntorch, plugins.norse


def lifted(cell):
    import norse.torch as snn

    return snn.Lift(snn.SequentialState(nn.Linear(3, 2), cell))


def sequential(module):
    import norse.torch as snn

    return snn.SequentialState(nn.Linear(3, 2), module)


def theirs():
    from spikingjelly.activation_based import neuron

    return neuron.LIFNode()


class Looped(nn.Module):
    """A time loop of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(3, 2), st.Leaky(0.5)

    def forward(self, x):
        mem, spikes = None, []
        for now in x:
            s, mem = self.lif(self.fc(now), mem)
            spikes.append(s)
        return torch.stack(spikes)


def plain(*modules):
    return nn.Sequential(nn.Linear(3, 2), *modules)


STEPWISE = {
    "spikingjelly": lambda: plain(sj.LIFNode()),
    "spikingjelly's own": lambda: plain(theirs()),
    "snntorch": lambda: plain(st.Leaky(0.5, init_hidden=True)),
    "norse": lambda: sequential(no.LIFBoxCell()),
    "no neuron": plain,
}
OVER_TIME = {
    "spikingjelly": lambda: plain(sj.LIFNode(step_mode="m")),
    "snntorch": lambda: plain(st.Leaky(0.5, init_hidden=True, time_first=True)),
    "snntorch, looped": Looped,
    "norse": lambda: sequential(no.LIFBox()),
    "norse, lifted": lambda: lifted(no.LIFBoxCell()),
}


@pytest.mark.parametrize("case", STEPWISE)
def test_one_step_is_repeated(case):
    make = STEPWISE[case]
    step = torch.rand(5, 3)
    found = example_of(make(), step, 7)
    assert found.stepwise and found.leading == 1
    assert torch.equal(found.sequence, torch.stack([step] * 7))


@pytest.mark.parametrize("case", STEPWISE)
def test_a_step_without_batch_gets_one(case):
    make = STEPWISE[case]
    step = torch.rand(3)
    found = example_of(make(), step, 7)
    assert found.stepwise and found.leading == 0
    assert torch.equal(found.sequence, torch.stack([step[None]] * 7))


def test_an_image_without_batch_gets_one():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), st.Leaky(0.5, init_hidden=True), nn.Flatten(0))
    assert example_of(net, torch.rand(1, 6, 6), 4).sequence.shape == (4, 1, 1, 6, 6)
    net[2] = nn.Flatten()
    assert example_of(net, torch.rand(5, 1, 6, 6), 4).sequence.shape == (4, 5, 1, 6, 6)


@pytest.mark.parametrize("case", OVER_TIME)
def test_a_sequence_stays_as_it_is(case):
    make = OVER_TIME[case]
    sequence = torch.rand(6, 5, 3)
    found = example_of(make(), sequence, 7)
    assert not found.stepwise and found.leading == 2
    assert torch.equal(found.sequence, sequence)


@pytest.mark.parametrize("case", OVER_TIME)
def test_a_sequence_without_batch_is_refused(case):
    make = OVER_TIME[case]
    with pytest.raises(ValueError, match=r"takes sequences, \[T, batch, \*\], got \[6, 3\]"):
        example_of(make(), torch.rand(6, 3), 7)


def test_the_network_is_left_as_it_was():
    net = plain(sj.LIFNode())
    net(torch.rand(5, 3)).sum().backward()
    v = net[1].v.clone()
    example_of(net, torch.rand(5, 3), 3)
    assert net.training and torch.equal(net[1].v, v) and net[1].v.grad_fn is not None
    assert not net[1]._forward_hooks and not net[0]._forward_pre_hooks


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1.0], TypeError, "example: must be a floating-point tensor, got list"),
        (torch.ones(2, 6).int(), TypeError, r"got torch.int32; example.float\(\) makes one"),
        (torch.ones(2, 3, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.rand(5, 4), ValueError, r"does not run on \[5, 4\]"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        example_of(plain(sj.LIFNode()), given, 3)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_steps_are_counted(steps, error):
    with pytest.raises(error, match="steps: must be"):
        example_of(plain(sj.LIFNode()), torch.rand(5, 3), steps)


def test_only_networks_are_called():
    with pytest.raises(TypeError, match=r"net: must be a torch\.nn\.Module, got str"):
        example_of("net", torch.rand(2, 3), 3)


def test_a_network_that_cannot_be_copied_says_how_to_help():
    net = plain(theirs())
    net(torch.full((2, 3), 5.0))
    with pytest.raises(ValueError, match="reset its neurons' states first"):
        example_of(net, torch.rand(5, 3), 3)
