"""Sites: the places of a network where values become the spikes of an outlier-aware neuron."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from spikeloom.convert.las.nodes import fired, node_for
from spikeloom.convert.las.ranges import Observation, choose_ranges, short
from spikeloom.convert.las.sharing import Latest, version_of
from spikeloom.convert.las.watch import Watch
from spikeloom.hosted import Make
from spikeloom.kernel.call import run
from spikeloom.kernel.pointwise import Pointwise
from spikeloom.modules import Conventions, register, undescribed
from spikeloom.neurons import OAT
from spikeloom.neurons.trace import Response

__all__ = ["ENCODES", "VALUES", "SharedSite", "Site"]

# Each call takes complete values, whose few spikes are no steps of the network.
VALUES = Conventions(is_neuron=False, describe=undescribed, takes_steps=lambda module: True)
# It encodes them as they are: nothing adds up what comes in.
ENCODES = replace(VALUES, is_neuron=True, response=lambda module: Response(0.0))


class Site(nn.Module):
    """An outlier-aware neuron on one activation of a network.

    While it is calibrated it lets values pass and observes them; afterwards it encodes them.

    Args:
        channels: The axes that have ranges of their own, counted from the end: ``(-1,)`` for
            features, ``(-3, -1)`` for heads and their features, ``()`` for one range for all.
        bound: What the ranges reach to in any case, whatever calibration sees.

    The ranges are float32 whatever dtype the network is moved to.
    """

    def __init__(self, channels: tuple[int, ...] = (-1,), bound: float = 0.0) -> None:
        super().__init__()
        self.name = ""
        self.channels = channels
        self.heads = 1
        self.users = 1
        self.watch = Watch()
        self.observation: Observation | None = Observation(bound)
        self.looks = True  # whether it observes what passes
        self.calibrated = 0  # values that it observed
        self.neuron: OAT | None = None
        self.node: nn.Module | None = None
        self._decoder: Pointwise | None = None
        self.latest = Latest()
        # The code, and which tensors of which versions it is made of.
        self._coded: tuple[list[Any], str] | None = None

    # --- Calibration ---------------------------------------------------------------------------

    def fit(self, steps: int, between: int, rounding: str, headroom: float) -> None:
        """Choose the ranges for K steps from what was observed."""
        assert self.observation is not None
        *inner, largest = choose_ranges(self.observation, steps, between)
        ranges = [value.reshape(self._shape(value.numel())) for value in inner]
        # A range of its own, so that room for the unseen costs no resolution.
        room = [short(largest * headroom)] if headroom > 1 else []
        self.install(steps, [*ranges, largest, *room], rounding)

    def install(self, steps: int, ranges: list[Tensor], rounding: str) -> None:
        """Take these ranges, from the innermost to the outermost.

        Those up to the largest calibrated value have a value a channel, those beyond are 0-d.
        """
        names = ["normal", *(f"between_{i}" for i in range(len(ranges) - 2)), "outlier"]
        for name, value in zip(names, ranges, strict=True):
            self.register_buffer(name, value)
        inner, *between, outlier = map(self._taken, ranges)
        self.neuron = OAT(steps, inner, outlier, between, rounding=rounding)
        self._decoder = Pointwise(self.neuron.decoder())
        self.observation = None

    def _taken(self, value: Any) -> Any:
        """A range as the neuron takes it: one number if it is the same for all."""
        return value if self.channels else value.reshape(())

    def _shape(self, channels: int) -> tuple[int, ...]:
        if self.channels == (-3, -1):
            return (self.heads, 1, channels // self.heads)
        return (channels,)

    def _observe(self, observation: Observation, x: Tensor) -> None:
        rows = self._rows(x)
        if observation.peaks is not None and rows.shape[1] != len(observation.peaks):
            # Not features, whose number does not change, but places.
            self.channels = ()
            observation.forget_channels()
            rows = self._rows(x)
        observation.see(self.name, rows)
        self.calibrated += rows.numel()

    def _rows(self, x: Tensor) -> Tensor:
        """The values as ``[n, channels]``."""
        if self.channels == (-3, -1):
            self.heads = x.shape[-3]
            return x.transpose(-3, -2).flatten(-2).flatten(0, -2)
        return x.reshape(-1, x.shape[-1]) if self.channels else x.reshape(-1, 1)

    # --- Encoding ------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """The decoded value for the first of the readers; the value itself in calibration."""
        if self.observation is not None:
            if self.looks:
                self._observe(self.observation, x)
            return x
        y = self.decoded(x)
        self.latest.keep(x, y, self.users - 1)
        return y

    def decoded(self, x: Tensor) -> Tensor:
        """The decoded value of the spikes."""
        return self.encoded(self._watched(x))

    def encoded(self, x: Tensor) -> Tensor:
        """The same, of values that are only looked at: none of them is counted."""
        assert self.neuron is not None and self._decoder is not None
        y = self._decoder(x, [self._buffers[name] for name in self.neuron.ranges])  # type: ignore[misc]  # fitted
        if y is not None:
            return y
        # Rows as time: ranges need not be copied for every row, and the decoder has no memory.
        if self.channels == (-3, -1):
            return self._of_heads(x)
        y, _ = run(self._decoder.neuron, self._flat(x), params=self._ranges(x))
        return y.view(x.shape)

    def _of_heads(self, x: Tensor) -> Tensor:
        """The decoded value of ``[*, heads, length, features]``, a row of heads for each place."""
        rows = x.transpose(-3, -2)
        ranges = {
            name: value.transpose(-3, -2) if value.dim() else value
            for name, value in self._ranges().items()
        }
        assert self._decoder is not None
        places = rows.reshape(-1, 1, *rows.shape[-2:])
        y, _ = run(self._decoder.neuron, places, params=ranges)
        return y.view(rows.shape).transpose(-3, -2)

    @property
    def code(self) -> str:
        """Tells sites apart that make other spikes of the same values."""
        assert self.neuron is not None
        ranges = list(self._ranges().values())
        now = [(id(value), version_of(value)) for value in ranges]
        if self._coded is None or self._coded[0] != now:
            digest = hashlib.sha256(repr((self.neuron.steps, self.neuron.rounding)).encode())
            for value in ranges:
                digest.update(value.detach().cpu().numpy().tobytes())
            self._coded = now, digest.hexdigest()
        return self._coded[1]

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1]) if self.channels else x.reshape(1, -1)

    def spikes(self, x: Tensor) -> Tensor:
        """The weighted spikes ``[K, *]`` of the values ``[*]``."""
        x = self._watched(x)
        if self.node is not None:
            return fired(self.node, x, self.neuron.steps)  # type: ignore[union-attr]  # fitted
        y, _ = run(self.neuron, x[None], params=self._ranges(x))  # type: ignore[arg-type]  # fitted
        return y

    def fire_through(self, make: Make | None) -> None:
        """Let a host's module fire the spikes, or again the site itself."""
        self.node = None
        if make is not None:
            assert self.neuron is not None
            normal, *between, outlier = self._ranges().values()
            fitted = self.neuron.replace(normal=normal, between=between, outlier=outlier)
            self.node = node_for(make, fitted).train(self.training)

    def _ranges(self, x: Tensor | None = None) -> dict[str, Any]:
        """The ranges; one for all features if values have others than calibration saw."""
        assert self.neuron is not None
        buffers = self._buffers
        ranges: dict[str, Any] = {n: self._taken(buffers[n]) for n in self.neuron.ranges}
        if x is not None and self.channels == (-1,) and x.shape[-1] != ranges["normal"].numel():
            return {n: v.max().expand(x.shape[-1]) if v.dim() else v for n, v in ranges.items()}
        return ranges

    def _watched(self, x: Tensor) -> Tensor:
        return self.watch.see(self.name, x, self.outlier)  # type: ignore[arg-type]  # a 0-d buffer

    def _apply(self, fn: Any, recurse: bool = True) -> Site:
        # In float16 a range of an outlier would become infinite, and its values zero.
        ranges = [(module, dict(module._buffers)) for module in self.modules()]
        super()._apply(fn, recurse)
        for module, before in ranges:
            for name, value in before.items():
                moved = module._buffers[name]
                if value is not None and moved is not None and moved.dtype != value.dtype:
                    module._buffers[name] = value.to(moved.device)
        return self

    def extra_repr(self) -> str:
        """The neuron."""
        if self.neuron is None:
            return "observing"
        return f"steps={self.neuron.steps}, ranges={len(self.neuron.ranges)}"


register(Site, ENCODES)


class SharedSite:
    """A further reader of a site: no module, so that the site is saved with its first reader.

    Args:
        site: The site that it stands for.
    """

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, x: Tensor) -> Tensor:
        """The decoded value that the first reader got, or a new one for another activation."""
        y = self.site.latest.take(x)
        return self.site.decoded(x) if y is None else y

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes, as the site gives them."""
        return self.site.spikes(x)
