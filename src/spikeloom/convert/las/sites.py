"""Sites: the places of a network where values become the spikes of an outlier-aware neuron."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron
from spikeloom.neurons import OAT

__all__ = ["Make", "Observation", "SharedSite", "Site", "choose_ranges", "fired", "made"]

Make = Callable[[Neuron], nn.Module]

ROWS = 1024  # of activations kept from each site
SHORT = 8  # significant bits of a range: sums of spikes are then exact in float32
CANDIDATES = 2.0 ** (-torch.arange(0, 26) / 4)  # ranges tried, as shares of the largest value


class Observation:
    """What a site saw during calibration: a sample of rows, and the largest magnitude.

    Args:
        bound: The least that the largest magnitude is taken for.
    """

    def __init__(self, bound: float = 0.0) -> None:
        self.rows: list[Tensor] = []
        self.largest = bound
        self._draw = torch.Generator().manual_seed(0)

    def see(self, name: str, rows: Tensor) -> None:
        """Keep a sample of rows ``[n, channels]``."""
        if not rows.numel():
            return
        rows = rows.detach()
        largest = float(rows.abs().amax())
        if not math.isfinite(largest):
            raise ValueError(f"calibration: the input of {name} holds NaN or infinity")
        self.largest = max(self.largest, largest)
        chosen = torch.randperm(len(rows), generator=self._draw)[: ROWS // 4].to(rows.device)
        self.rows.append(rows[chosen].float().cpu())

    def sample(self) -> Tensor:
        """At most ``ROWS`` rows."""
        rows = torch.cat(self.rows)
        return rows[torch.randperm(len(rows), generator=self._draw)[:ROWS]]


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
        self.kind = ""
        self.channels = channels
        self.users = 1
        self.saturated = 0
        self.values = 0
        self.observation: Observation | None = Observation(bound)
        self.neuron: OAT | None = None
        self.node: nn.Module | None = None
        self._decoder: Neuron | None = None
        self._warned = False
        self._last: tuple[Any, Tensor, int] | None = None

    # --- Calibration ---------------------------------------------------------------------------

    def fit(self, steps: int, between: int, rounding: str, headroom: float) -> None:
        """Choose the ranges for K steps from what was observed."""
        assert self.observation is not None
        sample = self.observation.sample() if self.observation.rows else torch.zeros(1, 1)
        ranges = choose_ranges(sample, self.observation.largest, steps, between)
        if headroom > 1:
            # A range of its own, so that room for the unseen costs no resolution.
            ranges.append(short(ranges[-1] * headroom))
        shape = self._shape(ranges[0].numel())
        self.install(steps, [ranges[0].reshape(shape), *ranges[1:]], rounding)

    def install(self, steps: int, ranges: list[Tensor], rounding: str) -> None:
        """Take these ranges, from the innermost (a value a channel) to the outermost."""
        # Storage of their own: the one chosen is a view of all that were tried.
        ranges = [value.clone() for value in ranges]
        names = ["normal", *(f"between_{i}" for i in range(len(ranges) - 2)), "outlier"]
        for name, value in zip(names, ranges, strict=True):
            self.register_buffer(name, value)
        self.neuron = OAT(steps, ranges[0], ranges[-1], ranges[1:-1], rounding=rounding)
        self._decoder = self.neuron.decoder()
        self.observation = None

    def _shape(self, channels: int) -> tuple[int, ...]:
        if self.channels == (-3, -1):
            return (self.heads, 1, channels // self.heads)
        return (channels,)

    def _rows(self, x: Tensor) -> Tensor:
        """The values as ``[n, channels]``."""
        if self.channels == (-3, -1):
            self.heads = x.shape[-3]
            return x.transpose(-3, -2).flatten(-2).flatten(0, -2)
        return x.reshape(-1, x.shape[-1]) if self.channels else x.reshape(-1, 1)

    # --- Encoding ------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """The decoded value of the spikes; the value itself during calibration."""
        if self.observation is not None:
            self.observation.see(self.name, self._rows(x))
            return x
        if self.users == 1:
            return self._decoded(x)
        return self._shared(x)

    def _shared(self, x: Tensor) -> Tensor:
        """Several layers read the same activation: it is encoded once."""
        last = self._last  # read once: another thread may change it
        if last is not None and last[0]() is x:
            source, y, uses = last
        else:
            source, y, uses = weakref.ref(x), self._decoded(x), 0
        # The last reader lets go of it.
        self._last = (source, y, uses + 1) if uses + 1 < self.users else None
        return y

    def _decoded(self, x: Tensor) -> Tensor:
        x = self._watched(x)
        # Rows as time: ranges need not be copied for every row, and the decoder has no memory.
        rows = x if self.channels == (-3, -1) else self._flat(x)
        y, _ = run(self._decoder, rows, params=self._ranges())  # type: ignore[arg-type]  # fitted
        return y.view(x.shape)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1]) if self.channels else x.reshape(1, -1)

    def spikes(self, x: Tensor) -> Tensor:
        """The weighted spikes ``[K, *]`` of the values ``[*]``."""
        x = self._watched(x)
        if self.node is not None:
            return fired(self.node, x, self.neuron)  # type: ignore[arg-type]  # fitted
        y, _ = run(self.neuron, x[None], params=self._ranges())  # type: ignore[arg-type]  # fitted
        return y

    def fire_through(self, make: Make | None) -> None:
        """Let a host's module fire the spikes, or again the site itself."""
        self.node = None
        if make is not None:
            assert self.neuron is not None
            normal, *between, outlier = self._ranges().values()
            ranges = {"normal": normal, "between": between, "outlier": outlier}
            self.node = made(make, OAT(**{**self.neuron.settings(), **ranges}))

    def _ranges(self) -> dict[str, Any]:
        assert self.neuron is not None
        return {name: getattr(self, name) for name in self.neuron.ranges}

    def _watched(self, x: Tensor) -> Tensor:
        """Refuse NaN and infinity; count what lies beyond the outermost range."""
        if torch.compiler.is_compiling():
            # A compiled graph cannot raise: infinity becomes NaN, and NaN stays.
            return x + (x - x).detach()
        if x.numel():
            self._watch(x)
        return x

    def _watch(self, x: Tensor) -> None:
        least, most = (float(value) for value in torch.aminmax(x.detach()))
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError(f"{self.name}: the input holds NaN or infinity")
        self.values += x.numel()
        outlier = float(self.outlier)  # type: ignore[arg-type]  # a 0-d buffer
        if max(-least, most) <= outlier:
            return
        self.saturated += int((x.detach().abs() > outlier).sum())
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: {self.saturated / self.values:.2e} of the values lie beyond "
                f"{outlier:g}, the largest range, and saturate; calibrate on more or other data",
                stacklevel=2,
            )

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

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be pickled.
        return {**self.__dict__, "_last": None}

    def extra_repr(self) -> str:
        """The neuron."""
        if self.neuron is None:
            return "observing"
        return f"steps={self.neuron.steps}, ranges={len(self.neuron.ranges)}"


