"""Unit spikes: amplitudes leave the neurons and enter the weights behind them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.convert.spikelm.amplitude import BiSpikes
from spikeloom.kernel.neuron import Neuron, kind, tensor_of
from spikeloom.layer import SpikingLayer
from spikeloom.neurons.elastic import FLOOR, ElasticBiSpike

__all__ = ["StepScale", "merge_amplitude"]

Make = Callable[[Neuron], nn.Module]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class StepScale(nn.Module):
    r"""What an amplitude per step leaves behind a weight layer.

    .. math:: y[t] = \alpha[t]\, W s[t] + b

    Args:
        alpha: ``[T]``.
        bias: The layer's bias, ready to broadcast against its output, or None.

    Shape:
        - Input and output: ``[T, batch, *]``, or ``[T * batch, *]``
    """

    alpha: Tensor
    bias: Tensor | None

    def __init__(self, alpha: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha)
        self.register_buffer("bias", bias)

    def forward(self, y: Tensor) -> Tensor:
        """Scale the steps, then add the bias."""
        steps = y.unflatten(0, (len(self.alpha), -1))
        scaled = (steps * self.alpha.reshape(-1, *(1,) * y.dim()).to(y.dtype)).reshape(y.shape)
        return scaled if self.bias is None else scaled + self.bias


def merge_amplitude(model: nn.Module, make: Make = SpikingLayer) -> Any:
    r"""A copy of a model whose weight layers receive spikes of -1, 0 and 1 and nothing else.

    .. math:: W (\alpha s) = (\alpha W) s

    An amplitude that all steps share goes into the weights for good, also one per input feature
    of a linear layer; amplitudes per step become factors on the layer's output, before its bias
    (:class:`StepScale`), because one weight cannot hold them. The copy computes the same up to
    rounding, for inference: its amplitudes no longer learn or follow the data. The quantisers of
    keys and values feed no weight layer and keep their amplitudes.

    Args:
        model: Converted by :class:`~spikeloom.convert.SpikeLM`, or with
            :class:`~spikeloom.neurons.ElasticBiSpike` modules directly before linear or
            convolutional layers in an ``nn.Sequential``.
        make: Makes the modules that run unit-spike neurons in an ``nn.Sequential``: the host's
            ``make``, say. Models from SpikeLM use their own.

    Raises:
        ValueError: If there is nothing to merge, an amplitude is not set yet, or a layer cannot
            absorb it.

    Example:
        >>> import torch, spikeloom
        >>> from torch import nn
        >>> spikes = spikeloom.SpikingLayer(spikeloom.neurons.ElasticBiSpike(0.5))
        >>> net = nn.Sequential(spikes, nn.Linear(3, 2, bias=False))
        >>> merged = merge_amplitude(net)
        >>> merged[0](torch.tensor([[[0.1, -0.4, 2.0]]]))
        tensor([[[ 0., -1.,  1.]]])
        >>> torch.equal(merged[1].weight, net[1].weight * 0.5)
        True
    """
    merged = copy.deepcopy(model)
    pairs = [*_converted(merged), *_in_sequence(merged, make)]
    if not pairs:
        raise ValueError(
            "model: has no elastic bi-spiking neurons that feed weight layers; convert it with "
            "spikeloom.convert.SpikeLM, or put them directly before the layers in nn.Sequential"
        )
    with torch.no_grad():
        for pair in pairs:
            pair.merge()
    return merged


@dataclass
class _Pair:
    """A neuron and the layers it feeds."""

    name: str
    neuron: ElasticBiSpike
    alpha: Any
    layers: Sequence[nn.Module]
    replace: Callable[[ElasticBiSpike], None]

    def merge(self) -> None:
        """Take the amplitude out of the neuron and into the layers."""
        settings = self.neuron.settings()
        if isinstance(self.alpha, Tensor):
            now = self.alpha.detach().clone()
            settings["alpha"] = now
        self.replace(ElasticBiSpike(**{**settings, "unit_spikes": True}))
        for layer in self.layers:
            self._absorb(layer)

    def _absorb(self, layer: Any) -> None:
        alpha = torch.as_tensor(self.alpha).detach().clamp(min=FLOOR)
        form = kind(self.neuron.params["alpha"])
        if form == "step":
            _scale_output(layer, alpha)
        elif form == "neuron":
            layer.weight.mul_(self._per_feature(layer, alpha))
        else:
            layer.weight.mul_(alpha.to(layer.weight))

    def _per_feature(self, layer: Any, alpha: Tensor) -> Tensor:
        if isinstance(layer, nn.Linear) and alpha.numel() in (1, alpha.shape[-1]):
            return alpha.reshape(-1).to(layer.weight)
        raise ValueError(
            f"{self.name}: a {type(layer).__name__} cannot absorb amplitudes of shape "
            f"{tuple(alpha.shape)}; only a Linear can, one per input feature"
        )


def _converted(model: nn.Module) -> Iterator[_Pair]:
    """The sites of a SpikeLM model that feed weight layers."""
    for name, owner in model.named_modules():
        for place in ("spikes", "source_spikes"):
            site = owner._modules.get(place)
            if not isinstance(site, BiSpikes) or not isinstance(site.neuron, ElasticBiSpike):
                continue
            _require_amplitude(f"{name}.{place}", site)
            layers = [owner.get_submodule(fed) for fed in getattr(site, "feeds", ())]
            replace = _replacing_node(site)
            yield _Pair(f"{name}.{place}", site.neuron, site.amplitude, layers, replace)


def _in_sequence(model: nn.Module, make: Make) -> Iterator[_Pair]:
    """Neurons directly before weight layers in an nn.Sequential."""
    for name, parent in model.named_modules():
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.named_children())
        for (child, node), (_, layer) in itertools.pairwise(children):
            neuron = getattr(node, "neuron", None)
            weighs = isinstance(layer, (nn.Linear, *CONVOLUTIONS))
            if not isinstance(neuron, ElasticBiSpike) or not weighs:
                continue
            where = f"{name}.{child}".lstrip(".")
            if isinstance(node, BiSpikes):
                _require_amplitude(where, node)
                yield _Pair(where, neuron, node.amplitude, [layer], _replacing_node(node))
            else:
                alpha = getattr(node, "alpha", tensor_of(neuron.params["alpha"]))
                alpha = neuron.params["alpha"] if alpha is None else alpha
                yield _Pair(where, neuron, alpha, [layer], _replacing_child(parent, child, make))


def _replacing_node(site: BiSpikes) -> Callable[[ElasticBiSpike], None]:
    def replace(neuron: ElasticBiSpike) -> None:
        site.node = site.make(neuron)
        site.rule = "fixed"

    return replace


def _replacing_child(parent: nn.Module, child: str, make: Make) -> Callable[[Neuron], None]:
    return lambda neuron: setattr(parent, child, make(neuron))


def _require_amplitude(name: str, site: BiSpikes) -> None:
    if site.rule != "fixed" and not bool(site.batches > 0):
        raise ValueError(f"{name}: has no amplitude yet; call the model on a batch first")


def _scale_output(layer: Any, alpha: Tensor) -> None:
    bias = None
    if layer.bias is not None:
        spatial = layer.weight.dim() - 2 if isinstance(layer, CONVOLUTIONS) else 0
        bias = layer.bias.detach().clone().reshape(-1, *(1,) * spatial)
        layer.bias.zero_()
    layer.step_scale = StepScale(alpha.clone(), bias)
    # Before any quantiser of keys and values.
    layer.register_forward_hook(_scale, prepend=True)


def _scale(layer: Any, args: Any, output: Tensor) -> Tensor:
    return layer.step_scale(output)
