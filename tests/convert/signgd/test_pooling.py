"""Max-pooling as maxima, beside torch's own."""

import copy
import functools
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.pooling import adaptive_max_pool, max_pool
from spikeloom.neurons import Exponential


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
def test_maxima_are_those_of_torch(ceil_mode, dilation):
    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    for kernel, stride, padding in itertools.product((1, 2, 3), (1, 2, 3), (0, 1)):
        if padding <= kernel // 2:
            settings = ([kernel] * 2, [stride] * 2, [padding], [dilation], ceil_mode)
            expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
            assert torch.equal(max_pool(2, x, *settings), expected)


def test_any_axes_stand_in_front():
    x = torch.randn(5, 2, 3, 6, 6, 6)
    found = max_pool(3, x, 2)
    assert torch.equal(found[1], F.max_pool3d(x[1], 2))
    rows = F.max_pool1d(x.flatten(0, 4), 3, 1)
    assert torch.equal(max_pool(1, x, [3], [1]).flatten(0, 4), rows)


def test_nan_is_passed_on():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 2] = torch.nan
    assert torch.isnan(max_pool(2, x, 2)).flatten().tolist() == [False, True, False, False]


@pytest.mark.parametrize("per", ["neuron", "node"])
@pytest.mark.parametrize(
    ("layer", "pool"),
    [
        (nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)),
        (nn.Conv2d(1, 3, 3), nn.MaxPool2d((1, 3), (2, 3), ceil_mode=True)),
        (nn.Flatten(2), nn.MaxPool1d(3)),
    ],
)
@pytest.mark.parametrize("function", [nn.GELU(), nn.LeakyReLU(0.3), nn.ReLU()])
def test_a_pool_joined_with_its_nodes_sends_what_it_sends_alone(layer, pool, function, per):
    x = torch.randn(6, 1, 8, 8)
    model = nn.Sequential(layer, function, pool, nn.Flatten())
    snn = SignGD(12, Exponential(1.0, 0.8), margin=1.2, per=per).apply(model, x)
    assert list(snn.pools) == [snn.plan.sites[1].name]
    sent = []
    with torch.no_grad():
        (alone,) = snn.run([x], lambda site, y: sent.append(y))
        (joined,) = snn.run([x])
    assert len(sent) == 2 and torch.equal(joined, alone)


@pytest.mark.parametrize("kernel", [1, (2, 1), (1, 4)])
def test_pools_of_any_kernel_send_what_their_nodes_send(kernel):
    x = torch.randn(6, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.MaxPool2d(kernel, 4))
    snn = SignGD(6, Exponential(1.0, 0.8), margin=1.2).apply(model, x)
    with torch.no_grad():
        (alone,) = snn.run([x], lambda site, y: None)
        (joined,) = snn.run([x])
    assert torch.equal(joined, alone)


def test_a_pool_of_a_pool_is_joined_once():
    x = torch.randn(6, 1, 16, 16)
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)]
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), *pools)
    snn = SignGD(6, Exponential(1.0, 0.8), margin=1.2).apply(model, x)
    names = [site.name for site in snn.plan.sites]
    assert snn.pooled == {names[0]: names[1], names[2]: names[3]}
    with torch.no_grad():
        (alone,) = snn.run([x], lambda site, y: None)
        (joined,) = snn.run([x])
    assert torch.equal(joined, alone)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2), nn.MaxPool2d(2, padding=1)])
def test_windows_that_overlap_or_reach_outside_are_not_joined(pool):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), pool)
    assert not SignGD(8, Exponential(), margin=1.2).apply(model, torch.randn(6, 1, 9, 9)).pools


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("size", [1, (4, 2)])
def test_an_adaptive_max_pool_of_equal_windows_is_a_max_pool(size, decompose):
    x = torch.randn(32, 2, 8, 8)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveMaxPool2d(size))
    snn = SignGD(48, Exponential(1.0, 0.85), decompose, margin=1.2).apply(model, x)
    with torch.no_grad():
        assert (snn(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


@pytest.mark.parametrize("counts", [(3, 2), (5, 7), (1, 3)])
def test_adaptive_windows_that_share_an_axis_unevenly_are_torchs(counts):
    x = torch.randn(2, 3, 8, 7)
    assert torch.equal(adaptive_max_pool(x, counts), F.adaptive_max_pool2d(x, counts))


@pytest.mark.parametrize("decompose", [False, True])
def test_an_adaptive_max_pool_of_unequal_windows_is_tracked_whole(decompose):
    x = torch.randn(32, 2, 8, 8)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveMaxPool2d(3))
    snn = SignGD(48, search=False, decompose=decompose).apply(model, x)
    assert snn.report.column("operator") == ["adaptive_max_pool"]
    with torch.no_grad():
        assert (snn(x) - model(x)).abs().max() < 0.01 * model(x).abs().max()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True), "adaptive_max_pool2d"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True), "max_pool2d_with_indices"),
        (lambda x: torch.max(x, 1), "max"),
    ],
)
def test_indices_that_are_read_are_refused(function, name):
    class Indices(nn.Module):
        def forward(self, x):
            values, indices = function(x.relu())
            return values + indices

    with pytest.raises(NotImplementedError, match=f"no spiking form of: {name} at the forward"):
        SignGD(8).apply(Indices(), torch.randn(4, 2, 8, 8))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2)])
