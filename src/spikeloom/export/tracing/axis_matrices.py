"""Moved axes as matrices over all axes.

NIR has no permutation, no concatenation and no unflattening. A linear layer behind them is still a
matrix: over the flattened features of everything it reads, with the layer's weights where they act
and zeros elsewhere. Mixing along one axis of a map becomes a Kronecker product with the identity
of the other axes; a convolution becomes its own matrix. From there on, the signal stays flat.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.export.forms.layers import layer_key
from spikeloom.export.tracing.feature_rows import Wire, row_axes
from spikeloom.export.tracing.leaf_modules import passes_on
from spikeloom.export.tracing.signals import CONSEQUENCE, FOLD, Observation, Site
from spikeloom.modules import neuron_of

__all__ = ["MAX_BYTES", "matrices_for_moves", "shown_bytes"]

# Larger matrices are refused, all of a model's together.
MAX_BYTES = 2**30


def matrices_for_moves(observation: Observation, allowed: bool) -> Observation:
    """The same observation without moved axes, if that is allowed; else their sites are blocked.

    Args:
        observation: What the model did.
        allowed: Whether dense matrices may be written.

    Raises:
        ValueError: If they would take more than :data:`MAX_BYTES`.
    """
    sites = observation.sites
    if not any(site.wires for site in sites.values()):
        return observation
    reason, flag = "NIR cannot move axes, or mix one of several", "dense_token_mixing=True"
    if any(site.obstacle for site in sites.values()):
        for site in sites.values():
            if site.wires and not site.obstacle:
                site.block(CONSEQUENCE if allowed else reason, f"allow it with {flag}")
        return observation
    rewriting = _Rewriting(observation)
    total = rewriting.size()
    if allowed and total <= MAX_BYTES:
        return rewriting.observation()
    if allowed:
        raise ValueError(
            f"dense_token_mixing: the matrices would take {shown_bytes(total)}, more than "
            f"{shown_bytes(MAX_BYTES)}; use a smaller image, or keep this part outside the file"
        )
    for site in rewriting.dense:
        size = shown_bytes(rewriting.size(site.name))
        site.block(
            f"{reason}; as a matrix over all axes it takes {size}",
            f"allow it with {flag}, {shown_bytes(total)} for the model",
        )
    return observation


def shown_bytes(size: int) -> str:
    """A number of bytes in the largest unit that fits."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size} bytes"


@dataclass(frozen=True)
class _View:
    """A selection of a source's features that are read.

    Attributes:
        source: The source.
        data: The selected features, -1 for none, as int64; None for all of them in their order.
    """

    source: str
    data: bytes | None = None

    @property
    def index(self) -> Tensor:
        assert self.data is not None
        return torch.frombuffer(bytearray(self.data), dtype=torch.int64)


