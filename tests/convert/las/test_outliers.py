"""Massive activations, as large language models have them, survive; one range a site loses them."""

import pytest
import torch
from torch import nn

from spikeloom.convert import LAS
from spikeloom.convert.las.ranges import short
from spikeloom.convert.las.report import named_sites
from tests.convert.las.families import relative

WIDTH, HEADS, CHANNEL = 32, 4, 7


class RMSNorm(nn.RMSNorm):
    def __init__(self, width):
        super().__init__(width, eps=1e-6)


class Block(nn.Module):
    """Attention with a sink, the first token, and a feed-forward layer."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(WIDTH), RMSNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        shape = (*x.shape[:2], HEADS, -1)
        q, k, v = (
            part.view(shape).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        sink = torch.zeros(x.shape[1])
        sink[0] = 4.0
        scores = q @ k.mT * q.shape[-1] ** -0.5 + sink
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(torch.nn.functional.silu(self.up(self.norm2(x))))


class Massive(nn.Module):
    """Blocks whose residual stream has one channel far beyond the others, most at the first token.

    Weights that read the channel are small, as training makes them.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = RMSNorm(WIDTH), nn.Linear(WIDTH, 11)
        with torch.no_grad():
            for layer in [*(part for b in self.blocks for part in (b.qkv, b.up)), self.head]:
                layer.weight[:, CHANNEL] /= 500

    def forward(self, x):
        return self.head(self.norm(self.blocks(x)))


def massive(seed):
    x = 6 * torch.randn(4, 12, WIDTH, generator=torch.Generator().manual_seed(seed))
    x[..., CHANNEL] *= 100
    x[:, 0, CHANNEL] = 3000.0
    return x


def of_one_range(network, largest):
    """The same network, each site with its largest range alone."""
    for name, site in named_sites(network):
        whole = short(torch.tensor(largest[name]))
        # The inner ranges are so small that no value is in them.
        values = [getattr(site, key) for key in site.neuron.ranges]
        inner = [torch.full_like(v, 2.0 ** (n - 100)) for n, v in enumerate([*values][:-1])]
        site.install(site.neuron.steps, [*inner, whole], "nearest")
    return network


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")  # a single range has no room
def test_massive_activations_are_kept_where_a_single_range_loses_the_others():
    model = Massive().eval()
    recipe = LAS(steps=8, progress=False)
    network = recipe.apply(model, [massive(0), massive(1)])
    unseen = massive(7)
    wanted = model(unseen)
    assert 0 < relative(network(unseen), wanted) < 0.02
    outlier = zip(network.report.column("site"), network.report.column("outlier"), strict=True)
    largest = {name: value / recipe.headroom for name, value in outlier}
    assert relative(of_one_range(network, largest)(unseen), wanted) > 0.1


@torch.no_grad()
def test_the_report_names_the_massive_channel():
    report = LAS(progress=False).apply(Massive().eval(), [massive(0), massive(1)]).report
    rows = [row for row in report.outliers.rows if row[0] == "blocks.0.norm1.before"]
    ((_, channel, largest, ratio),) = rows
    assert channel == CHANNEL and largest == 3000.0 and ratio > 100
