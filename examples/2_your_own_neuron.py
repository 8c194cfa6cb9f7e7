"""A neuron of your own: a few lines of arithmetic become a kernel, forward and backward."""

import torch
from torch import nn

import spikeloom
from spikeloom import plugins
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons.surrogate import ATan


def adaptive(x, state, p):
    """Each spike raises the threshold, which then sinks back."""
    v, a = state
    h = v + (x - v) / p.tau
    s = fire(h - 1.0 - a, ATan())
    return s, (h * (1.0 - s), p.decay * a + p.rise * s)


neuron = spikeloom.Neuron(
    adaptive,
    state=("v", "a"),
    params={"tau": 2.0, "decay": 0.8, "rise": nn.Parameter(torch.tensor(0.5))},
)
print(neuron)

# The compiled kernel fires the same spikes as the step itself, called on tensors step by step.
x = 3 * torch.rand(16, 4, 5)
spikes, _ = spikeloom.run(neuron, x)
expected, _ = spikeloom.run(neuron, x, implementation="eager")
assert torch.equal(spikes, expected)

# It works in every framework, and `rise` is learned there like any other parameter.
node = plugins.spikingjelly.make(neuron)
node(x).mean().backward()
print("d rate / d rise", round(node.rise.grad.item(), 4))
