"""Convert networks that were trained on 32x32 pictures of textures and shapes with signGD.

    python examples/signgd_textures.py --net gelu resmlp --steps 16 32
    python examples/signgd_textures.py --seeds 0 1 2 --plot textures.png      # all of it, an hour

Ten classes of pictures, drawn here: stripes, checks, rings, spokes, two sizes of blobs, and discs,
squares, crosses and frames; each turned, shifted, of its own contrast, sign and size, and in noise.
4000 to train on, of which 128 calibrate, and 400 to test on. Convolutional networks with max-pool
(GELU, LeakyReLU, SiLU, ReLU), an MLP-Mixer, a ResMLP and a ConvNeXt are trained as usual and
converted; the methods are those of signgd_digits.py.

Below the table stands what a bit costs, and from how many steps on the spikes cost more than the
float network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from beyond_relu.comparison import compare
from beyond_relu.networks import ConvNeXt, Mixer, ResMLP, cnn
from beyond_relu.training import Data
from torch import Tensor, nn

from spikeloom.verify import EnergyCosts

SIZE, TRAINED, UNSEEN = 32, 4000, 400


def load(seed: int) -> Data:
    """Pictures [n, 1, 32, 32] and their classes."""
    draw = torch.Generator().manual_seed(seed)
    count = TRAINED + UNSEEN
    labels = torch.randint(len(KINDS), (count,), generator=draw)
    pictures = torch.stack([drawn(int(label), draw) for label in labels])[:, None]
    return Data(pictures[:TRAINED], pictures[TRAINED:], labels[:TRAINED], labels[TRAINED:])


def drawn(label: int, draw: torch.Generator) -> Tensor:
    """One picture of a class."""
    turn, right, down, scale, contrast, sign = torch.rand(6, generator=draw).tolist()
    line = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(line - 0.6 * (down - 0.5), line - 0.6 * (right - 0.5), indexing="ij")
    angle = math.pi * turn
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    form = KINDS[label](along, across, scale, draw)
    tone = (0.5 + contrast) * (1 if sign < 0.5 else -1) * form
    return tone + 0.2 * torch.randn(SIZE, SIZE, generator=draw)


def stripes(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    return torch.sin((8 + 8 * scale) * x)


def checks(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    return torch.sign(torch.sin((6 + 6 * scale) * x) * torch.sin((6 + 6 * scale) * y))


def rings(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    return torch.sin((10 + 10 * scale) * torch.hypot(x, y))


def spokes(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    return torch.sin(round(4 + 4 * scale) * torch.atan2(y, x))


def blobs(cells: int) -> Callable[[Tensor, Tensor, float, torch.Generator], Tensor]:
    def form(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
        coarse = torch.randn(1, 1, cells, cells, generator=draw)
        return F.interpolate(coarse, size=SIZE, mode="bicubic")[0, 0]

    return form


def disc(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    return (torch.hypot(x, y) < 0.35 + 0.3 * scale).float()


def square(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    return (torch.maximum(x.abs(), y.abs()) < 0.3 + 0.3 * scale).float()


def cross(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    near, far = torch.minimum(x.abs(), y.abs()), torch.maximum(x.abs(), y.abs())
    return ((near < 0.12) & (far < 0.5 + 0.3 * scale)).float()


def frame(x: Tensor, y: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    edge = torch.maximum(x.abs(), y.abs()) - (0.35 + 0.3 * scale)
    return (edge.abs() < 0.1).float()


KINDS = (stripes, checks, rings, spokes, blobs(5), blobs(12), disc, square, cross, frame)
WIDTHS = (8, 16, 32)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "gelu": lambda: cnn(nn.GELU, SIZE, WIDTHS),
    "leaky": lambda: cnn(lambda: nn.LeakyReLU(0.1), SIZE, WIDTHS),
    "silu": lambda: cnn(nn.SiLU, SIZE, WIDTHS),
    "relu": lambda: cnn(nn.ReLU, SIZE, WIDTHS),
    "mixer": lambda: Mixer(SIZE, patch=4),
    "resmlp": lambda: ResMLP(SIZE, patch=4),
    "convnext": ConvNeXt,
}


def break_even(costs: EnergyCosts = EnergyCosts()) -> str:
    """From how many steps on a synapse costs more by bits than by one multiplication."""
    addition, product = costs.ac, costs.mac
    with_memory = (
        costs.ac + costs.byte * costs.event_bytes,
        costs.mac + costs.byte * costs.mac_bytes,
    )
    return (
        f"Each bit moves what every receiver holds, a 0 like a 1: an addition at each synapse and "
        f"step, where the float network multiplies once. By arithmetic alone the spikes cost more "
        f"from T={product / addition:.1f} on, or T={2 * product / addition:.1f} if zeros, about "
        f"half of all bits, could be left out; with memory accesses, from "
        f"T={with_memory[1] / with_memory[0]:.2f} on."
    )


if __name__ == "__main__":
    compare(__doc__, NETWORKS, load, steps=[4, 8, 16, 32, 64], epochs=25, calibrate=128)
    print(break_even())
