"""What stays whole where tensors are made of values, and where values are written."""

import pytest
import torch

from tests.verify.spiking import proof

# --- Tensors that are made of values ------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda r: torch.linspace(0, r[0, 0, 0], 8, dtype=r.dtype),
        lambda r: torch.linspace(r[0, 0, 0], r[0, 0, 1], 8, dtype=r.dtype),
        lambda r: torch.linspace(0.1, 0.9, 80, dtype=r.dtype, out=(r > 0).to(r.dtype).view(-1)),
    ],
    ids=["end", "both", "out"],
)
def test_a_tensor_made_of_values_is_no_constant(make):
    report = proof(lambda net, s: net.last(make(net.hidden(s)).view(-1, 8)))
    assert not report.ok and not report.proofs["static"], report


@pytest.mark.parametrize(
    "then",
    [
        lambda net, s: net.last(torch.view_as_complex(torch.stack([3 * s, 4 * s], -1)).abs()),
        lambda net, s: net.last(torch.complex(s, s).real),
    ],
    ids=["abs", "complex"],
)
def test_complex_values_are_no_whole_numbers(then):
    report = proof(then)
    assert report.violations[0] == "(model)", report
    assert "complex" in str(report)


def unfolded(net, s):
    real = net.hidden(s)
    real.unfold(-1, 4, 3).copy_(s.unflatten(-1, (2, 4)))  # 7 of 8 values
    return net.last(real)


def strided(net, s):
    real = net.hidden(s).reshape(-1).clone()
    real.as_strided((2, 40), (1, 1)).copy_(s.reshape(2, 40))
    return net.last(real.view(5, 2, 8))


@pytest.mark.parametrize("then", [unfolded, strided])
def test_what_is_written_over_itself_leaves_the_rest_as_it_was(then):
    report = proof(then)
    assert "last" in report.violations and not report.proofs["static"], report


# --- Written into spikes ------------------------------------------------------------------------


def writing(change):
    def then(net, s):
        y = s.clone()
        result = change(y, s)
        return net.last(y if result is None else result)

    return then


def silenced(y, s):
    y[:, :, 0] = 0


def masked(y, s):
    y[:, torch.tensor([True, False])] = 0


def permuted(y, s):
    y[:, :, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])] = s


def accumulated(y, s):
    where = (torch.tensor([0, 0]), torch.tensor([1, 1]))
    return y.index_put_(where, s[:2, 0], accumulate=True)


THIRDS = torch.arange(8) % 3
REVERSED = torch.arange(7, -1, -1).expand(5, 2, 8)
WRITES = {
    "item": silenced,
    "mask": masked,
    "index_put": permuted,
    "accumulate": accumulated,
    "zero": lambda y, s: y[0].zero_(),
    "all zero": lambda y, s: y.zero_(),
    "fill": lambda y, s: y[0].fill_(1.0),
    "scatter": lambda y, s: torch.zeros_like(y).scatter(2, REVERSED, s),
    "scatter a number": lambda y, s: y.scatter(2, REVERSED[:, :, :2], 1.0),
    "slice_scatter": lambda y, s: torch.slice_scatter(torch.zeros_like(y), s[1:], 0, 1, 5),
    "cumsum": lambda y, s: y.cumsum(0),
    "scatter_add": lambda y, s: torch.zeros_like(y).scatter_add(2, 0 * REVERSED, s),
    "index_add": lambda y, s: torch.zeros_like(y).index_add(2, THIRDS, s),
}


@pytest.mark.parametrize("change", WRITES.values(), ids=WRITES)
def test_whole_numbers_written_into_spikes_leave_whole_numbers(change):
    change_back = writing(lambda y, s: y if change(y, s) is None else change(s.clone(), s))
    report = proof(change_back)
    assert report.ok, report


@pytest.mark.parametrize(
    "change",
    [
        lambda y, s: y[0].fill_(0.3),
        lambda y, s: y.scatter(2, REVERSED[:, :, :2], 0.3),
        lambda y, s: y.scatter(2, REVERSED, 0.3, reduce="multiply"),
        lambda y, s: y.index_add(2, torch.arange(8), s, alpha=0.3),
        lambda y, s: y.slice_scatter(0.3 + s[1:], 0, 1, 5),
    ],
    ids=["fill", "scatter", "multiply", "alpha", "slice_scatter"],
)
def test_other_values_written_into_spikes_are_found(change):
    def changed(y, s):
        result = change(y, s)
        return result if result.shape == y.shape else y

    report = proof(writing(changed))
    assert not report.ok and not report.proofs["static"], report


def test_a_running_sum_may_hold_as_much_as_all_its_steps():
    report = proof(lambda net, s: net.last(s.cumsum(0)))
    assert "0..5" in report.column("input")
