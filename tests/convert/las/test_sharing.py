"""One encoding for all readers of an activation, and for nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.convert import LAS
from spikeloom.convert.las.sites import SharedSite, Site
from tests.convert.las.fitting import fitted, relative


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def readers(count, x):
    """A site, fitted to an activation, and as many readers of it."""
    site = fitted(Site(), x)
    site.users = count
    return [site, *(SharedSite(site) for _ in range(count - 1))]


def converted(model, *batches):
    return LAS(steps=12, progress=False).apply(model.eval(), list(batches))


def own_sites(network):
    return sorted(name for name, m in network.named_modules() if isinstance(m, Site))


class Two(nn.Module):
    """Two layers on one input, with something between them."""

    def __init__(self, between=lambda x: None):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(8, 8), nn.Linear(8, 8), between

    def forward(self, x):
        x = x + 0.0
        y = self.a(x)
        self.between(x)
        return y + self.b(x)


# --- One encoding ---------------------------------------------------------------------------------


def test_a_shared_activation_is_encoded_once_a_pass():
    x = torch.randn(4, 8)
    first, second, third = readers(3, x)
    y = first(x)
    assert second(x) is y and third(x) is y
    # The last one let go of it.
    assert third(x) is not y
    assert torch.equal(third(x), y)


def test_the_first_reader_begins_anew():
    x = torch.randn(4, 8)
    first, second, _ = readers(3, x)
    y = first(x)
    assert first(x) is not y
    assert second(x) is not y


def test_another_activation_has_another_encoding():
    x = torch.randn(4, 8)
    first, second = readers(2, x)
    y = first(x)
    assert torch.equal(second(x / 2), first(x / 2)) and not torch.equal(second(x / 2), y)


# --- Nothing stale --------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["mul_", "copy_", "view", "detach"])
def test_a_tensor_changed_in_place_is_another_activation(change):
    x = torch.randn(4, 8)
    first, second = readers(2, x)
    first(x)
    changed = {"view": x.view(-1), "detach": x.detach()}.get(change, x)
    changed.copy_(torch.rand_like(changed)) if change == "copy_" else changed.mul_(0.5)
    assert torch.equal(second(x), first.decoded(x))


def test_memory_that_is_used_again_is_another_activation():
    memory = np.random.default_rng(0).random((4, 8), dtype=np.float32)
    first, second = readers(2, torch.from_numpy(memory))
    x = torch.from_numpy(memory)
    place, version = x.data_ptr(), x._version
    first(x)
    del x
    memory *= 0.5
    x = torch.from_numpy(memory)
    assert (x.data_ptr(), x._version) == (place, version)
    assert torch.equal(second(x), first.decoded(x))


def test_a_reader_that_needs_a_gradient_gets_one():
    x = torch.randn(4, 8, requires_grad=True)
    first, second = readers(2, x.detach())
    with torch.no_grad():
        first(x)
    second(x).sum().backward()
    assert bool((x.grad != 0).any())


def test_inference_mode_shares_nothing():
    x = torch.randn(4, 8)
    first, second = readers(2, x)
    expected = first.decoded(x / 2)
    with torch.inference_mode():
        inner = x * 1.0
        first(inner)
        inner.mul_(0.5)
        assert torch.equal(second(inner), expected)


@torch.no_grad()
@pytest.mark.parametrize("calibrated_as_used", [True, False])
def test_a_network_that_changes_an_activation_in_place_keeps_its_output(calibrated_as_used):
    model, x = Two(lambda x: x.mul_(3)), torch.randn(32, 8)
    if calibrated_as_used:
        network = converted(model, x)
        assert own_sites(network) == ["a.site", "b.site"]
    else:
        plain = Two()
        plain.load_state_dict(model.state_dict())
        network = converted(plain, 3 * x)
        network.between = model.between
    assert 0 < relative(network(x), model(x)) < 0.005


@torch.no_grad()
def test_a_network_that_skips_a_reader_and_fills_the_same_buffer_keeps_its_output():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.skips = nn.Linear(8, 8), nn.Linear(8, 8), False

        def forward(self, x):
            return self.a(x) if self.skips else self.b(x) if self.skips is None else self.both(x)

        def both(self, x):
            return self.a(x) + self.b(x)

    model, x = Skipping(), torch.randn(32, 8)
    network = converted(model, x)
    assert own_sites(network) == ["a.site"]
    network.skips = True
    network(x)
    x.copy_(x.flip(0) / 2)
    for skips in (None, False, True):
        network.skips = model.skips = skips
        assert 0 < relative(network(x), model(x)) < 0.005


# --- Who shares -----------------------------------------------------------------------------------


@torch.no_grad()
def test_layers_share_only_what_they_read_in_every_batch():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x) + self.b(x if len(x) < 20 else 9 * x)

    model = Sometimes()
    network = converted(model, torch.randn(32, 8), torch.randn(16, 8))
    assert own_sites(network) == ["a.site", "b.site"]
    for count in (32, 16):
        x = torch.randn(count, 8)
        assert relative(network(x), model(x)) < 0.005


@torch.no_grad()
def test_a_layer_that_reads_twice_keeps_its_site():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x) - 2 * self.a(x)

    x = torch.randn(32, 8)
    network = converted(Twice(), x)
    assert own_sites(network) == ["a.site"]
    assert "a.site.normal" in network.state_dict()


@torch.no_grad()
def test_conversion_in_inference_mode_is_the_same_as_without():
    model, x = Two(), torch.randn(32, 8)
    expected = converted(model, x)
    with torch.inference_mode():
        network = converted(model, x * 1.0)
        assert torch.equal(network(x), expected(x))
    assert own_sites(network) == ["a.site"]
    assert not any(value.is_inference() for value in network.state_dict().values())
