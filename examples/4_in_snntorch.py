"""snnTorch: our Leaky where theirs was; step by step in a loop, or the whole sequence at once."""

import snntorch.functional as SF
import torch
from snntorch import surrogate
from torch import nn

from spikeloom.plugins import snntorch as loom

currents = 2 * torch.rand(8, 6, 20)
labels = torch.arange(6)

# As in snnTorch's tutorials: one step at each call, mem in and out.
fc = nn.Linear(20, 10)
lif = loom.Leaky(beta=0.9, spike_grad=surrogate.fast_sigmoid())
mem, spikes = None, []
for current in currents:
    spk, mem = lif(fc(current), mem)
    spikes.append(spk)

# The same in one call, which is what makes it fast.
fused, mem = lif.sequence(fc(currents))
assert torch.equal(fused, torch.stack(spikes))

# In a Sequential the neurons keep their states: time_first makes the fused call their ordinary one.
net = nn.Sequential(
    nn.Linear(20, 32),
    loom.Leaky(beta=0.9, init_hidden=True, time_first=True),
    nn.Linear(32, 10),
    loom.Leaky(beta=0.9, init_hidden=True, time_first=True),
)
criterion = SF.ce_count_loss()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for _ in range(30):
    loom.reset(net)
    loss = criterion(net(currents), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

loom.reset(net)
print("accuracy", SF.accuracy_rate(net(currents), labels))
