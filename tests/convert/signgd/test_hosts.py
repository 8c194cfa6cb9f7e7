"""A converted network whose nodes are any host's modules, as the host's plain make returns them."""

import importlib

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.neurons import Exponential

HOSTS = ("norse", "snntorch", "spikingjelly")


def converted(model, x, host=None, **settings):
    make = None
    if host is not None:
        pytest.importorskip(host)
        make = importlib.import_module(f"spikeloom.plugins.{host}").make
    return SignGD(24, Exponential(1.0, 0.85), margin=1.2, make=make, **settings).apply(model, x)


@pytest.mark.parametrize("host", HOSTS)
def test_a_hosts_plain_make_computes_what_the_fast_path_does(host):
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    x = torch.randn(16, 6, dtype=torch.float64)
    snn = converted(model, x, host)
    with torch.no_grad():
        first, fast = snn(x), converted(model, x)(x)
        torch.testing.assert_close(first, fast, rtol=0, atol=1e-6)
        assert torch.equal(snn(x), first)  # from rest again


@pytest.mark.parametrize("host", HOSTS)
def test_a_target_that_is_undefined_for_a_while_does_no_harm(host):
    # The first estimates of a variance may be negative.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.Softmax(-1)).double()
    x = torch.randn(64, 6, dtype=torch.float64)
    with torch.no_grad():
        fast = converted(model, x, decompose=True)(x)
        found = converted(model, x, host, decompose=True)(x)
    torch.testing.assert_close(found, fast, rtol=0, atol=1e-6)


class Causal(nn.Module):
    """Attention whose mask holds infinities."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x):
        return self.attention(x, x, x, attn_mask=self.mask.to(x.dtype), need_weights=False)[0]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("decompose", [False, True])
def test_a_mask_of_infinities_does_no_harm(host, decompose):
    torch.manual_seed(0)
    model, x = Causal().double(), torch.randn(16, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        fast = converted(model, x, decompose=decompose)(x)
        found = converted(model, x, host, decompose=decompose)(x)
    torch.testing.assert_close(found, fast, rtol=0, atol=1e-6)
