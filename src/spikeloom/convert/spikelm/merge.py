"""Unit spikes: amplitudes leave the neurons and enter the weights behind them."""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.convert.spikelm.amplitude import BiSpikes
from spikeloom.grid import has_grid, scale_weight
from spikeloom.hosted import copied
from spikeloom.kernel.neuron import kind, tensor_of
from spikeloom.modules import neuron_of
from spikeloom.neurons.elastic import FLOOR, ElasticBiSpike

__all__ = ["StepScale", "merge_amplitude"]

# Modules within a layer that leave what it computes of its weight and bias as it is.
OUR_PARTS = {"parametrizations", "quantise", "source_spikes", "spikes", "step_scale"}
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


def merge_amplitude(model: nn.Module) -> Any:
    r"""A copy of a model whose weight layers receive spikes of -1, 0 and 1 and nothing else.

    .. math:: W (\alpha s) = (\alpha W) s

    An amplitude that all steps share goes into the weights for good, also one per input feature
    of a linear layer; amplitudes per step become factors on the layer's output, before its bias
    (:class:`StepScale`), because one weight cannot hold them. The copy computes the same up to
    rounding, for inference: its amplitudes no longer learn or follow the data. Every module keeps
    its framework and its settings. A neuron that feeds no weight layer keeps its amplitude, as the
    quantisers of keys and values do. A quantised layer keeps its codes, and its steps take the
    amplitude; with one per input feature it loses them, with a warning.

    A ``forward`` that also calls a neuron or a layer apart from its ``nn.Sequential``, such as
    ``self.net[0](x)``, cannot be seen from here: it computes something else in the copy.

    Args:
        model: Converted by :class:`~spikeloom.convert.SpikeLM`, or with modules of
            :class:`~spikeloom.neurons.ElasticBiSpike`, of any framework, directly before linear
            or convolutional layers in an ``nn.Sequential`` or a subclass that runs in order.

    Raises:
        ValueError: If there is nothing to merge, or something cannot be merged, all of which is
            listed: neurons that send unit spikes already or have no amplitude yet, layers that
            cannot absorb theirs, neurons and weights that have a place elsewhere in the model too.

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
    merged = copied("model", model)
    sites = _sites(merged)
    if not sites:
        raise ValueError(
            "model: has no elastic bi-spiking neurons that feed weight layers; convert it with "
            "spikeloom.convert.SpikeLM, or put them directly before the layers in nn.Sequential"
        )
    if found := list(_obstacles(merged, sites)):
        raise ValueError("\n  ".join(["model: has amplitudes that cannot be merged", *found]))
    with torch.no_grad():
        for site in sites:
            site.merge()
    config: Any = getattr(merged, "config", None)
    if hasattr(config, "spikelm"):
        config.spikelm = {**config.spikelm, "merged": True}  # for from_pretrained
    return merged


@dataclass
class _Site:
    """A neuron and the layers it feeds, each under every name that leads to it."""

    module: nn.Module
    names: set[str] = field(default_factory=set)
    layers: dict[str, nn.Module] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(sorted(self.names))

    @property
    def node(self) -> Any:
        """The module that runs the neuron."""
        return self.module.node if isinstance(self.module, BiSpikes) else self.module

    @property
    def alpha(self) -> Tensor:
        """The amplitude now."""
        now = getattr(self.node, "alpha", self.node.neuron.params["alpha"])
        own = tensor_of(now)
        return torch.as_tensor(now if own is None else own).detach()

    @property
    def kind(self) -> str:
        """How the amplitude is laid out: number, scalar, step or neuron."""
        return kind(self.node.neuron.params["alpha"])

    @property
    def attributes(self) -> list[str]:
        """Where the module keeps the description; frameworks have names of their own for it."""
        return [name for name, value in vars(self.node).items() if value is self.node.neuron]

    def merge(self) -> None:
        """Take the amplitude out of the neuron and into the layers."""
        alpha = self.alpha.clamp(min=FLOOR)
        for layer, name in {layer: name for name, layer in self.layers.items()}.items():
            had_grid = has_grid(layer)
            self._absorb(layer, alpha)
            if had_grid and not has_grid(layer):
                warnings.warn(
                    f"merge_amplitude: {name!r} takes a factor for each input, so that no step is "
                    "common to a row any more, and loses its codes; quantise after merging",
                    stacklevel=3,
                )
        self._send_units()
        if isinstance(self.module, BiSpikes):
            self.module.rule = "fixed"

    def _send_units(self) -> None:
        """Let the module run the same neuron with unit spikes and an amplitude that stays."""
        node, neuron = self.node, self.node.neuron
        changes: dict[str, Any] = {"unit_spikes": True}
        if isinstance(getattr(node, "alpha", None), Tensor):
            changes["alpha"] = self.alpha.clone()
            del node.alpha
            node.register_buffer("alpha", changes["alpha"])
        for name in self.attributes:
            vars(node)[name] = neuron.replace(**changes)

    def _absorb(self, layer: Any, alpha: Tensor) -> None:
        if self.kind == "step":
            _scale_output(layer, alpha)
        else:
            factor = alpha.reshape(-1) if self.kind == "neuron" else alpha
            layer.weight.copy_(scale_weight(layer, factor))


# --- Finding the sites ---------------------------------------------------------------------------


def _sites(model: nn.Module) -> list[_Site]:
    found: dict[nn.Module, _Site] = {}
    for name, module, layer_name, layer in (*_converted(model), *_in_sequence(model)):
        site = found.setdefault(module, _Site(module))
        site.names.add(name)
        site.layers[layer_name] = layer
    return list(found.values())


Link = tuple[str, nn.Module, str, nn.Module]


def _converted(model: nn.Module) -> Iterator[Link]:
    """The sites of a SpikeLM model, with the weight layers that each feeds."""
    for name, owner in model.named_modules(remove_duplicate=False):
        for place in ("spikes", "source_spikes"):
            site = owner._modules.get(place)
            if isinstance(site, BiSpikes) and isinstance(site.neuron, ElasticBiSpike):
                for fed in getattr(site, "feeds", ()):
                    layer = owner.get_submodule(fed)
                    yield f"{name}.{place}".lstrip("."), site, f"{name}.{fed}".strip("."), layer


def _in_sequence(model: nn.Module) -> Iterator[Link]:
    """Neurons directly before weight layers in an nn.Sequential."""
    for name, parent in model.named_modules(remove_duplicate=False):
        if not isinstance(parent, nn.Sequential):
            continue
        for (child, module), (behind, layer) in itertools.pairwise(parent._modules.items()):
            neuron = neuron_of(module)
            weighs = isinstance(layer, (nn.Linear, *CONVOLUTIONS))
            if isinstance(neuron, ElasticBiSpike) and weighs:
                prefix = f"{name}." if name else ""
                yield f"{prefix}{child}", module, f"{prefix}{behind}", layer


# --- What stands in the way ----------------------------------------------------------------------


def _obstacles(model: nn.Module, sites: Iterable[_Site]) -> Iterator[str]:
    """A line for everything that cannot be merged."""
    places: defaultdict[int, set[str]] = defaultdict(set)
    for name, module in model.named_modules(remove_duplicate=False):
        for part in (module, *module._parameters.values()):
            places[id(part)].add(name)
    for site in sites:
        if not site.attributes:
            yield f"{site}: {type(site.node).__name__} does not let its neuron be replaced"
        if site.node.neuron.unit_spikes:
            yield f"{site}: sends unit spikes already; merge the original, and once"
        if isinstance(site.module, BiSpikes) and not site.module.is_set:
            yield f"{site}: has no amplitude yet; call the model on a batch first"
        if not bool((site.alpha > 0).all()):
            yield f"{site}: has learned an amplitude that is not positive; clamp it first"
        if others := places[id(site.module)] - site.names:
            yield f"{site}: is at {_listed(others)} too, with no weight layer directly behind"
        for name, layer in site.layers.items():
            users = places[id(layer)] | places[id(layer.weight)]
            if others := users - set(site.layers):
                elsewhere = f"its weight is at {_listed(others)} too"
                yield f"{name}: {elsewhere}, which neuron {site} does not feed"
            elif reason := _refusal(site, layer):
                yield f"{name}: {reason}"


def _refusal(site: _Site, layer: Any) -> str | None:
    """Why a layer cannot absorb its neuron's amplitude."""
    if own := _further_parts(layer):
        return f"a {type(layer).__name__} computes with {_listed(own)} too; put a plain layer there"
    if site.kind == "step":
        return None
    if "weight" not in layer._parameters:
        return "its weight is computed anew in each call; make it a plain parameter first"
    if site.kind == "neuron":
        shape = tuple(site.alpha.shape)
        if not (isinstance(layer, nn.Linear) and site.alpha.numel() in (1, shape[-1])):
            return (
                f"a {type(layer).__name__} cannot absorb amplitudes of shape {shape}; only a "
                f"Linear can, one per input feature"
            )
    return None


def _further_parts(layer: nn.Module) -> set[str]:
    """Parameters and modules that a plain layer does not have, and this one may compute with."""
    named = {name for name in layer._parameters if not name.startswith(("weight", "bias"))}
    return named | set(layer._modules) - OUR_PARTS


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


# --- Amplitudes per step -------------------------------------------------------------------------


def _scale_output(layer: Any, alpha: Tensor) -> None:
    bias = None
    if layer.bias is not None:
        spatial = layer.weight.dim() - 2 if isinstance(layer, CONVOLUTIONS) else 0
        bias = layer.bias.detach().clone().reshape(-1, *(1,) * spatial)
        # A new one, because others may share it.
        layer.bias = nn.Parameter(torch.zeros_like(layer.bias), layer.bias.requires_grad)
    layer.step_scale = StepScale(alpha.clone(), bias).train(layer.training)
    # Before any quantiser of keys and values.
    layer.register_forward_hook(_scale, prepend=True)


def _scale(layer: Any, args: Any, output: Tensor) -> Tensor:
    return layer.step_scale(output)
