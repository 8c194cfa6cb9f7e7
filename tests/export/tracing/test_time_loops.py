"""Time loops: the order of steps, feedback and memory, seen on a sample on which nothing fires."""

import pytest
import torch
from torch import Tensor, nn

from spikeloom import plugins
from spikeloom.export import NotExpressible, run_nir, to_nir
from tests.export.tracing.test_silent_samples import (
    B,
    N,
    T,
    assert_right_or_refused,
    fresh,
    weights,
)


class Loop(nn.Module):
    """A time loop over one neuron, run in any order and with any care for its state."""

    def __init__(self, run) -> None:
        super().__init__()
        self.fc, self.back = nn.Linear(N, N, bias=False), nn.Linear(N, N, bias=False)
        self.fc.weight, self.back.weight = weights(N, N), weights(N, N, seed=3)
        self.lif = plugins.snntorch.Leaky(0.5, threshold=0.5, reset_mechanism="zero")
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def stepped(order=range(T), feedback: int = 0, mem=lambda mem, step: mem):
    """Goes through the steps in an order, with feedback of some steps ago."""

    def run(net: Loop, x: Tensor) -> Tensor:
        state, spikes = net.lif.reset_mem(), [torch.zeros(B, N)] * feedback
        for step in order:
            h = net.fc(x[step])
            if feedback:
                h = h + net.back(spikes[-feedback])
            s, state = net.lif(h, mem(state, step))
            spikes.append(s)
        return torch.stack(spikes[feedback:])

    return run


def in_chunks(net: Loop, x: Tensor) -> Tensor:
    return torch.cat([net.lif.sequence(net.fc(part))[0] for part in x.split(2)])


def in_chunks_with_state(net: Loop, x: Tensor) -> Tensor:
    state, parts = None, []
    for part in x.split(2):
        y, state = net.lif.sequence(net.fc(part), state)
        parts.append(y)
    return torch.cat(parts)


def now_and_then(net: Loop, x: Tensor) -> Tensor:
    state, spikes, s = net.lif.reset_mem(), [], torch.zeros(B, N)
    for step in range(T):
        h = net.fc(x[step])
        s, state = net.lif(h + net.back(s) if step % 2 else h, state)
        spikes.append(s)
    return torch.stack(spikes)


def sums_with_the_last(net: Loop, x: Tensor) -> Tensor:
    spikes = stepped()(net, x)
    late, parts = torch.zeros(B, N), []
    for s in spikes:
        parts.append(s + net.back(late))
        late = s
    return torch.stack(parts)


LOOPS = {
    "in order": (stepped(), True),
    "with feedback": (stepped(feedback=1), True),
    "in chunks with its state": (in_chunks_with_state, True),
    "backwards": (stepped(range(T)[::-1]), False),
    "the first step only": (stepped([0] * T), False),
    "with late feedback": (stepped(feedback=2), False),
    "at rest at each step": (stepped(mem=lambda mem, step: torch.zeros(B, N)), False),
    "at rest in the middle": (
        stepped(mem=lambda mem, step: torch.zeros_like(mem) if step == 3 else mem), False
    ),
    "with half its state": (stepped(mem=lambda mem, step: mem * 0.5), False),
    "with the state of a step": (stepped(mem=lambda mem, step: mem.detach()), True),
    "in chunks from rest": (in_chunks, False),
    "feedback now and then": (now_and_then, False),
    "a late signal without a loop": (sums_with_the_last, False),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_written_with_its_steps_and_its_memory_or_refused(name):
    run, expressible = LOOPS[name]
    net = Loop(run)
    assert assert_right_or_refused(net) == expressible
    if not expressible:  # and it would have been wrong
        with torch.no_grad():
            plain = Loop(stepped(feedback=1 if "feedback" in name else 0))(fresh())
            assert not torch.equal(plain, net(fresh()))


def test_a_bias_on_feedback_that_has_not_begun_is_refused():
    net = Loop(stepped(feedback=1))
    net.back.bias = weights(N, seed=5)
    with pytest.raises(NotExpressible, match=r"back \(Linear\).*use bias=False"):
        to_nir(net, torch.zeros(T, B, N))


def test_a_neuron_that_does_not_begin_at_rest_is_refused():
    net = Loop(stepped(mem=lambda mem, step: mem if step else torch.full((B, N), 0.25)))
    with pytest.raises(NotExpressible, match=r"lif \(Leaky\).*does not begin at rest"):
        to_nir(net, torch.zeros(T, B, N))


def test_a_host_neuron_that_is_reset_within_the_sequence_is_refused():
    from spikingjelly.activation_based import functional

    class Resetting(nn.Module):
        def __init__(self, after: int) -> None:
            super().__init__()
            self.lif, self.after = plugins.spikingjelly.LIFNode(), after

        def forward(self, x: Tensor) -> Tensor:
            spikes = []
            for step, now in enumerate(x, 1):
                spikes.append(self.lif(now))
                if step == self.after:
                    functional.reset_net(self)
            return torch.stack(spikes)

    with pytest.raises(NotExpressible, match=f"is reset after 3 of {T} steps"):
        to_nir(Resetting(3), torch.zeros(T, B, N))
    graph, _ = to_nir(Resetting(T), torch.zeros(T, B, N))
    assert torch.equal(run_nir(graph, fresh()), Resetting(T)(fresh()))


class Half(nn.Module):
    """An operation between modules that no file can state."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


def stepwise(*modules: nn.Module) -> nn.Module:
    lif = plugins.spikingjelly.LIFNode()
    return nn.Sequential(nn.Linear(N, N), lif, nn.Linear(N, N), *modules)


@pytest.mark.parametrize(
    "after", [(), (nn.Linear(N, N),)], ids=["at the end", "before another layer"]
)
def test_an_operation_in_a_network_of_single_steps_is_named_once(after):
    net = stepwise(Half(), *after)
    with pytest.raises(NotExpressible) as caught:
        to_nir(net, 2 * torch.rand(T, B, N))
    (offence,) = caught.value.offences
    assert (offence.module, offence.kind) == ("3", "Half")
    assert "the function mul" in offence.reason


class Frozen(nn.Module):
    """Answers with its first output at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first = stepwise(), None

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        self.first = y if self.first is None else self.first
        return self.first


def test_a_network_of_single_steps_whose_output_is_not_its_own_step_is_refused():
    with pytest.raises(NotExpressible, match="stack puts 1 of 6 steps at all places"):
        to_nir(Frozen(), 2 * torch.rand(T, B, N))
