"""SpikingJelly: our LIFNode where theirs was; step modes, reset_net and monitors stay."""

import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from spikeloom.plugins import spikingjelly as loom

net = nn.Sequential(
    layer.Conv2d(1, 4, kernel_size=3, padding=1),
    loom.LIFNode(tau=2.0, detach_reset=True),
    layer.Flatten(),
    layer.Linear(4 * 8 * 8, 10),
    loom.LIFNode(tau=2.0, detach_reset=True),
)
functional.set_step_mode(net, "m")
print(net[1])

images = torch.rand(6, 1, 8, 8)
labels = torch.arange(6)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for _ in range(30):
    spikes = net(4 * images.expand(8, *images.shape))
    loss = nn.functional.cross_entropy(spikes.sum(0), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    functional.reset_net(net)

with torch.no_grad():
    print("spikes of the ten classes\n", net(4 * images.expand(8, *images.shape)).sum(0).int())
