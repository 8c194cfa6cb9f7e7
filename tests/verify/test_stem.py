"""Which product of weights is the stem, and which products need no proof."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom.verify import check_mfi
from tests.verify.spiking import currents, lif, proof

# --- The stem ---------------------------------------------------------------------------------


class Functional(nn.Module):
    """A stem that is no module."""

    def __init__(self, then, by_steps=False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.spike = nn.Parameter(torch.randn(8, 4)), lif()
        self.last, self.then, self.by_steps = nn.Linear(8, 8), then, by_steps

    def forward(self, x):
        if self.by_steps:
            y = torch.stack([F.linear(step, self.weight) for step in x])
        else:
            y = F.linear(x, self.weight)
        return self.then(self.last(self.spike(y)), x)


def unchanged(y, x):
    return y


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_stem_that_is_a_function_is_exempt(by_steps):
    report = check_mfi(Functional(unchanged, by_steps).eval(), currents())
    assert report.ok, report
    assert report.exempt == ["(model)"]
    assert report.exempt_multiplications == 5 * 2 * 4 * 8
    assert "exempt: (model) (320 multiplications)" in str(report)


@pytest.mark.parametrize(
    "then",
    [
        lambda y, x: y * y * 0.3,
        lambda y, x: torch.softmax(y, -1),
        lambda y, x: y + F.linear(x, torch.full((8, 4), 0.3, dtype=x.dtype)),
    ],
    ids=["products", "softmax", "a second layer on the sample"],
)
def test_a_stem_that_is_a_function_exempts_nothing_else_of_its_forward(then):
    report = check_mfi(Functional(then).eval(), currents())
    assert report.violations == ["(model)"], report
    assert report.multiplications > 0


def test_a_stem_is_not_exempt_where_it_sees_hidden_real_values():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.spike = nn.Linear(8, 8), lif()

        def forward(self, x):
            return self.stem(self.stem(self.spike(self.stem(x))))

    report = check_mfi(Twice().eval(), currents(5, 2, 8))
    assert report.violations == ["stem"]
    assert not report.proofs["static"]


def test_a_stem_that_is_called_at_every_step_is_exempt_each_time():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.spike, self.last = nn.Linear(4, 8), lif(), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.spike(torch.stack([self.stem(step) for step in x])))

    report = check_mfi(Steps().eval(), currents())
    assert report.ok, report
    assert report.exempt == ["stem"]


# --- Products of constants ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "then",
    [
        lambda net, s: torch.addmm(s[0], net.last.weight[:2], net.hidden.weight),
        lambda net, s: F.linear(net.last.weight[:2], net.hidden.weight, s[0, 0]),
        lambda net, s: net.last(s) + net.last.weight[:1] @ net.hidden.weight,
    ],
    ids=["addmm", "linear", "mm"],
)
def test_a_product_of_constants_may_be_added(then):
    report = proof(then)
    assert report.ok, report


def test_a_scaled_addend_of_a_product_of_constants_is_a_multiplication():
    report = proof(
        lambda net, s: torch.addmm(s[0] + s[1], net.last.weight[:2], net.hidden.weight, beta=0.3)
    )
    assert report.violations == ["(model)"]
