"""Values that a forward takes out of torch: no file says what becomes of them."""

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons
from spikeloom.export import NotExpressible, to_nir


class Between(nn.Module):
    def __init__(self, between) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.spike = nn.Linear(6, 8), SpikingLayer(neurons.LIF())
        self.between, self.last = between, nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.between(self.spike(self.first(x))))


def scaled_behind(y):
    """In memory that torch does not see change."""
    z = y.clone()
    z.detach().numpy()[...] *= 0.3
    return z


LEAVING = {
    "numpy": lambda y: torch.from_numpy(y.detach().numpy() * 0.3),
    "asarray": lambda y: torch.from_numpy(np.asarray(y.detach()) * 0.3),
    "tolist": lambda y: torch.tensor(y.tolist()),
    "dlpack": lambda y: torch.from_dlpack(np.from_dlpack(y.detach()) * np.float32(0.3)),
    "writing behind a tensor": scaled_behind,
    "a number": lambda y: y + 0.3 * y[0, 0, 0].item(),
}


@pytest.mark.parametrize("between", LEAVING.values(), ids=LEAVING)
def test_a_model_that_takes_values_out_of_torch_is_not_written(between):
    x = 2 * torch.rand(6, 3, 6, generator=torch.Generator().manual_seed(1))
    with pytest.raises(NotExpressible, match="takes values out of the signal"):
        to_nir(Between(between).eval(), x)


@pytest.mark.parametrize(
    "between",
    [
        lambda y: torch.from_numpy(np.ones(y.shape, "float32")),
        lambda y: y + torch.from_numpy(np.ones(8, "float32")),
        lambda y: torch.zeros(y.shape),
    ],
    ids=["an array", "an array beside the spikes", "zeros"],
)
def test_a_tensor_from_elsewhere_is_no_signal(between):
    x = 2 * torch.rand(6, 3, 6, generator=torch.Generator().manual_seed(1))
    with pytest.raises(NotExpressible):
        to_nir(Between(between).eval(), x)
