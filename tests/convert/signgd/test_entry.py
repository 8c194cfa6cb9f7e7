"""What enters a converted network is a number, and one like those of calibration."""

import pickle
import warnings

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.neurons import Exponential


class Masked(nn.Module):
    """A mask that is added, and infinite where nothing may be seen."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, mask):
        return torch.softmax(self.layer(x) + mask, -1)


def converted(model, *call):
    return SignGD(8, Exponential(1.0, 0.8), margin=1.2).apply(model, [call])


def small():
    x = torch.rand(16, 4)
    return converted(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), x), x


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("decompose", [False, True])
def test_nan_and_infinity_are_refused_by_the_name_of_the_argument(odd, decompose):
    model, x = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), torch.rand(16, 4)
    snn = SignGD(8, Exponential(1.0, 0.8), decompose, margin=1.2).apply(model, x)
    x[3, 1] = odd
    with pytest.raises(ValueError, match=r"^input: holds NaN or infinity"):
        snn(x)


def test_the_argument_that_is_meant_is_named():
    x, mask = torch.rand(8, 4), torch.zeros(8, 4)
    snn = converted(Masked(), x, mask)
    with pytest.raises(ValueError, match=r"^mask: holds NaN"):
        snn(x, mask * torch.nan)


def test_infinity_is_welcome_where_calibration_had_it_but_nan_is_not():
    model, x, mask = Masked(), torch.rand(8, 4), torch.zeros(8, 4)
    mask[:, 3] = -torch.inf
    snn = converted(model, x, mask)
    with torch.no_grad():
        assert (snn(x, mask) - model(x, mask)).abs().max() < 0.2
    with pytest.raises(ValueError, match="mask: holds NaN"):
        snn(x, mask * 0.0)


# A node that cuts what is so large says so too.
@pytest.mark.filterwarnings("ignore:.*lie beyond the node")
def test_inputs_that_are_far_larger_than_in_calibration_warn_once():
    snn, x = small()
    with pytest.warns(UserWarning, match=r"input reaches .* Convert again with") as seen:
        snn(3 * x)
    (warning,) = [warning for warning in seen if "input reaches" in str(warning.message)]
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn(3 * x)


def test_inputs_like_those_of_calibration_do_not_warn():
    snn, x = small()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn(x)
        snn(1.2 * x)
        snn(x[:0])


def test_all_calibration_batches_count():
    x = torch.rand(16, 4)
    snn = SignGD(4).apply(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), [x, 5 * x])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(snn))(5 * x)
