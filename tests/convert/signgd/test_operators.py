"""Operators of the networks that people convert: each is affine, or a node that follows it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom.convert import SignGD

C = torch.linspace(0.5, 1.5, 8)[:, None, None]


def layer(x):
    """A layer of weights that changes nothing."""
    return F.linear(x, torch.eye(x.shape[-1], dtype=x.dtype))


class Between(nn.Module):
    """A function of an activation, [8, 4, 4] a sample, and an activation of it; all are nodes."""

    def __init__(self, function):
        super().__init__()
        self.stem, self.function = nn.Conv2d(3, 8, 3, padding=1), function
        self.inner = function if isinstance(function, nn.Module) else None

    def forward(self, x):
        return torch.tanh(layer(self.function(layer(torch.sigmoid(self.stem(x))))))


class SqueezeAndExcite(nn.Module):
    """A gate for each channel, as MobileNetV3 and EfficientNet have it."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.up(F.relu(self.down(pooled))))


class Attention(nn.Module):
    """Over pixels, some of which may not be seen."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2).unflatten(-1, (2, 4)).transpose(1, 2)
        mask = torch.ones(16, 16, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(tokens, tokens, tokens, mask)


class MaskedHeads(nn.Module):
    """torch's own attention, whose weights are asked for: it adds a mask of minus infinity."""

    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        hidden = torch.ones(16, 16, dtype=torch.bool).triu(1)
        return self.heads(tokens, tokens, tokens, attn_mask=hidden)[0]


