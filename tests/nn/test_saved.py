"""pack_saved: bits for the backward pass."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import spikeloom
from spikeloom.nn import saved
from spikeloom.nn.saved import unpack_saved


class Net(nn.Module):
    """A linear layer, a convolution and a product, all of spikes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(16 * 16, 8 * 16 * 16)
        self.fires = spikeloom.SpikingLayer(spikeloom.neurons.LIF())
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fires_2 = spikeloom.SpikingLayer(spikeloom.neurons.LIF(v_threshold=0.3))
        self.head = nn.Linear(8 * 16 * 16, 12)

    def forward(self, x):
        steps, batch = x.shape[:2]
        spikes = self.fires(self.stem(x))
        maps = self.conv(spikes.reshape(-1, 8, 16, 16)).view(steps, batch, -1)
        spikes_2 = self.fires_2(maps)
        attention = spikes_2 @ spikes_2.transpose(-1, -2)
        return self.head(attention @ spikes_2 + spikes)


def net():
    torch.manual_seed(0)
    return Net()


def x():
    torch.manual_seed(1)
    return 4 * torch.randn(4, 6, 256)


def gradients(network, given):
    network.zero_grad()
    y = network(given)
    y.square().sum().backward()
    return [y, *(p.grad for p in network.parameters())]


def nbytes(kept):
    if isinstance(kept, saved._Packed):
        return sum(t.nbytes for t in (kept.spikes.bits, kept.spikes.negative) if t is not None)
    return kept.tensor.nbytes


def noted(monkeypatch):
    """What is kept from now on."""
    kept, packed = [], saved._packed
    monkeypatch.setattr(saved, "_packed", lambda tensor: kept.append(packed(tensor)) or kept[-1])
    return kept


def test_outputs_and_gradients_have_the_same_bits():
    plain = net()
    packing = spikeloom.pack_saved(copy.deepcopy(plain))
    for a, b in zip(gradients(plain, x()), gradients(packing, x()), strict=True):
        assert torch.equal(a, b)


def test_spikes_take_a_bit_and_everything_else_stays(monkeypatch):
    kept = noted(monkeypatch)
    spikeloom.pack_saved(net())(x())
    packed = [entry for entry in kept if isinstance(entry, saved._Packed)]
    assert len(packed) >= 4  # of the convolution, both products, and twice for the attention
    values = sum(entry.shape.numel() for entry in packed)
    assert sum(map(nbytes, packed)) == values // 8


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize(
    "layout",
    (
        lambda t: t,
        lambda t: t.transpose(0, 1),
        lambda t: t.permute(1, 2, 0),
        lambda t: t[:, ::2],
        lambda t: t[:1].expand(9, -1, -1),
    ),
)
def test_what_comes_back_lies_as_it_did(dtype, layout):
    torch.manual_seed(2)
    given = layout(torch.randint(-1, 2, (30, 40, 50)).to(dtype))
    back = saved._unpacked(saved._packed(given))
    assert torch.equal(back, given)
    assert (back.stride(), back.dtype) == (given.stride(), dtype)


@pytest.mark.parametrize(
    "given",
    (
        torch.full((50, 100), 0.3) * torch.arange(100),
        torch.ones(50, 100, dtype=torch.bfloat16),
        torch.ones(50, 100, dtype=torch.int64),
        torch.ones(3),
        nn.Parameter(torch.ones(50, 100)),
    ),
)
def test_what_is_not_packed_is_the_tensor_itself(given):
    assert saved._packed(given).tensor is given


def test_the_amplitude_of_spikes_is_kept():
    torch.manual_seed(3)
    given = (torch.rand(50, 2000) < 0.2) * torch.rand(50, 1)
    kept = saved._packed(given)
    assert isinstance(kept, saved._Packed)
    assert torch.equal(saved._unpacked(kept), given)


def test_an_inplace_change_of_what_is_kept_is_still_an_error():
    weight = nn.Parameter(torch.ones(3, 3))

    class Product(nn.Module):
        def forward(self, given):
            return F.linear(given, weight)

    given = torch.randn(5, 3, requires_grad=True)
    y = spikeloom.pack_saved(Product())(given)
    with torch.no_grad():
        weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_it_is_undone_and_done_once():
    network = net()
    for _ in range(2):
        assert spikeloom.pack_saved(network) is network
    assert len(network._forward_hooks) == len(network._forward_pre_hooks) == 1
    assert unpack_saved(network) is network
    assert not network._forward_hooks and not network._forward_pre_hooks
    assert not network._forward_hooks_always_called


def test_an_error_in_the_forward_ends_the_packing():
    network = spikeloom.pack_saved(net())
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 3, 5))
    assert not saved._open.calls
    given = torch.zeros(64, 64, requires_grad=True)
    assert (given * given).grad_fn._saved_self is given  # no hook has been left


class Interrupted(nn.Module):
    """Is stopped by its user at the first call."""

    def __init__(self):
        super().__init__()
        self.stops = True

    def forward(self, given):
        if self.stops:
            self.stops = False
            raise KeyboardInterrupt
        return given


@pytest.mark.parametrize("inner", (False, True))
@pytest.mark.parametrize("end", ("call", "unpack_saved"))
def test_what_an_interrupt_left_is_ended(inner, end):
    stopped = Interrupted()
    network = spikeloom.pack_saved(
        nn.Sequential(spikeloom.pack_saved(stopped)) if inner else stopped
    )
    with pytest.raises(KeyboardInterrupt):
        network(torch.zeros(2))
    network(torch.zeros(2)) if end == "call" else unpack_saved(network)
    assert not saved._open.calls
    given = torch.zeros(64, 64, requires_grad=True)
    assert (given * given).grad_fn._saved_self is given


def test_a_checkpoint_around_it_recomputes_as_ever(monkeypatch):
    kept, network = noted(monkeypatch), net()
    expected = gradients(network, x())
    calls = []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    spikeloom.pack_saved(network)

    def checkpointed(given):
        return torch.utils.checkpoint.checkpoint(network, given, use_reentrant=False)

    network.zero_grad()
    y = checkpointed(x())
    y.square().sum().backward()
    assert len(calls) == 2 and not kept
    for a, b in zip([y, *(p.grad for p in network.parameters())], expected, strict=True):
        assert torch.equal(a, b)


def test_a_copy_and_a_stored_network_pack_too(monkeypatch):
    file = io.BytesIO()
    torch.save(spikeloom.pack_saved(net()), file)
    file.seek(0)
    kept = noted(monkeypatch)
    for network in (
        copy.deepcopy(spikeloom.pack_saved(net())),
        torch.load(file, weights_only=False),
    ):
        kept.clear()
        network(x())
        assert any(isinstance(entry, saved._Packed) for entry in kept)


def test_without_gradients_nothing_is_looked_at(monkeypatch):
    kept = noted(monkeypatch)
    with torch.no_grad():
        spikeloom.pack_saved(net())(x())
    assert not kept


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="net"):
        spikeloom.pack_saved(torch.zeros(3))
