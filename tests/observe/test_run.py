"""A run and its labels, with domains of a few lines: what depends on the input, by which module."""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.observe import Effect
from spikeloom.observe.domain import Domain
from spikeloom.observe.run import Run


class Depends(Domain[bool]):
    """Which tensors depend on the input; a comparison ends it."""

    def join(self, *values):
        return any(value is True for value in values)

    def orders(self, call):
        return False

    def passes(self, call):
        return self.join(*map(self.labels.of, call.operation.chosen(call.args)))


def depends(function, x=None):
    """Whether each result of a function depends on its argument."""
    x = torch.rand(3, 4) if x is None else x
    run = Depends()
    run.labels.make(x, True)
    with run:
        results = function(x)
        return [run.labels.of(y) is True for y in results]


def into_a_view(x):
    memory, other = torch.zeros(2, 4), torch.zeros(4)
    memory[0] = x[0]
    return memory, memory[1], memory.flatten().detach(), other


def into_what_shares_its_memory(x):
    memory = torch.zeros(6)
    alias = memory.detach()[2:]
    memory[:2] = x[0, :2]
    return (alias,)


def by_out(x):
    memory = torch.zeros(3, 4)
    torch.add(x, 1.0, out=memory)
    return (memory,)


def overwritten(x):
    memory = x.clone()
    memory.copy_(torch.ones(3, 4))
    y = x * 2.0
    return memory, y.lt_(0.5), y


def written_over_itself(x):
    memory = x.clone()
    memory.as_strided((3, 4), (1, 1)).copy_(torch.ones(3, 4))  # 6 of 12 values
    return (memory,)


def made_of_values(x):
    end = x[0, 0]
    return torch.linspace(0.0, end, 4), torch.randint_like(end, 3), torch.full_like(x, 2.0)


@pytest.mark.parametrize(
    "function, expected",
    [
        (
            lambda x: (x + 1, torch.ones(2), torch.zeros_like(x), x > 0.5),
            [True, False, False, False],
        ),
        (lambda x: (x[:, 1:].T, torch.where(x > 0.5, 1.0, 0.0)), [True, False]),
        (into_a_view, [True, True, True, False]),
        (into_what_shares_its_memory, [True]),
        (by_out, [True]),
        (overwritten, [False, False, False]),
        (written_over_itself, [True]),
        (made_of_values, [True, False, False]),
    ],
    ids=["results", "choices", "a view", "an alias", "out", "overwritten", "overlap", "made"],
)
def test_labels_follow_values(function, expected):
    assert depends(function) == expected


def test_memory_that_is_gone_labels_nothing():
    def reused(x):
        for _ in range(50):
            torch.zeros(3, 4)[0].copy_(x[0])  # at an address that the next one may get
        return [torch.zeros(3, 4) for _ in range(50)]

    assert not any(depends(reused))


def test_what_is_stated_holds_whatever_was_written_before():
    run, x = Depends(), torch.rand(3)
    run.labels.make(x, True)
    with run:
        memory = torch.zeros(2, 3)
        memory[0] = x
        run.labels.state(memory, False)
        assert run.labels.of(memory) is False and run.labels.of(memory[0]) is False


class Places(Run):
    def __init__(self):
        super().__init__()
        self.found = []

    def seen(self, call):
        if call.effect is Effect.WEIGHS or call.name == "relu":
            self.found.append((call.module, call.name))
        return super().seen(call)


def test_an_operation_is_told_with_the_innermost_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return torch.relu_(x @ torch.ones(4, 4))

    run, net = Places(), Net()
    with torch.no_grad(), run.over(net):
        net(torch.rand(2, 4))
    assert run.found == [("layers.0", "addmm"), ("layers.1", "relu"), ("", "mm"), ("", "relu")]
    net(torch.rand(2, 4))
    assert len(run.found) == 4 and run.stack == []


def test_a_model_may_be_called_in_any_manner_while_it_is_run():
    class Calls(Run):
        def entered(self, name, module, args, kwargs, whole):
            heard.append((name, whole))

        def left(self, name, module, output):
            left.append((name, None if output is None else tuple(output.shape)))

    heard, left = [], []
    net = nn.Sequential(nn.Linear(3, 2), spikeloom.SpikingLayer(neurons.LIF()))
    with Calls().over(net), pytest.raises(RuntimeError):
        net[1](net[0](torch.rand(4, 2, 3)))
        net[0](torch.rand(5))
    assert heard == [("0", True), ("1", True), ("0", True)]
    assert left == [("0", (4, 2, 2)), ("1", (4, 2, 2)), ("0", None)]


def test_modules_that_take_no_hooks_are_run_within_those_around_them():
    run = Places()
    net = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(3, 3))))
    with torch.no_grad(), run.over(net):
        net(torch.rand(2, 3))
    assert run.found == [("", "addmm")]
