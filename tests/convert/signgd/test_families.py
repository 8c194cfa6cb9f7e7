"""The families of networks that people convert, on inputs that calibration has not seen."""

import pytest
import torch

from spikeloom.convert import SignGD

pytest.importorskip("transformers")

from tests.convert.signgd.families import FAMILIES, build, inputs, output, spread, unseen_error

# Seconds each to convert.
SLOW = ("ResNet-50", "DenseNet-121", "EfficientNet-B0", "GoogLeNet", "RegNet", "ViT", "Swin")
# The largest error after 64 steps with the usual settings, relative to the spread of the outputs:
# what holds today, with a margin. Where none stands the network has not settled by then.
AT_64 = {
    "ResNet-18": 0.02,
    "VGG-11-BN": 0.01,
    "VGG-16-BN": 0.2,
    "ConvNeXt": 0.005,
    "MLP-Mixer": 0.004,
    "ResMLP": 5e-6,
    "gMLP": 0.05,
    "ViT": 0.05,
    "Swin": 0.01,
    "U-Net": 0.002,
    "GAN generator": 1e-3,
}
# Of the others: signals are finite, and no larger than what the network would say.
UNSETTLED = 10.0
# Deep networks whose nodes have not settled walk beyond their reach, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:signGD")


def family(name):
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())


@torch.no_grad()
@pytest.mark.parametrize("name", [family(name) for name in FAMILIES])
def test_every_family_converts(name):
    model = build(name)
    exact = output(model, inputs(name, 16, 99))
    # Outputs that do not tell inputs apart would say nothing about errors.
    assert spread(exact) > 0.1 * exact.norm()
    snn = SignGD(64, search=False).apply(model, inputs(name, 16, 1))
    assert unseen_error(name, model, snn) < AT_64.get(name, UNSETTLED)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["ResNet-18", "VGG-16-BN", "MobileNetV2", "ShuffleNetV2"])
def test_deep_families_settle_when_they_are_given_the_steps(name):
    model = build(name)
    snn = SignGD(256, search=False).apply(model, inputs(name, 16, 1))
    assert unseen_error(name, model, snn) < 1e-3


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["ResNet-18", "VGG-16-BN", "MobileNetV3", "gMLP", "ConvNeXt"])
def test_as_many_steps_as_are_said_to_be_needed_bring_every_family_near(name):
    model, shown = build(name), inputs(name, 16, 1)
    needed = SignGD(16, search=False).apply(model, shown).steps_needed
    snn = SignGD(needed, search=False).apply(model, shown)
    assert unseen_error(name, model, snn) < 0.03
