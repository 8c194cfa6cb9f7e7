"""Where the steps of a layer's input are: first guessed from shapes, then seen.

Steps are calls of the layer, an axis of its input, or folded into its batch, and samples may come
before them or after; or the layer works once on what all steps share. Shapes do not tell
``[T, B]`` from ``[B, T]`` once both are one axis, or of one length. So one row of each layer's
output is marked, and the neuron behind it is watched for the step and the sample at which the mark
arrives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from spikeloom.compress.site import Site
from spikeloom.modules import conventions_of, watched_calls

__all__ = ["Inputs", "by_step", "confirm_steps", "place_steps", "see_steps", "signal_of"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inputs:
    """What a neuron was called with in one pass.

    Attributes:
        shapes: The shape of its input in each call.
        whole: Whether each call has all steps, ``[T, batch, *]``, or one, ``[batch, *]``.
    """

    shapes: Sequence[Shape]
    whole: bool

    @property
    def steps(self) -> int:
        """T."""
        return self.shapes[0][0] if self.whole else len(self.shapes)

    @property
    def batch(self) -> int:
        """How many samples."""
        return self.shapes[0][1 if self.whole else 0]


def signal_of(neuron: nn.Module, args: Any, kwargs: Any, whole: bool) -> Tensor:
    """What a neuron is called with, time first if that is a whole sequence.

    Args:
        neuron: The neuron's module.
        args: The arguments of the call.
        kwargs: Those by name.
        whole: Whether they hold a whole sequence.
    """
    x: Tensor = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    conventions = conventions_of(neuron)
    turned = whole and conventions is not None and conventions.batch_first(neuron)
    return x.transpose(0, 1) if turned else x


def see_steps(site: Site, shapes: Sequence[Shape]) -> None:
    """Find the steps of a layer whose neuron is no module: in its calls, or on its first axis.

    Args:
        site: The layer, with the response that was stated for it.
        shapes: Of its input in each call.

    Raises:
        ValueError: If one call shows no steps, and the response needs them.
    """
    shape = shapes[0]
    if len(shapes) == 1 and len(shape) > site.layer.weight.dim():
        site.time, site.steps = "first", shape[0]
    elif len(shapes) == 1 and site.response.decay:
        raise ValueError(
            f"traces: layer {site.name!r} is called once, with {shape}, which shows no steps; name "
            "the neuron's module instead of the layer"
        )


def place_steps(
    site: Site, shapes: Sequence[Shape], neuron: str, inputs: Inputs, strict: bool
) -> None:
    """Find the steps by the shapes of a neuron's input.

    Args:
        site: The layer.
        shapes: Of its input in each call.
        neuron: The name of the neuron behind it, or of any other.
        inputs: That neuron's.
        strict: Whether it is the neuron behind the layer, so that its steps must be there.

    Raises:
        ValueError: If they are not, and must be.
    """
    steps, batch, calls = inputs.steps, inputs.batch, len(inputs.shapes)
    shape, has_room = shapes[0], len(shapes[0]) > site.layer.weight.dim()
    site.shape = inputs.shapes[0][2 if inputs.whole else 1 :]
    if not inputs.whole and len(shapes) >= calls:
        site.streams = len(shapes) // calls
    elif has_room and shape[:2] in ((steps, batch), (batch, steps)):
        site.time, site.steps, site.batch_first = "first", steps, shape[:2] != (steps, batch)
    elif inputs.whole and steps > 1 and len(shapes) == steps * calls:
        pass  # the layer is stepped through by a container, the neuron is not
    elif shape[0] % (steps * batch) == 0:
        site.time, site.steps, site.rows = "folded", steps, shape[0] // (steps * batch)
    elif strict and shape[0] == batch and len(shapes) == 1:
        site.time, site.steps = "once", steps
    elif strict and shape[0] == steps and len(shapes) == 1:
        site.time, site.steps, site.rows = "folded", steps, 0
    elif strict:
        raise ValueError(
            f"layer {site.name!r}: its input {shape} does not show the {steps} steps of the "
            f"neuron {neuron!r} with input {inputs.shapes[0]}; steps and samples are the first two "
            "axes, or folded into one as by flatten(0, 1)"
        )
    repeated = site.streams if site.time == "calls" else len(shapes) // calls
    if strict and repeated > 1:
        warnings.warn(
            f"calibrate: {site.name!r} is used {repeated} times; its statistics cover all uses",
            stacklevel=7,
        )


def by_step(site: Site, x: Tensor) -> Tensor:
    """What a layer is called with as ``[T, n, ...]``; T is 1 if steps are calls.

    Args:
        site: The layer, its steps placed and confirmed.
        x: Its input in one call.

    Raises:
        ValueError: If it cannot be taken apart into steps.
    """
    T, rows = site.steps, max(site.rows, 1)
    if site.time == "calls":
        return x[None]
    if site.time == "once":
        return x.expand(T, *x.shape)
    if site.time == "first":
        return x.transpose(0, 1) if site.batch_first else x
    if len(x) % (T * rows):
        raise ValueError(
            f"{len(x)} inputs cannot be {T} steps folded into a batch; every batch must have the T "
            "of the first"
        )
    if site.batch_first is None and len(x) > T * rows:
        raise ValueError(
            "steps are folded into the batch, and the first batch with its one sample does not "
            "show which of both comes first; begin with a batch of several samples"
        )
    if site.batch_first:
        return x.unflatten(0, (-1, T, rows)).transpose(0, 1).flatten(1, 2)
    return x.unflatten(0, (T, -1))


# --- The proof --------------------------------------------------------------------------------

# Step and sample.
Position = tuple[int, int]


def confirm_steps(
    modules: Mapping[str, nn.Module],
    sites: Iterable[Site],
    inputs: Mapping[str, Inputs],
    forward: Callable[[], Any],
) -> None:
    """Make sure which axis of each layer's input is time, and set ``batch_first`` accordingly.

    Args:
        modules: The model's, by name.
        sites: Layers whose steps have been placed.
        inputs: What each neuron was called with.
        forward: Runs the model on one batch, from rest; only if there is something to tell apart.

    Raises:
        ValueError: If the steps of a layer do not reach its neuron one by one and in order.
    """
    unsure = [s for s in sites if s.neuron is not None and s.time != "calls" and s.steps > 1]
    if not unsure:
        return
    together = _arrivals(modules, unsure, inputs, forward)
    for site in unsure:
        neuron = str(site.neuron)
        if _settle(site, together[neuron], inputs[neuron]):
            continue
        # Several layers may feed the neuron: which of them is it?
        alone = _arrivals(modules, [site], inputs, forward)[neuron]
        settled = _settle(site, alone, inputs[neuron])
        if not settled and site.time == "once" and site.steps == inputs[neuron].batch:
            # As many rows as there are samples, and as there are steps.
            site.time, site.rows = "folded", 0
            alone = _arrivals(modules, [site], inputs, forward)[neuron]
            settled = _settle(site, alone, inputs[neuron])
        if not settled:
            at = ", ".join(f"(step {t}, sample {b})" for t, b in sorted(alone)[:4])
            raise ValueError(
                f"layer {site.name!r}: one row of its output reaches the neuron {neuron!r} at "
                f"{at}; every step must reach the neuron on its own and in the order of the "
                "layer's input, or all steps must be the same; if no membrane integrates what the "
                f"layer puts out, say so: traces={{{site.name!r}: neurons.Trace(0)}}"
            )


def _settle(site: Site, found: set[Position], inputs: Inputs) -> bool:
    """Whether the marked row of the layer's output arrives where an order of axes would have it."""
    if site.time == "once":
        return found in (set(), {(t, inputs.batch - 1) for t in range(inputs.steps)})
    if site.rows == 0:
        return found in (set(), {(1, b) for b in range(inputs.batch)})
    second = {False: divmod(1, inputs.batch), None: (1, 0), True: (1, 0)}
    told: tuple[bool | None, ...] = (False, True)
    if site.time == "first" and inputs.steps != inputs.batch:
        told = (site.batch_first,)
    elif inputs.batch == 1:
        told = (None,)
    for batch_first in told:
        if found <= {second[batch_first]}:  # nothing arrives if something on the way hides it
            site.batch_first = batch_first
            return True
    return False


