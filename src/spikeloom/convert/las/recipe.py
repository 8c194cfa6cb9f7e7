"""LAS: a pretrained transformer becomes a network of outlier-aware and gated few-spike neurons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spikeloom.agreement import check_same_model, check_unsharded_model, in_step
from spikeloom.calibrate import Batch
from spikeloom.convert.las.attention import OBSERVING, Softmax
from spikeloom.convert.las.calls.kinds import Magnitude
from spikeloom.convert.las.calls.session import calibrating
from spikeloom.convert.las.checks import check_same, unchanged
from spikeloom.convert.las.forms import FORMED, set_form
from spikeloom.convert.las.layers import Activation, WeightLayer
from spikeloom.convert.las.nodes import node_for
from spikeloom.convert.las.norms import Norm
from spikeloom.convert.las.pretrained import attend, guard
from spikeloom.convert.las.ranks import add_up, calls_of_rank, forget_all, new_forget
from spikeloom.convert.las.report import (
    Encoding,
    conversion_report,
    fan_out,
    layer_outputs,
    measured,
    named_sites,
    shortened,
)
from spikeloom.convert.las.rules import left_in_float, replace_layers
from spikeloom.convert.las.sharing import Readers
from spikeloom.convert.las.sites import Site
from spikeloom.hosted import Make, copied
from spikeloom.neurons import OAT
from spikeloom.neurons.arguments import (
    MOST_STEPS,
    checked_choice,
    checked_number,
    checked_steps,
)
from spikeloom.neurons.tables import checked_segments
from spikeloom.stored import let_load, without_place

__all__ = ["LAS"]

RANGES = range(2, 9)
# What the codes of 24 steps hold, 6.02 dB a step.
MOST_SQNR = 144.0
FEED_FORWARD = re.compile(r"intermediate|\.output\.dense$|mlp|\.fc\d|ffn|\.lin\d|linear\d")
# Layers that fire by tables, whose number of steps is theirs.
WITH_TABLES = (Activation, Norm, Softmax, Magnitude)


@dataclass(frozen=True)
class LAS:
    """Convert a transformer: calibrate, choose ranges, generate tables.

    Every input of a linear layer and of a norm, every query, key, value and probability become K
    weighted spikes of an outlier-aware neuron (:class:`~spikeloom.neurons.OAT`); activations,
    exponentials, reciprocals, squares and roots are gated few-spike neurons
    (:class:`~spikeloom.neurons.HG`). Embeddings and their norm, residual additions, means, weights
    and biases stay as they are.

    Args:
        steps: K of every neuron, 1 to 24.
        extra_steps: More steps for norms, and for feed-forward layers as their names tell (``mlp``,
            ``intermediate``, ``fc1``, ...), where errors weigh most.
        site_steps: Pattern, searched in the name of a site or of a layer with a table -> its K.
        ranges: Ranges of an outlier-aware neuron up to the largest calibrated value, 2 to 8; all
            but the outermost are chosen for each channel.
        rounding: ``"nearest"`` or ``"truncate"``.
        segments: Pieces of each generated table; None: 32, and 64 from 11 steps on.
        headroom: A further range reaches to so many times that value; 1 for none.
        target_sqnr: In dB, up to 144. Every site that has no K in ``site_steps`` takes the fewest
            steps that reach it instead of ``steps``; tables keep theirs.
        exclude: Names of modules to leave as they are; ``""`` is the model's own forward.
        low_memory: The converted network shares the model's weights instead of having a copy:
            training one changes the other. :func:`las_folder` converts what memory does not hold.
        progress: Show bars, with the time left.
        make: Builds a host's module for every outlier-aware and every activation's neuron, such as
            ``spikeloom.plugins.norse.make``; the network then computes spike by spike, as after
            :func:`set_form`. None runs the fast path.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom import convert
        >>> _ = torch.manual_seed(0)
        >>> ann = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16)).eval()
        >>> snn = convert.LAS(steps=10).apply(ann, [torch.randn(64, 4)])
        >>> x = torch.randn(8, 4)
        >>> bool((snn(x) - ann(x)).abs().max() < 0.02)
        True
        >>> snn.report.column("site")
        ['0.site', '2.before']

    Source: LAS, arXiv:2505.09659 (AAAI 2026); ranges are calibrated and tables generated here.
    """

    steps: int = 8
    extra_steps: int = 0
    site_steps: Mapping[str, int] = field(default_factory=dict)
    ranges: int = 4
    rounding: str = "nearest"
    segments: int | None = None
    headroom: float = 2.0
    target_sqnr: float | None = None
    exclude: Sequence[str] = ()
    low_memory: bool = False
    progress: bool = True
    make: Make | None = None

    def __post_init__(self) -> None:
        checked_steps("LAS", self.steps)
        checked_steps("LAS: steps + extra_steps", self.steps + self.extra_steps)
        checked_choice("LAS: rounding", self.rounding, ("truncate", "nearest"))
        if self.ranges not in RANGES:
            raise ValueError(f"LAS: ranges must be 2 to {RANGES[-1]}, got {self.ranges!r}")
        if self.segments is not None:
            checked_segments("LAS: segments", self.segments)
        checked_number("LAS: headroom", self.headroom, "must be at least 1", lambda n: n >= 1)
        if self.target_sqnr is not None:
            rule = f"must be in dB, above 0 and at most {MOST_SQNR:g}, what 24 steps hold"
            checked_number("LAS: target_sqnr", self.target_sqnr, rule, lambda n: 0 < n <= MOST_SQNR)
        if isinstance(self.exclude, str):
            raise TypeError(f"LAS: exclude must be a list of names, got {self.exclude!r}")
        self._check_site_steps()

    def _check_site_steps(self) -> None:
        if not isinstance(self.site_steps, Mapping):
            raise TypeError(f"LAS: site_steps must be a dict, got {self.site_steps!r}")
        for pattern, steps in self.site_steps.items():
            checked_steps(f"LAS: site_steps[{pattern!r}]", steps)
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"LAS: site_steps has the pattern {pattern!r}, which is no regular "
                    f"expression: {error}"
                ) from None

    @in_step("model", "calibration")
    def apply(self, model: nn.Module, calibration: Any) -> nn.Module:
        """A converted copy of a model; the model itself is not touched.

        Args:
            model: A model of transformers, or a plain module of layers that have a rule.
            calibration: Batches: tensors, tuples, or dicts of keyword arguments. With
                ``torch.distributed`` initialised, those of this process, maybe none; the ranges
                are of all.

        Returns:
            The same class of model, in eval mode, with a ``report``; a model that is itself one
            layer with a rule becomes its spiking layer. :func:`set_form` switches it between
            decoded and step-by-step spikes; after ``save_pretrained``, :func:`load_las` reads it
            back.

        Raises:
            TypeError: If the model is no module, modules are neurons or compiled by TorchScript, or
                a forward computes of activations what no rule does; all of them are listed.
            ValueError: If the model is converted already, has quantised weights or none, or cannot
                be copied, a block only looks like one that has a rule, an excluded name is a part
                of what is converted as a whole, the calibration is empty, an activation is NaN or
                infinite, a pattern in ``site_steps`` fits no name, or the processes of
                ``torch.distributed`` have different models.
            RankFailed: If another process of ``torch.distributed`` failed.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: must be a torch.nn.Module, got {type(model).__name__}")
        if names := without_place(model):
            raise ValueError(
                f"model: has no values for {shortened(names)} (device meta); load them, or convert "
                f"the model's folder with convert.las_folder"
            )
        if self.make is not None:
            # Refused before the work rather than after it.
            node_for(self.make, OAT(self.steps, 1.0, 2.0))
        check_unsharded_model(model)
        check_same_model(model)
        calls, is_first_own = calls_of_rank(model, calibration, self.progress)
        with torch.inference_mode(False), torch.no_grad(), _as_written(model):
            network = _copied(model, self.low_memory).eval()
            let_load(network)
            # As the model attends now: its own ways of attending may differ.
            with unchanged(network):
                expected = layer_outputs(network, calls[0])
            network = replace_layers(network, self.exclude)
            let_load(network)
            attend(network, self.exclude, OBSERVING)
            _name_sites(network)
            with unchanged(network):
                deciding, layers = self._calibrate(network, calls, expected, is_first_own)
            encodings = self._fit(network)
            attend(network, self.exclude)
            with unchanged(network):
                found = layer_outputs(network, calls[0])
        excluded = [*self.exclude, *layers]
        guard(network, excluded)
        network.eval()
        if self.make is not None:
            set_form(network, "spikes", self.make)
        report = conversion_report(encodings, fan_out(network), expected, found)
        report.notes += self._missed(encodings)
        if float_names := left_in_float(network, excluded):
            report.notes.append(f"left in float: {shortened(float_names)}")
        if deciding:
            report.notes.append(f"decide in float what runs: {shortened(deciding)}")
        if "output" not in expected:
            report.notes.append("the model's output holds no tensor, so it was not compared")
        network.report = report  # type: ignore[assignment]  # not a tensor
        return network

    def _calibrate(
        self,
        network: nn.Module,
        calls: list[Batch],
        expected: dict[str, list[Tensor]],
        is_first_own: bool,
    ) -> tuple[list[str], list[str]]:
        """Let the sites of a network see every batch, and layers share what they all read.

        Returns:
            As :meth:`_Session.decide_in_float`.
        """
        deciding: list[str] = []
        layers: list[str] = []
        readers = Readers(
            [module for module in network.modules() if isinstance(module, WeightLayer)]
        )
        bar = tqdm(calls, "calibrating", leave=False, disable=not self.progress, delay=2.0)
        with calibrating(network, self.exclude) as session:
            for number, call in enumerate(bar):
                readers.next_batch()
                if number:
                    network(*call.args, **call.kwargs)
                    session.check()
                else:
                    found = layer_outputs(network, call)
                    session.check()
                    check_same(expected, found, _dtype(network))
                names, plain = session.decide_in_float(network)
                deciding, layers = [*deciding, *names], [*layers, *plain]
                if not (number or is_first_own):
                    forget_all(network)
                # Attention and calls get their sites when they are first reached.
                _name_sites(network)
            with new_forget(network, not is_first_own):
                names, plain = session.explore(network, calls[0])
            deciding, layers = [*deciding, *names], [*layers, *plain]
            _name_sites(network)
        readers.stop()
        add_up(network)
        kept = {module for module in network.modules() if isinstance(module, WeightLayer)}
        for group in readers.groups():
            readers_left = [layer for layer in group if layer in kept]
            for layer in readers_left[1:]:
                layer.share(readers_left[0].source)
            for layer in readers_left[:1]:
                layer.source.users = len(readers_left)
        return deciding, layers

    def _fit(self, network: nn.Module) -> list[Encoding]:
        """Choose steps and ranges, generate tables; what each site then does."""
        names = {module: name for name, module in network.named_modules()}
        self._check_patterns([n for m, n in names.items() if isinstance(m, (Site, *WITH_TABLES))])
        of_norms = {part for norm in names if isinstance(norm, Norm) for part in norm.modules()}
        steps = {module: self._steps(name, module in of_norms) for module, name in names.items()}
        sites = list(named_sites(network))
        bar = tqdm(sites, "choosing ranges", leave=False, disable=not self.progress, delay=2.0)
        encodings = [self._fit_site(name, site, steps[site]) for name, site in bar]
        for module in names:
            if isinstance(module, Activation):
                module.fit(steps[module], self._segments(steps[module]), self.headroom)
            elif isinstance(module, (Norm, Softmax, Magnitude)):
                module.install(steps[module], self._segments(steps[module]))
            if isinstance(module, FORMED):
                module.observing = False
        return encodings

    def _fit_site(self, name: str, site: Site, steps: int) -> Encoding:
        observation = site.observation
        assert observation is not None
        seen = observation.peaks is not None
        fixed = self.target_sqnr is None or not seen or self._pattern(name) is not None
        for count in [steps] if fixed else range(1, MOST_STEPS + 1):
            site.observation = observation
            site.fit(count, self.ranges - 2, self.rounding, self.headroom)
            encoding = measured(name, site, observation)
            if self.target_sqnr is not None and encoding.reaches(self.target_sqnr):
                break
        return encoding

    def _pattern(self, name: str) -> str | None:
        """The first pattern of ``site_steps`` that fits a name."""
        return next((p for p in self.site_steps if re.search(p, name)), None)

    def _steps(self, name: str, of_norm: bool) -> int:
        pattern = self._pattern(name)
        if pattern is not None:
            return self.site_steps[pattern]
        return self.steps + (self.extra_steps if of_norm or FEED_FORWARD.search(name) else 0)

    def _check_patterns(self, names: list[str]) -> None:
        for pattern in self.site_steps:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"site_steps: {pattern!r} fits no site's name; there are {shortened(names)}"
                )

    def _segments(self, steps: int) -> int:
        return self.segments or (32 if steps <= 10 else 64)

    def _missed(self, encodings: list[Encoding]) -> list[str]:
        """What is to be said of sites that do not reach the target."""
        target = self.target_sqnr
        below = [e for e in encodings if target is not None and not e.reaches(target)]
        if not below:
            return []
        least = min(e.sqnr for e in below if e.sqnr is not None)
        names = shortened([e.site for e in below])
        return [f"target_sqnr: {target:g} dB not reached, {least:.1f} at the least: {names}"]


def _copied(model: nn.Module, shares_weights: bool) -> nn.Module:
    """A copy that computes what the model does."""
    shared = model.parameters() if shares_weights else ()
    network = copied("model", model, {id(value): value for value in shared})
    for own, layer in zip(model.modules(), network.modules(), strict=True):
        # torch's copy of a decoder layer takes relu for an activation that is a module.
        if isinstance(own, nn.TransformerDecoderLayer) and "activation" not in vars(own):
            vars(layer).pop("activation", None)
    return network


def _name_sites(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, (Site, Activation)):
            module.name = name


@contextmanager
def _as_written(network: nn.Module) -> Iterator[None]:
    """Compute in the model's dtype, and masked places too.

    Neither autocast, nor the fused path of torch's encoder, which leaves out masked places.
    """
    devices = (value.device.type for value in network.parameters() if not value.is_meta)
    device = next(devices, "cpu")
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _dtype(network: nn.Module) -> torch.dtype:
    dtypes = (value.dtype for value in network.parameters() if value.is_floating_point())
    return next(dtypes, torch.float32)
