"""One pass of the trained network over a few batches: what every layer's weights meet."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.adapters import check_merged
from spikeloom.agreement import check_same_model, check_unsharded_model, in_step
from spikeloom.calibrate import arguments_of, each_batch
from spikeloom.compress.blocks import Block
from spikeloom.compress.coverage import why_left_out
from spikeloom.compress.discovery import discover
from spikeloom.compress.hessian import SecondMoment, as_float, check_finite
from spikeloom.compress.response import Response
from spikeloom.compress.site import Site
from spikeloom.compress.statistics import Facts, LayerStatistics, Statistics, fingerprint
from spikeloom.compress.steps import by_step, signal_of
from spikeloom.hosted import to_rest
from spikeloom.kernel.call import run
from spikeloom.modules import watched_calls
from spikeloom.names import names_of
from spikeloom.neurons import Trace
from spikeloom.ranks import added_up, first_of_all, gathered, is_shared
from spikeloom.rows import entering, is_linear, outputs_of

__all__ = ["calibrate"]

# A layer whose neurons have more different decays than this shares Hessians between close ones.
DECAYS = 8


@in_step("model", "batches")
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    traces: Mapping[str, Trace] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    plain: bool = True,
) -> Statistics:
    """Run a trained network over a few batches and collect the Hessian of every weight layer.

    The network is run once over each batch (and at least twice more over the first, to see which
    neuron each layer drives and which axis is time), without gradients, from rest. Inputs of a
    layer are filtered as the membranes behind it filter them; only one filtered input and the
    Hessians are in memory. With ``torch.distributed`` initialised, the Hessians of all processes
    are summed, so that each may see its own share of the data, or none of it.

    Args:
        model: A trained network of SpikingJelly, snnTorch, Norse or plain torch, in evaluation
            mode. Its hosts' states are reset before each batch and at the end.
        batches: Batches, or a single tensor or mapping; each a tensor, a tuple or list of the
            arguments that the model's forward has no defaults for (labels behind them are left
            out), or a mapping of arguments by name, see
            :func:`spikeloom.calibrate.arguments_of`.
        layers: Names of the weight layers to look at; None takes every Linear, every convolution
            and transposed convolution of one to three dimensions, and every Conv1D of transformers.
            Weights inside a neuron (recurrent ones) are left alone, with a warning.
        traces: Module name -> filter, for neurons whose decay cannot be read; the name of a weight
            layer states the filter behind it, ``neurons.Trace(0)`` that there is none. A module
            named here that is called once a pass is taken to read sequences ``[T, batch, ...]``;
            a layer named here that is called once has its steps on the first axis.
        forward: ``forward(model, batch)`` runs the network on a batch as it is, for models that
            need more than one call, such as a loop over time.
        plain: Also collect the Hessians without filter, which the methods ``"obs"`` and ``"obc"``
            and the second column of objectives need.

    Returns:
        Statistics by layer name; their ``left_out`` says why each other weight is not among them.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is in training mode or compiled, there is no sample, an activation
            is NaN or infinite, a layer or its steps cannot be made out, or a weight cannot be
            compressed in place: because it is computed from other tensors, another module's too,
            not finite, or not all that its layer applies, as beside an adapter of PEFT. With
            several processes, if none has a batch, or they have different models or numbers of
            steps.
        RankFailed: If another process of ``torch.distributed`` failed.
        UnknownNeuron: If the decay of a neuron is not known and not stated.

    Warns:
        UserWarning: If a layer is left out, because it is never called or belongs to a neuron; if
            one is used several times; or if neurons behind one layer decay differently.

    Example:
        >>> import torch
        >>> from spikeloom import SpikingLayer, compress, neurons
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 3), SpikingLayer(neurons.LIF(tau=4.0)), torch.nn.Linear(3, 2)
        ... ).eval()
        >>> print(compress.calibrate(net, [torch.ones(6, 10, 4)]))
        layer  inputs  rows  neuron  decay  steps  samples
        -----  ------  ----  ------  -----  -----  -------
        0           4     3  1       0.75       6       10
        2           3     2  -       0          6       10
    """
    _check_mode(model)
    check_merged(model)
    wanted = None if layers is None else names_of("layers", layers)
    _check_traces(traces)
    check_unsharded_model(model)
    check_same_model(model)
    given = each_batch(batches, name="batches", required=not is_shared())
    # All processes look at the same batch, so that they find the same neurons and steps.
    first, _, own = first_of_all("batches", given)
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(to_rest, model)
        sites, reasons = discover(model, _bound(model, first, forward), wanted, dict(traces or {}))
        recorders = [_Recorder(site, plain) for site in sites]
        for recorder in recorders:
            stack.enter_context(recorder.listening(model))
        for batch in own:
            run_batch = _bound(model, batch, forward)
            for recorder in recorders:
                recorder.start()
            run_batch()
            for recorder in recorders:
                recorder.stop()
    _check_same_steps(recorders)
    found = {r.site.name: r.statistics(model) for r in recorders}
    return Statistics(found, why_left_out(model, found, reasons))


def _check_mode(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be an nn.Module, got {type(model).__name__}")
    if any(module.training for module in model.modules()):
        raise ValueError("model: is in training mode; call model.eval() first")
    if any("_orig_mod" in m._modules or m._compiled_call_impl for m in model.modules()):
        raise ValueError(
            "model: is compiled, so that its layers cannot be watched; calibrate it before "
            "torch.compile, or the module that was compiled (model._orig_mod)"
        )


def _check_traces(traces: Any) -> None:
    if traces is None:
        return
    if not isinstance(traces, Mapping):
        raise TypeError(
            f"traces: must map names of modules to filters, such as {{'1': neurons.Trace(0.9)}}, "
            f"got {traces!r}"
        )
    for name, trace in traces.items():
        if not isinstance(trace, Trace):
            raise TypeError(
                f"traces[{name!r}]: must be a filter, such as spikeloom.neurons.Trace(0.9), "
                f"got {trace!r}"
            )


def _bound(
    model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any] | None
) -> Callable[[], Any]:
    """One pass over a batch from rest, ready to be called."""
    if forward is None:
        call = arguments_of(model, batch, name="batches")
        run_model = functools.partial(model, *call.args, **call.kwargs)
    elif any(isinstance(leaf, Tensor) and not leaf.numel() for leaf in tree_leaves(batch)):
        raise ValueError("batches: a batch holds no sample; leave it out")
    else:
        run_model = functools.partial(forward, model, batch)

    def from_rest() -> Any:
        to_rest(model)
        return run_model()

    return from_rest


class _Recorder:
    """A hook on one layer that filters its input and adds it to the layer's Hessians.

    Args:
        site: The layer and what it feeds.
        plain: Also record the input as it is.
    """

    def __init__(self, site: Site, plain: bool) -> None:
        self.site = site
        self.layer = site.layer
        self.rows = rows_by_response(site)
        self.traces = [response.trace() for _, response in self.rows]
        identity = [_is_identity(response) for _, response in self.rows]
        self.plain = SecondMoment(site.layer) if plain or any(identity) else None
        self.moments = [
            self.plain if same and self.plain else SecondMoment(site.layer) for same in identity
        ]
        self.first_steps: int | None = None
        self.steps = site.steps
        self.start()

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator[None]:
        """Hear what the layer, and if need be its neuron, are called with."""
        site = self.site
        hook = self.layer.register_forward_pre_hook(self, with_kwargs=True)
        try:
            if site.neuron is not None and site.time in ("folded", "once"):
                # How many steps there are can only be seen behind the layer.
                neuron = model.get_submodule(site.neuron)
                with watched_calls(neuron, functools.partial(self._count_steps, neuron)):
                    yield
            else:
                yield
        finally:
            hook.remove()

    def start(self) -> None:
        """Forget the last batch."""
        self.calls = self.neuron_steps = 0
        self.states: dict[tuple[int, int], Any] = {}

    def stop(self) -> None:
        """Make sure that the batch had the steps of the first."""
        if self.first_steps is None:
            self.first_steps = self.neuron_steps
        if self.neuron_steps != self.first_steps:
            raise _other_steps(
                self.site, self.neuron_steps, "a batch", self.first_steps, "the first"
            )

    def seen_steps(self) -> tuple[int, int] | None:
        """The steps of the neuron in each batch, and of the layer in the last; None without one."""
        if self.first_steps is None:
            return None
        of_calls = self.site.time == "calls"
        steps = self.calls // self.site.streams if of_calls else self.site.steps
        return self.first_steps, steps

    def _count_steps(self, neuron: nn.Module, args: Any, kwargs: Any, whole: bool) -> None:
        x = signal_of(neuron, args, kwargs, whole)
        self.neuron_steps += len(x) if x.dim() > len(self.site.shape) + 1 else 1

    def __call__(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        """Take in what the layer is called with."""
        x, *_ = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        stream, later = self.calls % self.site.streams, self.calls >= self.site.streams
        self.calls += 1
        try:
            check_finite(x)
            x = as_float(entering(layer, x))  # type: ignore[arg-type]  # a weight layer
            x = by_step(self.site, x)
            in_calls = math.inf if later else 1
            self._add(x, in_calls if self.site.time == "calls" else len(x), stream)
        except ValueError as error:
            raise ValueError(f"layer {self.site.name!r}: {error}") from None

    def _add(self, x: Tensor, steps: float, stream: int) -> None:
        if self.plain is not None:
            self.plain.add(x.flatten(0, 1), steps)
        for i, (moment, trace) in enumerate(zip(self.moments, self.traces, strict=True)):
            if moment is self.plain:
                continue
            # Steps that are calls continue where the last call ended.
            carried = self.states.get((stream, i)) if self.site.time == "calls" else None
            filtered, state = run(trace, x, carried)
            if self.site.time == "calls":
                self.states[stream, i] = state
            moment.add(filtered.flatten(0, 1), steps)

    def statistics(self, model: nn.Module) -> LayerStatistics:
        """The Hessians, summed over all processes."""
        site = self.site
        moments = {id(m): m for m in (self.plain, *self.moments) if m is not None}
        for moment in moments.values():
            _sum_over_processes(moment)
        pairs = zip(self.moments, self.rows, strict=True)
        spiking = [block for moment, (rows, _) in pairs for block in _blocks(moment, rows)]
        rows = torch.arange(outputs_of(site.layer), device=site.layer.weight.device)
        facts = Facts(
            site.neuron,
            _shown_decays([response for _, response in self.rows]),
            self.steps,
            self.moments[0].samples,
            fingerprint(site.layer.weight),
        )
        plain = None if self.plain is None else tuple(_blocks(self.plain, rows))
        return LayerStatistics(facts, tuple(spiking), plain, self._row_scale(model))

    def _row_scale(self, model: nn.Module) -> Tensor | None:
        """Factors of normalisations, and of gains where they differ between rows."""
        weight, outputs = self.layer.weight, outputs_of(self.layer)
        chains = [_chain_scale(model, chain, outputs) for chain in self.site.norms]
        known = [chain for chain in chains if chain is not None]
        scale = torch.stack(known).square().mean(0).sqrt() if known else None
        if len(self.rows) > 1:
            scale = weight.new_ones(outputs, dtype=torch.float64) if scale is None else scale
            for rows, response in self.rows:
                scale[rows] *= response.gain
        return scale


def _blocks(moment: SecondMoment, rows: Tensor) -> list[Block]:
    """The rows of each group of a convolution with the group's Hessian."""
    stack = moment.stack()
    each = outputs_of(moment.layer) // moment.groups
    parts = [rows[rows // each == group] for group in range(moment.groups)]
    return [Block(part, stack[group]) for group, part in enumerate(parts) if len(part)]


def _sum_over_processes(moment: SecondMoment) -> None:
    moment.samples = math.fsum(gathered(moment.samples))
    moment.total = added_up(moment.total)
    if not moment.samples:
        raise ValueError("batches: the layers saw not one sample")


def _check_same_steps(recorders: Sequence[_Recorder]) -> None:
    """Make sure that the batches of all processes had as many steps, and let all know how many."""
    of_ranks = gathered([recorder.seen_steps() for recorder in recorders])
    for recorder, *seen in zip(recorders, *of_ranks, strict=True):
        with_batches = [(rank, steps) for rank, steps in enumerate(seen) if steps is not None]
        (one, (of_one, _)), *others = with_batches
        for rank, (steps, _) in others:
            if steps != of_one:
                raise _other_steps(recorder.site, steps, f"rank {rank}", of_one, f"rank {one}")
        # The last batch of all is the last process's.
        recorder.steps = with_batches[-1][1][1]


def _other_steps(site: Site, steps: int, here: str, others: int, there: str) -> ValueError:
    return ValueError(
        f"layer {site.name!r}: its neuron {site.neuron!r} ran {steps} steps on {here} and {others} "
        f"on {there}; where the layer's input does not show them (folded into the batch, or the "
        f"same for all steps), every batch must have the T of the first"
    )


def _chain_scale(model: nn.Module, chain: Sequence[str], rows: int) -> Tensor | None:
    r"""The product of :math:`\gamma / \sqrt{var + \epsilon}` along a chain of normalisations."""
    scale: Tensor | None = None
    for name in chain:
        norm: Any = model.get_submodule(name)
        if norm.running_var is None or len(norm.running_var) != rows:
            continue
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            factor = factor * norm.weight.detach().double()
        scale = factor if scale is None else scale * factor
    return scale


# --- Neurons of different decay behind one layer ----------------------------------------------


def rows_by_response(site: Site) -> list[tuple[Tensor, Response]]:
    """The rows of a layer's weight, sorted by how the neurons behind them respond."""
    rows = outputs_of(site.layer)
    response = site.response
    table = [
        _per_row(site, value)
        for value in (response.decay, response.synaptic_decay or 0.0, response.gain)
    ]
    values = torch.stack(table, dim=1)
    distinct, member = values.unique(dim=0, return_inverse=True)
    if len(distinct) > DECAYS:
        warnings.warn(
            f"calibrate: {len(distinct)} different decays behind layer {site.name!r}; its rows "
            f"share {DECAYS} Hessians, of the mean decay of rows that decay alike",
            stacklevel=2,
        )
        # Rows come sorted by decay, so neighbours are alike.
        member = member * DECAYS // len(distinct)
        distinct = torch.stack([values[member == i].mean(0) for i in range(DECAYS)])
    two_stages = response.synaptic_decay is not None
    device = site.layer.weight.device
    groups = []
    for i, (decay, synaptic, gain) in enumerate(distinct.tolist()):
        index = (member == i).nonzero()[:, 0].to(device)
        groups.append((index, Response(decay, synaptic if two_stages else None, gain)))
    assert sum(len(index) for index, _ in groups) == rows
    return groups


def _per_row(site: Site, value: float | Tensor) -> Tensor:
    """One value for each output row, from one for each neuron of a sample."""
    rows = outputs_of(site.layer)
    if not isinstance(value, Tensor):
        return torch.full((rows,), value, dtype=torch.float64)
    value = value.cpu().squeeze(0) if value.dim() > len(site.shape) else value.cpu()
    full = value.expand(site.shape)
    axis = len(site.shape) - 1 if is_linear(site.layer) else 0
    if full.shape[axis] == rows:
        by_row = full.movedim(axis, 0).reshape(rows, -1)
    else:
        by_row = full.reshape(1, -1).expand(rows, -1)
    mean = by_row.mean(1)
    if not torch.allclose(by_row, mean[:, None]):
        warnings.warn(
            f"calibrate: the neurons behind one output of layer {site.name!r} decay differently; "
            "their mean is used",
            stacklevel=3,
        )
    return mean


def _is_identity(response: Response) -> bool:
    return response.synaptic_decay is None and float(response.decay) == 0


def _shown_decays(responses: Sequence[Response]) -> str:
    shown = [
        f"{r.decay:.4g}" if r.synaptic_decay is None else f"{r.synaptic_decay:.4g}, {r.decay:.4g}"
        for r in responses
    ]
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]} ({len(shown)})"
