"""Networks that were trained in SpikingJelly, snnTorch and Norse, and a spiking MLP."""

from __future__ import annotations

import norse.torch as norse
import torch
from spikingjelly.activation_based import layer as sj_layers
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.models import SpikingMLP
from spikeloom.plugins import norse as loom_norse
from spikeloom.plugins import snntorch as loom_snntorch
from spikeloom.plugins import spikingjelly as loom_sj
from tests.compositions.subject import subject, tuned

T, B = 5, 4


def currents() -> Tensor:
    """Real input ``[T, B, 8]``."""
    return 6 * torch.rand(T, B, 8, generator=torch.Generator().manual_seed(1))


def images() -> Tensor:
    """Real input ``[T, B, 1, 4, 4]``."""
    return 3 * torch.rand(T, B, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def trained(net: nn.Module, sample: Tensor) -> nn.Module:
    """After a few steps of training, in which norms have seen the data."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return tuned(net.train(), sample, steps=3).eval()


@subject(
    "SpikingJelly",
    "Linear layers, a batch norm and neurons over whole sequences.",
    sample=currents,
    layers=("0", "3"),
    real=("0",),
    folds=("1",),
)
def spikingjelly() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 12),
        sj_layers.BatchNorm1d(12, step_mode="m"),
        loom_sj.LIFNode(step_mode="m"),
        nn.Linear(12, 6),
        loom_sj.LIFNode(step_mode="m"),
    )
    return trained(net, currents())


class Sequences(nn.Module):
    """snnTorch's neurons as they take whole sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 6)
        self.lif1, self.lif2 = (
            loom_snntorch.Leaky(0.5, reset_mechanism="zero", time_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        currents = self.norm(self.fc1(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        fired: Tensor = self.lif2(self.fc2(self.lif1(currents)[0]))[0]
        return fired


@subject(
    "snnTorch",
    "Whole sequences through its neurons, a batch norm between.",
    sample=currents,
    layers=("fc1", "fc2"),
    real=("fc1",),
    folds=("norm",),
    multiplies=("lif1", "lif2"),
)
def snntorch() -> nn.Module:
    torch.manual_seed(0)
    return trained(Sequences(), currents())


@subject(
    "Norse",
    "A container that hands states on, over whole sequences.",
    sample=images,
    layers=("net.0", "net.3"),
    real=("net.0",),
)
def norse_network() -> nn.Module:
    torch.manual_seed(0)
    box = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.5))
    return trained(
        First(
            norse.SequentialState(
                sj_layers.Conv2d(1, 3, 3, step_mode="m"),
                loom_norse.LIFBox(box),
                nn.Flatten(2),
                nn.Linear(12, 6),
                loom_norse.LIFBox(box),
            )
        ),
        images(),
    )


class First(nn.Module):
    """The spikes alone, without the states."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.net(x)[0]
        return spikes


BLOCK = "stages.0.blocks.0"
# Weight layer -> the norm that folds into it.
WEIGHTS = {
    "stages.0.embed.weight": "stages.0.embed.norm.0",
    f"{BLOCK}.token.along_width.0": f"{BLOCK}.token.along_width.1",
    f"{BLOCK}.token.along_height.0": f"{BLOCK}.token.along_height.1",
    f"{BLOCK}.token.fuse.0": f"{BLOCK}.token.fuse.1",
    f"{BLOCK}.channel.up.0": f"{BLOCK}.channel.up.1",
    f"{BLOCK}.channel.down.0": f"{BLOCK}.channel.down.1",
    "head.3": "head.0",
}


@subject(
    "Spiking MLP",
    "The paper's network, its batch norms on channels.",
    sample=images,
    layers=tuple(WEIGHTS),
    real=("stages.0.embed.weight", "head.3"),
    folds=tuple(WEIGHTS.values()),
    nir={"dense_token_mixing": True, "target": "nir"},
)
def spiking_mlp() -> nn.Module:
    torch.manual_seed(0)
    lif = neurons.LIF(v_threshold=0.5, v_reset=0.0, detach_reset=True)
    net = SpikingMLP(
        image_size=4, patch_size=2, in_channels=1, num_classes=3, dim=6, depths=(1,), neuron=lif
    )
    return trained(net, images())
