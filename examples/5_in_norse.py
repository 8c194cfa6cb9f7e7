"""Norse: our LIFBox, a cell for one step and a module for a sequence; states in and out."""

import norse.torch as norse
import torch
from torch import nn

from spikeloom.plugins import norse as loom

p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))
net = norse.SequentialState(nn.Linear(20, 32), loom.LIFBox(p), nn.Linear(32, 10), loom.LIFBox(p))
print(net[1])

currents = 2 * torch.rand(8, 6, 20)
spikes, state = net(currents)
print("potentials of the hidden layer", tuple(state[1].v.shape))

# The next chunk goes on from the state of the last one.
more, state = net(currents, state)

# Step by step, the cell computes the same; Norse lifts it over time like its own.
cells = norse.Lift(norse.SequentialState(net[0], loom.LIFBoxCell(p), net[2], loom.LIFBoxCell(p)))
lifted, _ = cells(currents)
assert torch.equal(lifted, spikes)
