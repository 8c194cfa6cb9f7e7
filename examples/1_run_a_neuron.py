"""A neuron on its own: spikes, state, gradients, and the potential while it runs."""

import torch

import spikeloom
from spikeloom import neurons

# What the neuron computes is a description; it holds no state and belongs to no framework.
lif = neurons.LIF(tau=2.0, v_threshold=1.0, v_reset=0.0)

# Time comes first: 8 steps, a batch of 1, 3 neurons that receive 0.9, 1.3 and 2.5 at every step.
current = torch.tensor([[0.9, 1.3, 2.5]]).expand(8, 1, 3)
spikes, (v,) = spikeloom.run(lif, current)
print("spikes by neuron", spikes.sum(0).squeeze().tolist())

# A long sequence may come in pieces: the state goes on where it stopped.
first, state = spikeloom.run(lif, current[:3])
second, state = spikeloom.run(lif, current[3:], state)
assert torch.equal(torch.cat([first, second]), spikes)

# Gradients go through the surrogate, here with respect to the current and the time constant.
tau = torch.tensor(2.0, requires_grad=True)
learned = neurons.LIF(tau=tau, surrogate=neurons.surrogate.ATan())
x = current.clone().requires_grad_()
rate, _ = spikeloom.run(learned, x, reduce="mean")
rate.sum().backward()
print("d rate / d tau", round(tau.grad.item(), 4))

# The potential after every step, for plots and for losses on the membrane.
_, _, potential = spikeloom.run(lif, current, record="v")
print("potential of the second neuron", [round(value, 3) for value in potential[:, 0, 1].tolist()])