class Encoder(nn.Module):
    """torch's own layer, which has a fast path of its own in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x.flatten(2).transpose(1, 2))


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 3)

    def forward(self, x):
        return self.layer(x, 1 - x)


def causal(x):
    tokens = x.flatten(2).transpose(1, 2).unflatten(-1, (2, 4)).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True)


def scores_by_hand(x):
    tokens = x.flatten(2).transpose(1, 2)
    scores = torch.baddbmm(C.flatten()[:1], tokens, tokens.transpose(1, 2), beta=0.5, alpha=0.2)
    hidden = torch.ones(16, 16, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ tokens


def normalized_by_hand(x):
    variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
    return (x - mean) / (variance + 0.1).sqrt()


def drop_path(x, rate=0.2, training=False):
    if not training:
        return x
    return x * torch.rand(len(x), 1, 1, 1).ge(rate) / (1 - rate)


def functions():
    """Each by what it is called; layers among them draw their weights."""
    return {
        "addcmul with constants": lambda x: torch.addcmul(C, C, x, value=0.5),
        "addcmul of streams": lambda x: torch.addcmul(x, x, 1 - x),
        "addcdiv by a constant": lambda x: torch.addcdiv(x, x, C),
        "addcdiv by a stream": lambda x: torch.addcdiv(x, x, 1 + x),
        "lerp by a number": lambda x: torch.lerp(x, C.expand_as(x), 0.3),
        "lerp by a stream": lambda x: torch.lerp(x, x.flip(1), x),
        "relu6": nn.ReLU6(),
        "hardswish": nn.Hardswish(),
        "hardsigmoid": nn.Hardsigmoid(),
        "hardtanh": nn.Hardtanh(0.2, 0.6),
        "softshrink": nn.Softshrink(0.3),
        "squeeze and excite": SqueezeAndExcite(),
        "group norm": nn.GroupNorm(2, 8),
        "instance norm": nn.InstanceNorm2d(8),
        "layer norm of channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)),
        "layer scale": lambda x: x + C * F.gelu(x),
        "stochastic depth": lambda x: x + drop_path(F.relu(x - 0.5)),
        "transposed convolution": nn.ConvTranspose2d(8, 4, 2, stride=2),
        "grouped transposed convolution": nn.ConvTranspose2d(8, 8, 3, 2, 1, groups=4),
        "transposed convolution with batch norm": nn.Sequential(
            nn.ConvTranspose2d(8, 4, 2, 2), nn.BatchNorm2d(4)
        ),
        "dilated convolution": nn.Conv2d(8, 4, 3, padding=2, dilation=2),
        "grouped convolution": nn.Conv2d(8, 8, 3, padding=1, groups=4),
        "circular padding": nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"),
        "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
        "bilinear": lambda x: F.interpolate(x, size=(6, 7), mode="bilinear", align_corners=True),
        "bicubic": lambda x: F.interpolate(x, size=(6, 7), mode="bicubic"),
        "nearest exact": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
        "antialiased": lambda x: F.interpolate(x, size=3, mode="bilinear", antialias=True),
        "area": lambda x: F.interpolate(x, size=(3, 2), mode="area"),
        "trilinear": lambda x: F.interpolate(x[:, None], size=(9, 5, 6), mode="trilinear"),
        "tile": lambda x: torch.tile(x, (1, 2, 1, 1)),
        "tile of the last axes": lambda x: torch.tile(x, (3, 2)),
        "turned": lambda x: torch.rot90(x, 1, (2, 3)),
        "differences": lambda x: x.diff(dim=2),
        "side by side": lambda x: torch.hstack((x, x.flip(1))),
        "adaptive average pool": nn.AdaptiveAvgPool2d(3),
        "adaptive max pool": nn.AdaptiveMaxPool2d(2),
        "pixel shuffle": nn.PixelShuffle(2),
        "channel shuffle": nn.ChannelShuffle(2),
        "channel shuffle by hand": lambda x: (
            x.view(x.shape[0], 2, 4, 4, 4).transpose(1, 2).reshape(x.shape)
        ),
        "einsum with weights": lambda x: torch.einsum("bchw,co->bohw", x, torch.eye(8)[:, :5]),
        "einsum of streams": lambda x: torch.einsum("bchw,bcvw->bhv", x, x),
        "masked attention": Attention(),
        "causal attention": causal,
        "scores by hand": scores_by_hand,
        "attention of torch with a mask": MaskedHeads(),
        "encoder of torch": Encoder(),
        "bilinear layer": Bilinear(),
        "sum of a product": lambda x: torch.addmm(
            C.flatten()[:4], x.flatten(1), torch.eye(128)[:, :4]
        ),
        "largest channel": lambda x: x.max(1).values,
        "least channel": lambda x: x.min(1, keepdim=True)[0],
        "larger of two": lambda x: torch.max(x, x.flip(1)),
        "smaller of two": lambda x: torch.min(x, 0.5 * C),
        "adaptive max pool of unequal windows": nn.AdaptiveMaxPool2d(3),
        "max pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        "variance and mean": normalized_by_hand,
        "randomized leaky": lambda x: F.rrelu(x - 0.5),
        "randomized leaky with bounds": lambda x: F.rrelu(x - 0.5, 0.1, 0.9),
        "product of channels": lambda x: (1.5 * x[:, :3]).prod(1),
        "power of two": torch.exp2,
        "binary logarithm": lambda x: torch.log2(1 + x),
        "angle": lambda x: torch.atan2(x, 1 + x.flip(1)),
        "cosine similarity": lambda x: F.cosine_similarity(x, x.flip(1), dim=1),
        "normalized": lambda x: F.normalize(x, dim=1),
        "weights of a stream": lambda x: F.linear(x, x[0, :, 0, :]),
        "written into places": lambda x: torch.index_put(
            torch.zeros(x.shape[0], 9, 4, 4), (torch.arange(x.shape[0]), torch.tensor(1)), x[:, 0]
        ),
        "rolled along an axis": lambda x: x.roll(1, 1).unbind(2)[0].cumsum(1),
    }


@torch.no_grad()
@pytest.mark.parametrize("name", functions())
def test_every_operator_converts(name):
    torch.manual_seed(0)
    model, x = Between(functions()[name]).eval(), torch.randn(16, 3, 4, 4)
    # Its nodes, one behind the other, wait longer than those of the others.
    steps = 64 if name == "attention of torch with a mask" else 32
    snn = SignGD(steps, search=False).apply(model, x)
    exact = model(x)
    assert (snn(x) - exact).norm() < 5e-3 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("function", [nn.Hardshrink(0.5), nn.Threshold(0.5, 0.1)], ids=str)
def test_a_function_with_a_jump_is_followed_but_for_values_close_to_it(function):
    torch.manual_seed(0)
    model, x = Between(function).eval(), torch.randn(16, 3, 4, 4)
    clear = (torch.sigmoid(model.stem(x)) - 0.5).abs() > 0.05
    assert clear.float().mean() > 0.6
    snn = SignGD(32, search=False).apply(model, x)
    exact = model(x)[clear]
    assert (snn(x)[clear] - exact).norm() < 5e-3 * exact.norm()


@torch.no_grad()
def test_products_with_constants_are_no_nodes():
    torch.manual_seed(0)
    x = torch.randn(16, 3, 4, 4)
    for name in ("addcmul with constants", "addcdiv by a constant", "lerp by a number"):
        model = Between(functions()[name]).eval()
        snn = SignGD(16, search=False).apply(model, x)
        assert snn.report.column("operator") == ["sigmoid", "tanh"]