def test_chains_know_ceil_mode_and_dilation(pool):
    x = torch.rand(32, 2, 7, 7)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), pool)
    snn = SignGD(32, decompose=True).apply(model, x)
    assert snn.report.column("operator") == ["maximum"] * 2
    with torch.no_grad():
        error = (snn(x) - model(x)).square().mean() / model(x).square().mean()
    assert error < 1e-2


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (2, 1), (4, 2), (5, 2)])
def test_chains_never_track_what_stands_outside(kernel, padding):
    x = torch.randn(32, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(kernel, 2, padding))
    snn = SignGD(16, Exponential(1.0, 0.8), True, margin=1.0).apply(model, x)
    with torch.no_grad():
        most = model[0](x).abs().max()
        error = (snn(x) - model(x)).square().mean() / model(x).square().mean()
    assert max(snn.report.column("reach")) < 1.01 * most
    assert error < 1e-2


@pytest.mark.parametrize("function", [nn.GELU(), nn.ReLU()])
def test_pools_behind_other_nodes_are_joined_too(function):
    x = torch.randn(5, 1, 12, 13)
    stages = [nn.Conv2d(1, 4, 3), function, nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), function]
    model = nn.Sequential(*stages, nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Linear(24, 2))
    snn = SignGD(12, Exponential(1.0, 0.8), margin=1.2).apply(model, x)
    assert list(snn.pools) == [site.name for site in snn.plan.sites if "pool" in site.operator]
    with torch.no_grad():
        (alone,) = snn.run([x], lambda site, y: None)
        (joined,) = snn.run([x])
    assert torch.equal(joined, alone)
    assert torch.equal(snn(x), alone[-1])  # with gradients wanted, all steps through run


@functools.cache
def _pooled_network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten())
    return SignGD(6, Exponential(1.0, 0.8), margin=1.2, per="neuron").apply(model, x), x


def pooled_network() -> tuple[nn.Module, torch.Tensor]:
    return copy.deepcopy(_pooled_network())


CHANGES = {
    "in place": lambda tracker, scale: tracker.scale.copy_(scale),
    "assigned": lambda tracker, scale: setattr(tracker, "scale", scale),
    "loaded": lambda tracker, scale: tracker.load_state_dict(
        {**tracker.state_dict(), "scale": scale}
    ),
}
COPIES = {
    "as made": lambda snn: snn,
    "moved to float64 and back": lambda snn: snn.double().float(),
    "copied": copy.deepcopy,
    "pickled": lambda snn: pickle.loads(pickle.dumps(snn)),
}


@pytest.mark.filterwarnings("ignore:.*lie beyond the node")  # the scale is made too small
@pytest.mark.parametrize("which", [0, 1], ids=["of what is pooled", "of the pool"])
@pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_scale_that_is_changed_counts(change, made, which):
    snn, x = pooled_network()
    with torch.no_grad():
        before = snn(x)
        snn = made(snn)
        assert torch.equal(snn(x), before)
        tracker = snn.nodes[snn.plan.sites[which].name]
        change(tracker, 0.5 * tracker.scale)
        (alone,) = snn.run([x], lambda site, y: None)
        assert torch.equal(snn(x), alone[-1]) and not torch.equal(alone[-1], before)


@pytest.mark.filterwarnings("ignore:.*lie beyond the node")  # the scale is made too small
def test_copies_track_on_their_own():
    snn, x = pooled_network()
    with torch.no_grad():
        before = snn(x)
        copied = copy.deepcopy(snn)
        for tracker in snn.nodes.values():
            tracker.scale.zero_()
        assert torch.equal(copied(x), before) and not snn(x).any()


def test_a_joined_pool_holds_no_tensors_of_its_own():
    snn, _ = pooled_network()
    assert snn.pools and not [name for name in snn.state_dict() if name.startswith("pools")]
