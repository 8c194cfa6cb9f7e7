"""The families of networks that people convert: random weights under which signals live."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.convert.signgd.families import hugging_face
from tests.convert.signgd.families.densenet import densenet
from tests.convert.signgd.families.generator import generator
from tests.convert.signgd.families.googlenet import googlenet
from tests.convert.signgd.families.mixers import gmlp, mixer, resmlp
from tests.convert.signgd.families.mobilenet_v3 import mobilenet_v3
from tests.convert.signgd.families.shufflenet import shufflenet
from tests.convert.signgd.families.unet import UNet
from tests.convert.signgd.families.vgg import vgg

FAMILIES = {
    "ResNet-18": partial(hugging_face.resnet, "basic", [2, 2, 2, 2]),
    "ResNet-34": partial(hugging_face.resnet, "basic", [3, 4, 6, 3]),
    "ResNet-50": partial(hugging_face.resnet, "bottleneck", [3, 4, 6, 3]),
    "VGG-11-BN": partial(vgg, (1, 1, 2, 2, 2)),
    "VGG-16-BN": partial(vgg, (2, 2, 3, 3, 3)),
    "DenseNet-121": densenet,
    "MobileNetV2": hugging_face.mobilenet_v2,
    "MobileNetV3": mobilenet_v3,
    "EfficientNet-B0": hugging_face.efficientnet,
    "ShuffleNetV2": shufflenet,
    "RegNet": hugging_face.regnet,
    "GoogLeNet": googlenet,
    "ConvNeXt": hugging_face.convnext,
    "MLP-Mixer": mixer,
    "ResMLP": resmlp,
    "gMLP": gmlp,
    "ViT": hugging_face.vit,
    "Swin": hugging_face.swin,
    "U-Net": UNet,
    "GAN generator": generator,
}


def inputs(name: str, count: int, seed: int) -> Tensor:
    """What a family takes: smooth random pictures with noise; for a generator, random numbers."""
    draw = torch.Generator().manual_seed(seed)
    if name == "GAN generator":
        return torch.randn(count, 16, 1, 1, generator=draw)
    coarse = torch.randn(count, 3, 8, 8, generator=draw)
    smooth = F.interpolate(coarse, size=32, mode="bilinear")
    return smooth + 0.3 * torch.randn(count, 3, 32, 32, generator=draw)


@torch.no_grad()
def build(name: str, seed: int = 0) -> nn.Module:
    """A network of the family, in evaluation mode.

    Its batch norms know the statistics of their inputs, and what is zero or nearly so at the
    beginning of a training, so that branches are silent, is as after one.
    """
    torch.manual_seed(seed)
    model = FAMILIES[name]()
    for path, parameter in model.named_parameters():
        if parameter.abs().max() < 1e-2 and not path.endswith("bias"):
            nn.init.uniform_(parameter, 0.3, 0.7)  # a scale of a residual branch
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    for batch in range(4):
        model(inputs(name, 32, 1000 + batch))
    return model.eval()


def output(model: nn.Module, x: Tensor) -> Tensor:
    """What a model says, whether or not in an object of its own."""
    said = model(x)
    return said if isinstance(said, Tensor) else said.logits


def spread(y: Tensor) -> Tensor:
    """How far outputs lie from their mean."""
    return (y - y.mean(0)).norm()


@torch.no_grad()
def unseen_error(name: str, model: nn.Module, snn: nn.Module, count: int = 16) -> float:
    """The error on inputs that calibration has not seen, relative to the spread of outputs."""
    unseen = inputs(name, count, 99)
    exact = output(model, unseen)
    return float((output(snn, unseen) - exact).norm() / spread(exact))
