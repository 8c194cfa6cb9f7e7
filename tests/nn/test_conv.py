"""SpikeConv1d and SpikeConv2d beside torch's own convolutions."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from spikeloom.kernel import events
from spikeloom.nn import SpikeConv1d, SpikeConv2d, dense, event_driven
from spikeloom.nn.convolution import Convolution


@pytest.fixture
def by_events(monkeypatch):
    """Counts the products that are taken by events."""
    calls, multiply = [], Convolution.product

    def counted(*arguments):
        calls.append(arguments)
        return multiply(*arguments)

    monkeypatch.setattr(Convolution, "product", counted)
    return calls


def spikes(*shape, kind="binary", dtype=torch.float32):
    x = (torch.rand(shape) < 0.2).to(dtype)
    if kind == "binary":
        return x
    x = x * torch.randn(shape).sign().to(dtype)
    if kind == "signed":
        return x
    x[0] = 0.0
    x[1, 0] = 0.0
    return x * torch.rand(shape[0], *(1,) * (len(shape) - 1), dtype=dtype)


# Sizes of the layer, its settings, and of the input.
CASES = {
    "plain": ((3, 5, 3), {}, (4, 3, 9, 8)),
    "padded": ((64, 20, 3), {"padding": 1}, (3, 64, 7, 7)),
    "same": ((7, 4, 5), {"padding": "same"}, (3, 7, 6, 9)),
    "valid": ((7, 4, 2), {"padding": "valid"}, (3, 7, 6, 9)),
    "strided": ((65, 4, 3), {"padding": 1, "stride": (2, 3)}, (3, 65, 8, 8)),
    "dilated": ((2, 33, (3, 2)), {"padding": (2, 0), "dilation": (2, 3)}, (2, 2, 8, 9)),
    "without bias": ((5, 6, 1), {"bias": False}, (2, 5, 4, 4)),
    "of one channel": ((1, 16, 3), {"padding": 1}, (3, 1, 12, 12)),
    "to one channel": ((9, 1, 3), {"padding": 1}, (3, 9, 8, 8)),
    "along one axis": ((6, 5, 3), {"padding": 2, "stride": 2}, (3, 6, 70)),
}


@pytest.mark.parametrize("kind", ("binary", "signed", "scaled"))
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_the_dense_convolution(case, kind, by_events):
    torch.manual_seed(0)
    sizes, settings, shape = CASES[case]
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        ours = (SpikeConv1d if len(shape) == 3 else SpikeConv2d)(
            *sizes, **settings, threshold=1.0, dtype=dtype
        )
        exact = copy.deepcopy(ours).double()
        exact.threshold = 0.0
        x = spikes(*shape, kind=kind, dtype=dtype).requires_grad_()
        y = ours(x)
        gy = torch.randn_like(y)
        x_exact = x.detach().double().requires_grad_()
        y_exact = exact(x_exact)
        found = y, *torch.autograd.grad(y, (x, *ours.parameters()), gy)
        learned = (x_exact, *exact.parameters())
        expected = y_exact, *torch.autograd.grad(y_exact, learned, gy.double())
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype and a.shape == b.shape and a.is_contiguous()
            assert (a.double() - b).norm() <= tolerance * b.norm()
    assert len(by_events) == 2


def test_sums_of_representable_values_have_the_bits_of_the_dense_convolution(by_events):
    torch.manual_seed(1)
    ours = SpikeConv2d(16, 24, 3, padding=1, dtype=torch.float64, threshold=1.0)
    with torch.no_grad():
        ours.weight.copy_(torch.randint(-1024, 1024, ours.weight.shape) / 64)
        ours.bias.copy_(torch.randint(-1024, 1024, ours.bias.shape) / 64)
    x = spikes(3, 16, 8, 8, kind="signed", dtype=torch.float64)
    plain = dense(copy.deepcopy(ours))
    y, gy = ours(x), torch.randint(-8, 8, (3, 24, 8, 8)).double()
    assert torch.equal(y, plain(x))
    y.backward(gy)
    plain(x).backward(gy)
    assert torch.equal(ours.weight.grad, plain.weight.grad)
    assert len(by_events) == 1


def test_channels_of_different_amplitude_are_multiplied(by_events):
    torch.manual_seed(2)
    ours = SpikeConv2d(2, 3, 3, threshold=1.0)
    x = spikes(2, 2, 9, 9)
    x[1, 1] *= 0.5
    assert torch.equal(ours(x), dense(copy.deepcopy(ours))(x))
    assert not by_events


LEFT = {
    "groups": (SpikeConv2d(4, 4, 3, groups=2, threshold=1.0), (2, 4, 6, 6)),
    "circular padding": (
        SpikeConv2d(4, 4, 3, padding=1, padding_mode="circular", threshold=1.0),
        (2, 4, 6, 6),
    ),
    "uneven padding": (SpikeConv2d(4, 4, 2, padding="same", threshold=1.0), (2, 4, 6, 6)),
    "a single image": (SpikeConv2d(4, 4, 3, threshold=1.0), (4, 6, 6)),
    "an empty batch": (SpikeConv2d(4, 4, 3, threshold=1.0), (0, 4, 6, 6)),
    "real values": (SpikeConv2d(4, 4, 3, threshold=1.0), (2, 4, 6, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", LEFT)
def test_what_events_do_not_know_is_torchs_own(case, by_events):
    torch.manual_seed(3)
    ours, shape = LEFT[case]
    x = torch.randn(shape) if case == "real values" else spikes(*shape)
    assert torch.equal(ours(x), dense(copy.deepcopy(ours))(x))
    assert not by_events


@pytest.mark.parametrize("shape", ((2, 5, 6, 6), (2, 4, 2, 6), (6, 6)))
def test_wrong_shapes_are_refused_as_by_torch(shape):
    with pytest.raises(RuntimeError):
        SpikeConv2d(4, 4, 3, threshold=1.0)(torch.zeros(shape))


def test_a_strided_image_is_read_where_it_lies(by_events):
    torch.manual_seed(4)
    ours = SpikeConv2d(6, 3, 3, threshold=1.0)
    x = spikes(2, 6, 9, 9).to(memory_format=torch.channels_last)
    for given in (x, x[:, :, ::2], x[:1].expand(3, -1, -1, -1), x.transpose(2, 3)):
        torch.testing.assert_close(ours(given), dense(copy.deepcopy(ours))(given))
    assert len(by_events) == 4


def test_of_the_input_only_bits_are_kept():
    torch.manual_seed(5)
    x, kept = spikes(4, 8, 16, 16), []
    ours = SpikeConv2d(8, 4, 3, threshold=1.0)

    def note(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ours(x)
    assert sum(tensor.nbytes for tensor in kept) == x.nbytes // 32


def test_spikingjellys_convolution_keeps_its_behaviour(by_events):
    torch.manual_seed(6)
    net = nn.Sequential(layer.Conv2d(4, 6, 3, padding=1), nn.Identity())
    functional.set_step_mode(net, "m")
    plain = copy.deepcopy(net)
    event_driven(net, threshold=1.0)
    x = spikes(5, 2, 4, 8, 8)
    torch.testing.assert_close(net(x), plain(x))
    assert isinstance(net[0], SpikeConv2d) and isinstance(net[0], layer.Conv2d)
    assert type(dense(net)[0]) is layer.Conv2d
    assert len(by_events) == 1


def test_threads_change_no_bit(monkeypatch):
    torch.manual_seed(7)
    x = spikes(5, 70, 9, 9, kind="scaled").requires_grad_()
    ours = SpikeConv2d(70, 20, 3, padding=1, threshold=1.0)

    def results():
        y = ours(x)
        return y, *torch.autograd.grad(y.square().sum(), (x, ours.weight))

    alone = results()
    monkeypatch.setattr(events, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for a, b in zip(alone, results(), strict=True):
        assert torch.equal(a, b)


def test_a_default_device_elsewhere_changes_nothing():
    torch.manual_seed(8)
    ours, x = SpikeConv2d(5, 6, 3, threshold=1.0), spikes(2, 5, 11, 13).requires_grad_()
    with torch.device("meta"):
        found = torch.autograd.grad(ours(x).sum(), (x, ours.weight))
    expected = torch.autograd.grad(ours(x).sum(), (x, ours.weight))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_a_bias_of_another_width_is_refused_as_by_torch():
    ours = SpikeConv2d(4, 6, 3, threshold=1.0)
    ours.bias = nn.Parameter(torch.randn(5))
    with pytest.raises(RuntimeError):
        ours(spikes(2, 4, 6, 6))


def test_a_gradient_that_is_negated_where_it_is_read_counts_with_its_sign():
    torch.manual_seed(9)
    ours = SpikeConv2d(4, 6, 1, threshold=1.0)
    y = ours(torch.ones(2, 4, 1, 1))
    gy = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, ours.weight, -gy, retain_graph=True)
    (found,) = torch.autograd.grad(y, ours.weight, torch._neg_view(gy))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("sizes, image", (((4, 1, 3), (6, 6)), ((4, 5, 3), (3, 3))))
def test_the_output_may_be_changed_in_place(sizes, image, by_events):
    """One channel or one pixel: the output's memory needs no new order."""
    torch.manual_seed(10)
    ours, x = SpikeConv2d(*sizes, threshold=1.0), spikes(2, 4, *image)
    y = ours(x)
    nn.functional.relu(y, inplace=True)
    torch.testing.assert_close(y, dense(copy.deepcopy(ours))(x).relu())
    y.sum().backward()
    assert len(by_events) == 1


def test_a_traced_convolution_is_torchs_own():
    torch.manual_seed(11)
    for padding, x in (("same", spikes(2, 4, 6, 6)), (0, spikes(4, 6, 6))):
        ours = SpikeConv2d(4, 6, 3, padding=padding)
        assert torch.equal(torch.fx.symbolic_trace(ours)(x), ours(x))