class SharedSite:
    """A further reader of a site: no module, so that the site is saved with its first reader.

    Args:
        site: The site that it stands for.
    """

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, x: Tensor) -> Tensor:
        """The decoded value, as the site gives it."""
        return self.site(x)

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes, as the site gives them."""
        return self.site.spikes(x)


# --- Hosts -------------------------------------------------------------------------------------


def made(make: Make, neuron: Neuron) -> nn.Module:
    """A host's module for a neuron; its tensors are the site's, which saves them."""
    node = make(neuron)
    for module in node.modules():
        module._non_persistent_buffers_set.update(module._buffers)
    return node


def fired(node: nn.Module, x: Tensor, neuron: Neuron) -> Tensor:
    """The spikes ``[K, *]`` of a host's module, from rest.

    Raises:
        ValueError: If the module yields something else.
    """
    for module in node.modules():
        for forget in ("reset", "reset_mem"):
            if callable(method := getattr(module, forget, None)):
                method()
    y = node(x[None])
    y = y[0] if isinstance(y, tuple) else y
    if y.shape != (neuron.steps, *x.shape):
        raise ValueError(
            f"make: {type(node).__name__} yields shape {tuple(y.shape)} for values of shape "
            f"{tuple(x.shape)}, not {neuron.steps} spikes for each; make modules that take a "
            f"whole sequence, time first"
        )
    return y


# --- Ranges ------------------------------------------------------------------------------------


def choose_ranges(sample: Tensor, largest: float, steps: int, between: int) -> list[Tensor]:
    r"""The ranges with the least expected squared error for K steps.

    A value in a range V is rounded to multiples of ``LSB = V * 2**-K``: its squared error is that
    of a uniform rounding, ``LSB**2 / 12``, or the value's own square if it is below half an LSB
    and lost. The innermost range is chosen for each channel, those between for the tensor.

    Args:
        sample: ``[n, channels]``.
        largest: The outermost range.
        steps: K.
        between: How many ranges to put between, 0 or 1.

    Returns:
        ``[channels]``, then 0-d tensors; each of at most 8 significant bits.
    """
    if not largest > 0:
        largest = 1.0
    outlier = short(torch.tensor(largest))
    a = sample.abs().T.contiguous().sort(1).values
    own = a[:, -1:].clamp(min=largest * 2.0**-12)
    inner = torch.minimum(short(own * CANDIDATES), outlier * 0.75)
    best: tuple[float, list[Tensor]] | None = None
    for middle in short(outlier * CANDIDATES[2:-4:2]) if between else [None]:
        outer = outlier if middle is None else middle
        tried = torch.minimum(inner, outer * 0.75)
        errors = _expected(a, tried, outer, outlier, steps)
        least, place = errors.min(1)
        if best is None or float(least.sum()) < best[0]:
            normal = tried.gather(1, place[:, None])[:, 0]
            best = float(least.sum()), [normal, *([] if middle is None else [middle]), outlier]
    assert best is not None
    return best[1]


def _expected(a: Tensor, normal: Tensor, middle: Tensor, outlier: Tensor, steps: int) -> Tensor:
    """Sum of squared errors ``[channels, candidates]`` of sorted magnitudes ``[channels, n]``."""
    squares = nn.functional.pad(a.double().square().cumsum(1), (1, 0))

    def up_to(bound: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.searchsorted(a, bound.expand(len(a), -1).contiguous())
        return count.double(), squares.gather(1, count)

    def lost_or_rounded(low: Tensor, high: Tensor) -> Tensor:
        unit = high * 2.0**-steps
        gone = torch.maximum(torch.minimum(unit / 2, high), low)
        (_, s_low), (n_gone, s_gone), (n_high, _) = up_to(low), up_to(gone), up_to(high)
        return (s_gone - s_low) + (n_high - n_gone) * unit.double().square() / 12

    zero = torch.zeros_like(normal)
    total = lost_or_rounded(zero, normal) + lost_or_rounded(normal, middle.expand_as(normal))
    if middle is not outlier:
        total = total + lost_or_rounded(middle.expand_as(normal), outlier.expand_as(normal))
    return total


def short(values: Tensor) -> Tensor:
    """The next larger number of few significant bits."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.ceil(mantissa * 2.0**SHORT) * 2.0**-SHORT, exponent)
