"""Spiking layers: linear, activation, gated feed-forward.

Each has two forms that agree: *spikes*, in which K weighted spikes enter and leave step by step,
and *decoded*, which computes with their sums and is fast.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spikeloom.convert.las.nodes import fired, node_for
from spikeloom.convert.las.sites import ENCODES, VALUES, SharedSite, Site
from spikeloom.convert.las.trains import linear, product, same_steps
from spikeloom.convert.las.watch import Watch
from spikeloom.grid import BUFFERS
from spikeloom.hosted import Make
from spikeloom.kernel.call import COMPUTED, run
from spikeloom.kernel.pointwise import Pointwise
from spikeloom.modules import register
from spikeloom.neurons import LinearHG, fit_hg
from spikeloom.neurons.tables import FUNCTIONS, REACH

__all__ = ["Activation", "GatedMLP", "Linear", "Spiking", "WeightLayer", "owned"]
__all__ += ["marked", "the_argument", "wide"]


Kind = TypeVar("Kind", bound=nn.Module)


class Spiking(nn.Module):
    """A layer in two forms.

    Attributes:
        form: ``"decoded"``: fast; ``"spikes"``: step by step, the same result.
        observing: During calibration the layer computes what the original did.
    """

    form = "decoded"
    observing = True

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        """The layer's value for one argument, which has the name that it had in the original."""
        x = the_argument(args, named)
        if self.observing:
            return self.exact(x)
        if self.form == "spikes":
            return self.spikes(x).sum(0)
        return self.decoded(x)

    def exact(self, x: Tensor) -> Tensor:
        """What the original layer computes, its sites observing."""
        return self.decoded(x)

    def decoded(self, x: Tensor) -> Tensor:
        """The value, computed with decoded spikes."""
        raise NotImplementedError

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes ``[K, *]`` that add up to the value."""
        raise NotImplementedError


class WeightLayer(Spiking):
    """A layer of weights whose input is spikes; derived classes are the layer that it replaces.

    What asks for ``nn.Linear`` or for ``Conv1D``, to add adapters or to resize a head, finds it.

    Attributes:
        site: Encodes the input; another layer's, if both read the same.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    site: Site | SharedSite

    @property
    def matrix(self) -> Tensor:
        """The weights as ``[out, in]``."""
        return self.weight

    def share(self, site: Site) -> None:
        """Read the spikes of another layer's site."""
        # A plain attribute may not take the place of a module.
        del self.site
        self.site = SharedSite(site)

    def plain(self) -> nn.Module:
        """The layer that it replaces, with the same weights."""
        raise NotImplementedError

    @property
    def source(self) -> Site:
        """The site that encodes the input, its own or another layer's."""
        return self.site.site if isinstance(self.site, SharedSite) else self.site

    def encoded(self, x: Tensor) -> Tensor:
        """What meets the weights: the sum of the input's spikes."""
        return self.source.encoded(x)

    def decoded(self, x: Tensor) -> Tensor:
        """``W x + b`` of the decoded input."""
        return nn.functional.linear(self.site(x), self.matrix, self.bias)

    def spikes(self, x: Tensor) -> Tensor:
        """``W`` times each spike."""
        return linear(self.site.spikes(x), self.matrix, self.bias)


register(WeightLayer, VALUES)