class _Rewriting:
    """Sites whose inputs or sources are moved, as flat ones."""

    def __init__(self, observation: Observation) -> None:
        self.old = observation
        self.sites = observation.sites
        self.flat = self._flat()
        # The sites that become matrices, and those whose input a matrix has to put in order.
        self.matrices = {
            name for name in self.flat if row_axes(self.sites[name].module or nn.Identity())
        }
        self.views = self._views()
        ordering = {
            site.name
            for site in self.sites.values()
            for view in self._read(site)
            if view.data is not None and view.source not in self.matrices
        }
        names = self.matrices | ordering
        self.dense = [site for site in self.sites.values() if site.name in names]

    def _flat(self) -> set[str]:
        """The sites that have to give out a flat signal."""
        flat = {name for name, site in self.sites.items() if site.wires}
        while True:
            more = {
                name
                for name, site in self.sites.items()
                if len(site.shape_in) > 1 and site.sources.keys() & flat and name not in flat
            }
            if not more:
                return flat
            flat |= more

    # --- what is read of each site

    def _read(self, site: Site) -> Iterator[_View]:
        """What a site reads of its sources."""
        if site.name in self.matrices or not site.wires:
            yield from map(_View, sorted(site.sources))
            return
        for wire in site.wires:
            size = math.prod(self.sites[wire.source].shape_out)
            plain = torch.equal(wire.index.flatten(), torch.arange(size))
            yield _View(wire.source, None if plain else wire.data)

    def _views(self) -> dict[str, list[_View]]:
        """For each site how it is read, the whole of it first."""
        views: dict[str, set[_View]] = {name: set() for name in self.sites}
        for site in self.sites.values():
            for view in self._read(site):
                views[view.source].add(view)
        for name in self.old.output:
            views[name].add(_View(name))
        return {name: sorted(found, key=lambda v: v.data or b"") for name, found in views.items()}

    def _wires(self, site: Site) -> dict[tuple[tuple[int, int], bytes], list[str]]:
        """The sources of a matrix by how they reach it; equal ones are summed before it."""
        groups: dict[tuple[tuple[int, int], bytes], list[str]] = {}
        size = math.prod(site.shape_in)
        plain = torch.arange(size).reshape(1, size)
        wires = site.wires or [Wire.of(source, plain) for source in sorted(site.sources)]
        for wire in wires:
            groups.setdefault((wire.shape, wire.data), []).append(wire.source)
        return groups

    # --- sizes

    def size(self, name: str | None = None) -> int:
        """Bytes of the matrices, of all or for one site."""
        return 4 * sum(math.prod(shape) for owner, shape in self._shapes() if name in (None, owner))

    def _shapes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for name in self.matrices:
            site = self.sites[name]
            for view in self.views[name]:
                rows = math.prod(site.shape_out) if view.data is None else len(view.index)
                for sources in self._wires(site).values():
                    yield name, (rows, math.prod(self.sites[sources[0]].shape_out))
        for site in self.sites.values():
            for view in self._read(site):
                if view.data is not None and view.source not in self.matrices:
                    yield site.name, (len(view.index), math.prod(self.sites[view.source].shape_out))

    # --- the new sites

    def observation(self) -> Observation:
        """The rewritten observation."""
        new: dict[str, Site] = {}
        for site in self.sites.values():
            for made in self._made(site):
                new[made.name] = made
        flat = any(name in self.flat for name in self.old.output)
        ends = [end for name in self.old.output for end in self._names(_View(name), flat)]
        total = shown_bytes(self.size())
        notes = [
            f"Moved axes are written as dense matrices of {total}, zeros included. They are summed "
            f"in another order than the model's own, so a potential within rounding of the "
            f"threshold may be decided otherwise on other inputs than the sample."
        ]
        spikes = self.old.spikes
        if flat and spikes.dim() > 3:
            notes.append(f"The output {list(spikes.shape[2:])} is flat in the file.")
            spikes = spikes.flatten(2)
        return replace(
            self.old,
            sites=new,
            output=tuple(sorted(ends)),
            spikes=spikes,
            notes=[*self.old.notes, *notes],
        )

    def _made(self, site: Site) -> Iterator[Site]:
        """What a site becomes, and what stands behind it for its readers."""
        if site.name in self.matrices:
            yield from self._as_matrices(site)
            return
        flat = site.name in self.flat
        sources = {
            name: site.sources[view.source]
            for view in self._read(site)
            for name in self._names(view, flat)
        }
        size = (math.prod(site.shape_out),)
        if not flat:
            yield replace(site, sources=sources)
        else:
            yield self._flattened(replace(site, sources=sources, wires=()), size)
        if self._is_flattened(site):
            name = f"{site.name}.flatten"
            yield Site(name, "flatten", None, site.owner, site.shape_out, size, {site.name: 0})
        for number, view in enumerate(self.views[site.name]):
            if view.data is not None:
                columns = view.index.reshape(-1, 1)
                weight = _spread(torch.ones(1, 1), columns, size[0])
                whole = dict.fromkeys(self._names(_View(site.name), True), 0)
                yield _matrix(f"{site.name}.order{number}", "order", site, whole, weight, None)

    @staticmethod
    def _flattened(site: Site, size: tuple[int, ...]) -> Site:
        """A site that works on each feature, or on none, with one axis."""
        module = site.module
        if module is None or passes_on(module):
            module = nn.Identity()
        elif neuron_of(module) is None and layer_key(module) is not None:
            site = replace(site)
            site.block("follows features that are no map any more", FOLD)
        return replace(site, module=module, shape_in=size, shape_out=size, map=site.shape_out)

    def _is_flattened(self, site: Site) -> bool:
        """Whether a map is read as one axis."""
        readers = {
            reader.name for reader in self.sites.values() if site.name in reader.sources
        } & self.flat
        output = site.name in self.old.output and any(n in self.flat for n in self.old.output)
        many = len(site.shape_out) > 1 and site.name not in self.flat
        return many and (bool(readers) or output)

    def _names(self, view: _View, flat: bool) -> list[str]:
        """The new sites whose sum is read."""
        site = self.sites[view.source]
        if view.source in self.matrices:
            number = self.views[view.source].index(view)
            return [_numbered(view.source, number, part) for part in range(len(self._wires(site)))]
        if view.data is not None:
            return [f"{view.source}.order{self.views[view.source].index(view)}"]
        return [f"{view.source}.flatten" if flat and self._is_flattened(site) else view.source]

    def _as_matrices(self, site: Site) -> Iterator[Site]:
        rows, bias = _row_matrix(site)
        for number, view in enumerate(self.views[site.name]):
            groups = self._wires(site).items()
            for part, ((shape, data), sources) in enumerate(groups):
                index = Wire(sources[0], shape, data).index
                weight = _spread(rows, index, math.prod(self.sites[sources[0]].shape_out))
                shift = None if bias is None or part else bias.repeat(shape[0])
                if view.data is not None:
                    chosen, empty = view.index.clamp(min=0), view.index < 0
                    weight = weight[chosen].masked_fill(empty[:, None], 0.0)
                    shift = None if shift is None else shift[chosen].masked_fill(empty, 0.0)
                names = {
                    name: site.sources[source]
                    for source in sources
                    for name in self._names(_View(source), True)
                }
                name = _numbered(site.name, number, part)
                yield _matrix(name, site.kind, site, names, weight, shift)


