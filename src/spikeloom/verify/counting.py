"""Counting: a dense run that counts spikes, synapses and products, module by module."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from spikeloom.kernel.trace import Program
from spikeloom.observe import Effect
from spikeloom.observe.run import Call
from spikeloom.verify.kinds import Kind
from spikeloom.verify.static import KindTrace

__all__ = ["Counting", "Layer", "steps_and_batch"]


@dataclass
class Layer:
    """One module's counts over the whole sample.

    Attributes:
        is_neuron: Whether it is a neuron of ours.
        is_driven: Whether spikes or whole numbers reach it.
        spikes: What a neuron fires, or a weight layer receives.
        neurons: Neurons, times steps.
        driven: Synapses behind spikes or whole numbers.
        accumulates: Those of them that were used, by each unit.
        macs: Synapses behind real values.
        twin_macs: What its twin, with real activations in one step, multiplies.
        inputs: The shape of the module's input in each call.
        steps: Steps of a neuron.
        batch: Samples that a neuron sees.
    """

    is_neuron: bool
    is_driven: bool = False
    spikes: int = 0
    neurons: int = 0
    driven: int = 0
    accumulates: int = 0
    macs: int = 0
    twin_macs: float = 0.0
    inputs: list[tuple[int, ...]] = field(default_factory=list)
    steps: int = 0
    batch: int = 0

    @property
    def work(self) -> tuple[float, float, float, float]:
        """Synaptic additions, the same at a rate of 1, multiplications, and those of the twin."""
        return self.accumulates, self.driven, self.macs, self.twin_macs

    def runs(self, steps: int, batch: int) -> int:
        """How often the layer works on one sample: at each step, or once on a constant image."""
        first = self.inputs[0]
        in_calls = len(self.inputs) > 1 and len(self.inputs) % steps == 0
        in_axes = first[:2] == (steps, batch) or (first and first[0] % (steps * batch) == 0)
        return steps if in_calls or in_axes else 1

    def know_steps(self, steps: int, batch: int) -> None:
        """Set what the twin takes, once it is known how many steps and samples there were."""
        self.twin_macs = self.macs / self.runs(steps, batch) + self.driven / steps

    def add(self, other: Layer) -> None:
        """Add the counts of another run."""
        self.is_driven |= other.is_driven
        for name in ("spikes", "neurons", "driven", "accumulates", "macs", "twin_macs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


# Operations of torch that multiply inside, how often is not known; so do those of other libraries.
INNER = ("linalg", "fft", "cdist", "trilinear")


class Counting(KindTrace):
    """A dense run that counts spikes and synapses beside following value kinds.

    Attributes:
        layers: Counts by module, in the order of their first call; those of a neuron apart from
            those of weights in the same module.
        weight_multiplications: Multiplications inside weight layers.
        opaque: Operations, with their modules, whose inner products are not known.
    """

    def __init__(self) -> None:
        super().__init__(exempt=frozenset())
        self.layers: dict[tuple[str, bool], Layer] = {}
        self.weight_multiplications = 0
        self.opaque: dict[str, None] = {}
        self.shapes: dict[str, list[tuple[int, ...]]] = {}
        self.in_steps: dict[str, bool] = {}  # whether a module takes one step at each call

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Watch a model, with its fused kernels taken apart so that all their products are seen."""
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(_unfused_attention())
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                # Setting one of torch's flags sets them all, and one says what it cannot do.
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", "TF32")
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(super().over(model))
            yield

    def entered(self, name: str, module: nn.Module, args: Any, kwargs: Any, whole: bool) -> None:
        """Note the shape of a module's input."""
        super().entered(name, module, args, kwargs, whole)
        first = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None)
        self.shapes.setdefault(name, []).append(() if first is None else tuple(first.shape))
        self.in_steps[name] = not whole

    def seen(self, call: Call) -> Any:
        """Compute, follow, and count weight layers and neurons."""
        before = self.multiplications
        y = super().seen(call)
        if call.name == "scan":
            self._count_spikes(call.args, y)
        elif call.effect is Effect.WEIGHS:
            factors = [self.labels.of(factor) for factor in call.factors]
            kind = next((factor for factor in factors if isinstance(factor, Kind)), None)
            if kind is not None:
                self._count_synapses(call, factors.index(kind), kind)
                self.weight_multiplications += self.multiplications - before
        elif self.multiplications > before and _is_opaque(call.name):
            self.opaque[f"{call.name} of {repr(call.module) if call.module else 'the model'}"] = (
                None
            )
        return y

    def add(self, other: Counting) -> None:
        """Add what another run of the same model has counted."""
        for key, layer in other.layers.items():
            if key in self.layers:
                self.layers[key].add(layer)
            else:
                self.layers[key] = layer
        for name in ("additions", "comparisons", "multiplications", "weight_multiplications"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.opaque |= other.opaque
        self.readers |= other.readers

    def _layer(self, *, is_neuron: bool) -> Layer:
        inputs = self.shapes.setdefault(self.module, [()])
        return self.layers.setdefault((self.module, is_neuron), Layer(is_neuron, inputs=inputs))

    def _count_spikes(self, args: tuple[Any, ...], y: Any) -> None:
        text, steps, _, xs, *_ = args
        outputs = y[: len(Program.parse(text).outputs)]
        layer = self._layer(is_neuron=True)
        layer.spikes += sum(int(s.count_nonzero()) for s in outputs)
        layer.neurons += sum(s.numel() for s in outputs)
        if self.in_steps.get(self.module) and layer.inputs[-1]:
            if any(s.numel() > xs[0].numel() for s in outputs):
                raise ValueError(
                    f"model: {self.module!r} takes a complete value and fires its spikes one by "
                    "one, each of which meets the weights, so that what the dense network would do "
                    "is not known; decode them: convert.set_form(model, 'decoded')"
                )
            # Whatever the kernel takes for steps, such as the places of an activation.
            layer.steps, layer.batch = len(layer.inputs), layer.inputs[-1][0]
        else:
            # One step at each call, or all of them at every call.
            layer.steps = layer.steps + 1 if steps == 1 else steps
            layer.batch = xs[0].shape[1] if xs[0].dim() > 1 else 0

    def _count_synapses(self, call: Call, position: int, kind: Kind) -> None:
        layer = self._layer(is_neuron=False)
        x, other = call.factors[position], call.factors[1 - position]
        with torch.utils._python_dispatch._disable_current_modes():
            # A weight of 0 is none; what depends on the sample is no weight.
            present = torch.ones_like(other) if other in self.labels else other != 0
            present = present.double()
            synapses = _uses(call, position, torch.ones_like(x), present)
            if kind.whole:
                layer.is_driven = True
                layer.driven += synapses
                layer.spikes += int(x.count_nonzero())
                layer.accumulates += _uses(call, position, x.abs(), present)
            else:
                layer.macs += synapses


def _uses(call: Call, position: int, x: Tensor, synapses: Tensor) -> int:
    """Weight uses by an input of whole numbers, padding excluded.

    Args:
        call: The product.
        position: Which of the two factors the input is.
        x: What the input counts as.
        synapses: 1 for each weight that there is.
    """
    factors = [synapses, synapses]
    factors[position] = x.double()
    if call.name == "convolution":
        return int(call.function(*factors, None, *call.args[3:9]).sum())
    left, right = factors
    left = left if left.dim() > 1 else left[None]
    right = right if right.dim() > 1 else right[:, None]
    # Each column of the left factor meets the row of the right one.
    return int((left.sum(-2) * right.sum(-1)).sum())


def _is_opaque(name: str) -> bool:
    return "::" in name or name.lstrip("_").startswith(INNER)


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Let torch's attention and encoder layers call one operation for each product."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def steps_and_batch(
    layers: Collection[Layer], x: Any, y: Any, steps: int | None, batch: int | None
) -> tuple[int, int]:
    """How many steps and samples there are.

    Without neurons of ours, an output that begins with the same two axes as the input has steps and
    samples there if spikes drive a layer; without spikes there is nothing to tell steps by.

    Args:
        layers: What was counted.
        x: The model's input.
        y: The model's output.
        steps: T, if said.
        batch: Samples, if said.

    Raises:
        ValueError: If one is not said, and neither the neurons nor the output tell.
    """
    seen = {(layer.steps, layer.batch) for layer in layers if layer.is_neuron}
    first = _first_shape(y)
    found: tuple[int | None, int | None] = (None, None)
    if len(seen) == 1:
        (found,) = seen
    elif first:
        from_output = (first[0], first[1] if len(first) > 1 else 0)
        is_driven = any(layer.is_driven for layer in layers)
        if from_output in seen or (not seen and is_driven and _first_shape(x)[:2] == from_output):
            found = from_output
        elif (1, first[0]) in seen and all(t == 1 for t, _ in seen):
            found = 1, first[0]  # complete values, in one step
    steps, batch = steps or found[0], batch or found[1]
    if not steps or not batch:
        counts = ", ".join(f"T={t} of {b} samples" for t, b in sorted(seen)) or "nothing"
        raise ValueError(
            f"steps, batch: the output has the shape {first}, neurons see {counts}; "
            f"say how many there are: count_energy(..., steps=, batch=)"
        )
    return steps, batch


def _first_shape(values: Any) -> tuple[int, ...]:
    leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return tuple(next(leaves, torch.empty(())).shape)