class Linear(WeightLayer, nn.Linear):  # type: ignore[misc]  # torch declares its bias a tensor
    """``nn.Linear`` on spikes.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]`` or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        outputs, inputs = weight.shape
        nn.Linear.__init__(self, inputs, outputs, bias is not None, device="meta")
        self.weight, self.bias = owned(weight), None if bias is None else owned(bias)
        self.site = Site()

    @classmethod
    def of(cls, layer: nn.Linear) -> Linear:
        """The spiking layer that takes the place of a linear one."""
        return marked(cls(layer.weight, layer.bias), layer)

    def plain(self) -> nn.Module:
        """``nn.Linear`` with the same weights."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias  # type: ignore[assignment]  # or none
        return marked(layer, self)

    def set_outputs(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        """Take other weights for the same inputs, whose spikes stay as they are."""
        self.weight, self.bias, self.out_features = weight, bias, len(weight)
        for name in BUFFERS:  # they tell of the weights that were
            self._buffers.pop(name, None)


# Where all other functions have become flat.
FLAT = 9.0
UNEVEN = 2e-4  # a sigmoid is this near to 1 there


@lru_cache(maxsize=256)
def activation_neuron(
    function: str, low: float, high: float, steps: int, segments: int, focus: float | None
) -> tuple[LinearHG, Pointwise]:
    """An activation on a range, with the tails that it has; and its closed form."""
    if function in REACH:
        core = REACH[function]
        tails: dict[str, Any] = {"zero_below": -core, "identity_above": core}
        # Two pieces an octave beyond the core come on top.
        segments += 2 * max(0, math.ceil(math.log2(high / core))) + 1
    else:
        _check_flat(function)
        tails = {}
    neuron = fit_hg(
        function, low, high, steps, segments=segments, strict=False, focus=focus, **tails
    )
    return neuron, Pointwise(neuron.decoder())


def _check_flat(function: str) -> None:
    """Refuse a function that a table would clamp."""
    beyond = FLAT * torch.cat((torch.linspace(1, 2, 129), 2 ** torch.arange(2.0, 8.0))).double()
    for x in (beyond, -beyond):
        y = FUNCTIONS[function](x)
        if not bool(((y - y[0]).abs() <= UNEVEN).all()):
            raise ValueError(
                f"function: {function!r} is not flat beyond magnitudes of {FLAT:g}, where its "
                f"table ends, and has no entry in neurons.tables.REACH; write it with other "
                f"functions in COMPOSED of convert/las/calls/composed.py"
            )


class Activation(Spiking):
    """A scalar function by a gated few-spike neuron.

    Args:
        function: A name in :data:`spikeloom.neurons.tables.FUNCTIONS`.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self.name = ""
        self.node: nn.Module | None = None
        self.low = self.high = 0.0
        self.looks = True  # whether it observes what passes
        self.watch = Watch()

    def exact(self, x: Tensor) -> Tensor:
        """The function itself; its range is observed."""
        if x.numel() and self.looks:
            least, most = (float(value) for value in torch.aminmax(self._held(x.detach())))
            if not math.isfinite(least + most):
                raise ValueError(
                    f"calibration: the input of {self.name or 'the model'} holds NaN or infinity"
                )
            self.low, self.high = min(self.low, least), max(self.high, most)
        return FUNCTIONS[self.function](x)

    def fit(self, steps: int, segments: int, headroom: float) -> None:
        """Generate the table for what was observed."""
        # A power of two, so that layers share tables.
        # Far below, functions with an identity tail are zero.
        least = 0.0 if self.function in REACH else abs(self.low)
        largest = max(least, self.high, 2.0**-20)
        focus = 2.0 ** math.ceil(math.log2(largest))
        reach = 2.0 ** math.ceil(math.log2(largest * headroom))
        core = REACH.get(self.function, FLAT)
        self.install(steps, segments, reach, focus if focus < core / 2 else None)

    def install(self, steps: int, segments: int, reach: float, focus: float | None = None) -> None:
        """Take the table for magnitudes up to ``reach``, most of them up to ``focus``."""
        # Two octaves at least beyond the core; a function that is flat far out ends there.
        reach = max(reach, 32.0) if self.function in REACH else FLAT
        self.steps, self.segments, self.reach, self.focus = steps, segments, reach, focus
        self.neuron, self._decoder = activation_neuron(
            self.function, -self.reach, self.reach, steps, segments, focus
        )

    def decoded(self, x: Tensor) -> Tensor:
        """The function of every element."""
        x = self._watched(x)
        y = self._decoder(x)
        if y is None:
            y, _ = run(self._decoder.neuron, x.reshape(1, -1))
        return y.view(x.shape)

    def spikes(self, x: Tensor) -> Tensor:
        """The weighted spikes of the function of every element."""
        x = self._watched(x)
        if self.node is not None:
            return fired(self.node, x, self.neuron.steps)
        y, _ = run(self.neuron, x[None])
        return y

    def _watched(self, x: Tensor) -> Tensor:
        # Where a function is flat nothing saturates.
        high = self.reach if self.function in REACH else math.inf
        return self.watch.see(self.name, self._held(x), high, -math.inf)

    def _held(self, x: Tensor) -> Tensor:
        """The argument, but where a function is flat: a mask may be infinite there."""
        return x if self.function in REACH else x.clamp(-FLAT, FLAT)

    def fire_through(self, make: Make | None) -> None:
        """Let a host's module fire the spikes, or again the layer itself."""
        self.node = None if make is None else node_for(make, self.neuron).train(self.training)

    def extra_repr(self) -> str:
        """The function."""
        return self.function


register(Activation, ENCODES)


class GatedMLP(Spiking):
    """``down(act(gate x) * up x)``, the product one of spike trains.

    Args:
        gate_proj: A spiking linear layer; named as in the network that it comes from.
        up_proj: A spiking linear layer.
        down_proj: A spiking linear layer.
        act_fn: A spiking activation.
    """

    def __init__(
        self, gate_proj: Linear, up_proj: Linear, down_proj: Linear, act_fn: Activation
    ) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj
        self.act_fn = act_fn
        self.factor = Site()

    def decoded(self, x: Tensor) -> Tensor:
        """The block of decoded spikes."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.factor(self.up_proj(x)))

    def spikes(self, x: Tensor) -> Tensor:
        """The block, step by step."""
        gate = self.act_fn.spikes(self.gate_proj.spikes(x).sum(0))
        up = self.factor.spikes(self.up_proj.spikes(x).sum(0))
        return self.down_proj.spikes(product(*same_steps(gate, up)).sum(0))


def the_argument(args: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
    """The one argument of a layer, given by position or by name."""
    given = (*args, *named.values())
    if len(given) != 1:
        raise TypeError(f"a spiking layer takes one argument, got {len(given)}")
    return given[0]


def owned(value: Tensor) -> nn.Parameter:
    """A weight as the layer's own parameter, so that it moves and is saved with the layer.

    A weight that was computed, as by weight normalisation or a pruning mask, stays what it is now.
    """
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())


def marked(layer: Kind, original: nn.Module) -> Kind:
    """A layer of the same weights, with what compression left on the original.

    Args:
        layer: The new layer.
        original: The layer whose weights it has.
    """
    for name in BUFFERS:
        value = original._buffers.get(name)
        if value is not None:
            layer.register_buffer(name, value)
    return layer


def wide(x: Tensor) -> Tensor:
    """In float32 at least: squares and sums overflow in half precision, as torch's own know."""
    return x.to(COMPUTED[x.dtype])