def _numbered(name: str, number: int, part: int) -> str:
    """The name of one of a layer's matrices; the first has the layer's own."""
    return name + (f".view{number}" if number else "") + (f".part{part}" if part else "")


def _matrix(
    name: str, kind: str, site: Site, sources: dict[str, int], weight: Tensor, bias: Tensor | None
) -> Site:
    outputs, inputs = weight.shape
    module = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)
    note = f"one matrix over all axes, {shown_bytes(4 * weight.numel())}"
    return Site(
        name, kind, module, site.owner, (inputs,), (outputs,), sources, steps=site.steps, note=note
    )


def _row_matrix(site: Site) -> tuple[Tensor, Tensor | None]:
    """What a layer does to one row: ``[outputs, inputs]``, and its bias.

    Each column is the layer's answer to one input of 1, so every weight arrives bit by bit.
    """
    module: Any = copy.copy(site.module)
    weight = getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    size = math.prod(site.shape_in)
    unit = torch.eye(size, dtype=torch.float32 if weight is None else weight.dtype)
    lead = (1, size) if getattr(module, "step_mode", "s") == "m" else (size,)
    # A kernel of one element, which acts on each place of a map alike, gets a map of one place.
    place = (1,) * (0 if weight is None else weight.dim() - 1 - len(site.shape_in))
    with torch.no_grad():
        if bias is not None:
            module._parameters = {**module._parameters, "bias": None}
        # The instance's own forward is the observer's.
        y = type(module).forward(module, unit.reshape(*lead, *site.shape_in, *place))
        y = y.reshape(size, -1)
        if bias is not None:
            bias = bias.detach().repeat_interleave(y.shape[1] // len(bias))
    return y.T, bias


def _spread(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """A matrix over all features of a source, from one for each row.

    Args:
        rows: ``[outputs, length]``, the same for every row.
        index: ``[rows, length]``, the features that make up each row.
        size: Number of the source's features.
    """
    matrix = rows.new_zeros(len(index), len(rows), size)
    for part, features in zip(matrix, index, strict=True):
        used = features >= 0
        part.index_add_(1, features[used], rows[:, used])
    return matrix.flatten(0, 1)
