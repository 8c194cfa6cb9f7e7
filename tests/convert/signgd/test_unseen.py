"""Conversions on inputs that calibration has not seen, of the same distribution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.search import Setting


def images(count, seed):
    """Smooth random pictures."""
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(count, 3, 6, 6, generator=generator), size=16, mode="bilinear")


def vectors(count, seed):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def cnn(first=nn.ReLU, second=nn.GELU):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        first(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        second(),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )


def perceptron():
    return nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)
    )


def normed():
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 10))


def separable(blocks):
    """Depthwise and pointwise convolutions with batch norms that have lived."""

    def convolution(inner, outer, size=1, groups=1):
        layer = nn.Conv2d(inner, outer, size, padding=size // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outer)]

    def block():
        expand, project = convolution(8, 16), convolution(16, 8)
        return [*expand, nn.ReLU6(), *convolution(16, 16, 3, 16), nn.ReLU6(), *project]

    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    inner = [layer for _ in range(blocks) for layer in block()]
    model = nn.Sequential(*stem, *inner, nn.Flatten(), nn.Linear(512, 10))
    with torch.no_grad():
        for _ in range(40):
            model(torch.randn(32, 3, 16, 16))
    return model


MODELS = {
    "cnn": (cnn, images),
    "leaky cnn": (lambda: cnn(lambda: nn.LeakyReLU(0.1), nn.SiLU), images),
    "perceptron": (perceptron, vectors),
    "normed perceptron": (normed, vectors),
}
# The largest error on unseen inputs, relative to the spread of the model's outputs, by T.
BARS = {16: 0.03, 32: 0.003, 64: 0.0005}


@torch.no_grad()
def unseen_error(model, steps, shown, unseen):
    exact = model.eval()(unseen)
    found = SignGD(steps).apply(model, shown)(unseen)
    return float((found - exact).norm() / (exact - exact.mean(0)).norm())


@pytest.mark.parametrize("steps", [32, 64])
@pytest.mark.parametrize("count", [8, 32])
@pytest.mark.parametrize("name", MODELS)
def test_the_error_on_unseen_inputs_falls_with_the_steps(name, count, steps):
    make, data = MODELS[name]
    torch.manual_seed(0)
    assert unseen_error(make(), steps, data(count, 1), data(64, 99)) <= BARS[steps]


@pytest.mark.slow
@pytest.mark.parametrize("steps", BARS)
@pytest.mark.parametrize("count", [8, 64, 512])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["cnn", "leaky cnn", "perceptron"])
def test_networks_keep_the_bars_on_three_seeds(name, seed, count, steps):
    make, data = MODELS[name]
    torch.manual_seed(seed)
    assert unseen_error(make(), steps, data(count, seed + 1), data(64, 99)) <= BARS[steps]


def test_depthwise_blocks_settle():
    torch.manual_seed(0)
    model = separable(2)
    shown, unseen = (torch.randn(16, 3, 16, 16) for _ in range(2))
    assert unseen_error(model, 32, shown, unseen) < 0.01
    assert unseen_error(model, 128, shown, unseen) < 1e-4


@pytest.mark.slow
def test_eight_depthwise_blocks_settle_within_128_steps():
    torch.manual_seed(0)
    model = separable(8)
    shown, unseen = (torch.randn(16, 3, 16, 16) for _ in range(2))
    assert unseen_error(model, 128, shown, unseen) < 0.01


@torch.no_grad()
def chain(depth):
    """Linear layers, each with a batch norm that has lived."""
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=None), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for _ in range(20):
        model(torch.randn(256, 64))
    return model


def test_a_chain_of_twelve_layers_with_batch_norms_settles():
    torch.manual_seed(0)
    model, shown, unseen = chain(12), torch.randn(32, 64), torch.randn(64, 64)
    assert unseen_error(model, 64, shown, unseen) < 0.01


@pytest.mark.filterwarnings("ignore:signGD")  # of what has not settled
def test_disturbances_that_grow_beyond_all_numbers_keep_every_step_large(monkeypatch):
    torch.manual_seed(0)
    careful = Setting(2.5, 0.7, 4.0)
    monkeypatch.setattr("spikeloom.convert.signgd.fit.Fit._setting", lambda fit: careful)
    snn = SignGD(32, search=False).apply(chain(80), torch.randn(8, 64))
    holds = [schedule.hold for schedule in snn.schedules.values()]
    assert holds == sorted(holds) and holds[-1] == 32


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_very_few_samples_do(samples):
    torch.manual_seed(0)
    assert unseen_error(cnn(), 48, images(samples, 1), images(32, 99)) < 0.05


def test_batches_of_one_class_each_calibrate_as_well_as_mixed_ones():
    torch.manual_seed(0)
    model = separable(2)
    dim, bright = 0.02 * torch.randn(16, 3, 16, 16), torch.randn(16, 3, 16, 16)
    unseen = torch.cat((0.02 * torch.randn(16, 3, 16, 16), torch.randn(16, 3, 16, 16)))
    mixed = torch.cat((dim, bright))[torch.randperm(32)]
    error = unseen_error(model, 32, [dim, bright], unseen)
    assert error < 1.5 * unseen_error(model, 32, mixed, unseen)


@pytest.mark.parametrize("batches", [1, 2])
def test_samples_that_are_all_alike_do_with_a_warning(batches):
    torch.manual_seed(0)
    shown = [images(1, 1).expand(8, -1, -1, -1)] * batches
    with pytest.warns(UserWarning, match="calibration: its samples are all alike"):
        error = unseen_error(cnn(), 48, shown, images(32, 99))
    assert error < 0.05


def test_a_single_sample_and_samples_that_differ_in_one_value_are_not_warned_of():
    torch.manual_seed(0)
    shown = images(1, 1).repeat(2, 1, 1, 1)
    shown[1, 2, 3, 4] += 1.0
    for samples in (shown, shown[:1]):
        SignGD(24, search=False).apply(cnn(), samples)  # a warning is an error


def test_without_a_search_the_usual_settings_serve():
    torch.manual_seed(0)
    model, x = cnn().eval(), images(16, 1)
    with torch.no_grad():
        found, exact = SignGD(48, search=False).apply(model, x)(x), model(x)
    assert (found - exact).norm() < 1e-3 * exact.norm()