def _arrivals(
    modules: Mapping[str, nn.Module],
    sites: Sequence[Site],
    inputs: Mapping[str, Inputs],
    forward: Callable[[], Any],
) -> dict[str, set[Position]]:
    """At which steps and samples of each neuron the marked rows of some layers' outputs arrive."""
    found: dict[str, set[Position]] = {name: set() for name in inputs}
    with ExitStack() as stack:
        for site in sites:
            hook = site.layer.register_forward_hook(_marking(site))
            stack.callback(hook.remove)
        for name, places in found.items():
            before = _watching(modules[name], places, inputs[name].whole)
            stack.enter_context(watched_calls(modules[name], before))
        forward()
    return found


def _marking(site: Site) -> Callable[..., Any]:
    """Mark a row of a layer's output: what comes second, or last, if all steps share the rows."""
    row = -1 if site.time == "once" else max(site.rows, 1)

    def mark(layer: nn.Module, args: Any, output: Any) -> Any:
        marked = output.clone()
        rows = marked.flatten(0, 1) if site.time == "first" else marked
        rows[row] = torch.nan
        return rows.reshape(output.shape)

    return mark


def _watching(neuron: nn.Module, places: set[Position], whole: bool) -> Callable[..., Any]:
    """Note where marks arrive, and take them away."""
    calls = 0

    def before(args: Any, kwargs: Any, is_sequence: bool) -> tuple[Any, Any]:
        nonlocal calls
        x = signal_of(neuron, args, kwargs, whole)
        steps = x.isnan() if whole else x.isnan()[None]
        marked = steps.reshape(*steps.shape[:2], -1).any(2).nonzero().tolist()
        places.update((t if whole else calls, b) for t, b in marked)
        calls += 1
        clean: tuple[Any, Any] = tree_map_only(Tensor, torch.nan_to_num, (args, kwargs))
        return clean

    return before
