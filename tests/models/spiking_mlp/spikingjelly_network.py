"""The spiking MLP in the published layout, from SpikingJelly's own layers and neurons.

An independent reference: nothing here comes from spikeloom, and every name in the state dict is the
published one.
"""

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn


def lif() -> nn.Module:
    return neuron.LIFNode(detach_reset=True)


def conv3x3(inputs: int, outputs: int, stride: int, norm) -> nn.Sequential:
    conv = layer.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, norm(outputs))


class Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.order)


class PatchCell(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm) -> None:
        super().__init__()
        k = outputs // 3
        self.cell2node = nn.ModuleList(conv3x3(inputs, k, 2, norm) for _ in range(3))
        self.node1_node2 = conv3x3(k, k, 1, norm)
        self.node2_node3 = conv3x3(k, k, 1, norm)
        self.lif = nn.ModuleList((lif(), lif()))

    def forward(self, x: Tensor) -> Tensor:
        n1 = self.cell2node[0](x)
        n2 = self.cell2node[1](x) + self.node1_node2(self.lif[0](n1))
        n3 = self.cell2node[2](x) + n1 + self.node2_node3(self.lif[1](n2))
        return torch.cat((n1, n2, n3), 2)


class TokenMix(nn.Module):
    def __init__(self, size: tuple[int, int], channels: int, norm, *, fresh_identity: bool) -> None:
        super().__init__()
        height, width = size
        to_w, to_h = (0, 1, 4, 2, 3), (0, 1, 3, 2, 4)
        axis = [layer.Conv2d(width, width, 1), norm(width), lif()]
        self.proj_w = nn.Sequential(Permute(*to_w), *axis, Permute(0, 1, 3, 4, 2))
        axis = [layer.Conv2d(height, height, 1), norm(height), lif()]
        self.proj_h = nn.Sequential(Permute(*to_h), *axis, Permute(0, 1, 3, 2, 4))
        self.fuse = nn.Sequential(
            layer.Conv2d(3 * channels, channels, 1, bias=False), norm(channels)
        )
        self.fresh_identity = fresh_identity
        if fresh_identity:
            self.BN, self.activation = norm(channels), lif()

    def forward(self, x: Tensor) -> Tensor:
        identity = self.activation(self.BN(x)) if self.fresh_identity else x
        return self.fuse(torch.cat((identity, self.proj_h(x), self.proj_w(x)), 2))


class ToTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(3).transpose(2, 3)


class ChannelMix(nn.Module):
    """``bn_axis="token"`` is the published block; with ``"channel"`` it is made of 1x1 convs."""

    def __init__(self, channels: int, tokens: int, norm_1d) -> None:
        super().__init__()
        self.net = nn.Sequential(
            layer.Linear(channels, 3 * channels),
            norm_1d(tokens),
            lif(),
            layer.Linear(3 * channels, channels),
            norm_1d(tokens),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class FromTokens(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3).unflatten(3, self.size)


def channel_mix(channels: int, size: tuple[int, int], norm_1d, norm, bn_axis: str) -> nn.Module:
    if bn_axis == "token":
        mix = ChannelMix(channels, size[0] * size[1], norm_1d)
        return nn.Sequential(ToTokens(), mix, FromTokens(size))
    return nn.Sequential(
        layer.Conv2d(channels, 3 * channels, 1),
        norm(3 * channels),
        lif(),
        layer.Conv2d(3 * channels, channels, 1),
        norm(channels),
    )


class Network(nn.Module):
    """``spe=False`` is the published network without spiking patch encoding."""

    def __init__(
        self,
        image_size: tuple[int, int],
        patch: int,
        inputs: int,
        classes: int,
        dim: int,
        depths: tuple[int, ...],
        *,
        bn_axis: str = "token",
        spe: bool = True,
        tebn_steps: int | None = None,
    ) -> None:
        super().__init__()

        def norm(features: int) -> nn.Module:
            if tebn_steps is None:
                return layer.BatchNorm2d(features)
            return layer.TemporalEffectiveBatchNorm2d(tebn_steps, features)

        def norm_1d(features: int) -> nn.Module:
            if tebn_steps is None:
                return layer.BatchNorm1d(features)
            return layer.TemporalEffectiveBatchNorm1d(tebn_steps, features)

        self.depths = depths
        for name in ("to_patch_embedding", "token_mix", "channel_mix"):
            setattr(self, name, nn.ModuleList())
            setattr(self, f"{name}_lif", nn.ModuleList())
        size = (image_size[0] // patch, image_size[1] // patch)
        for stage, depth in enumerate(depths):
            channels = dim * 2**stage
            if stage == 0:
                conv = layer.Conv2d(inputs, dim, patch, patch, bias=False)
            elif not spe:
                conv = layer.Conv2d(channels // 2, channels, 2, 2, bias=False)
            embedding = (
                PatchCell(channels // 2, channels, norm)
                if stage and spe
                else nn.Sequential(conv, norm(channels))
            )
            self.to_patch_embedding.append(embedding)
            self.to_patch_embedding_lif.append(lif())
            for _ in range(depth):
                mix = TokenMix(size, channels, norm, fresh_identity=not spe)
                self.token_mix.append(mix)
                self.token_mix_lif.append(lif())
                self.channel_mix.append(channel_mix(channels, size, norm_1d, norm, bn_axis))
                self.channel_mix_lif.append(lif())
            size = (size[0] // 2, size[1] // 2)
        self.batch_norm = norm(channels)
        self.mlp_head = nn.Sequential(nn.Identity(), layer.Linear(channels, classes))
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        block = 0
        for stage, depth in enumerate(self.depths):
            h = self.to_patch_embedding[stage](x)
            x = self.to_patch_embedding_lif[stage](h)
            for _ in range(depth):
                t = self.token_mix[block](x)
                x = self.token_mix_lif[block](h + t)
                x = self.channel_mix_lif[block](h + t + self.channel_mix[block](x))
                block += 1
        return self.mlp_head(self.batch_norm(x).mean((3, 4)))
