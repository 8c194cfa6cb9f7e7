"""signGD as a SpikingJelly node and as a recipe for ``ann2snn.FXConverter``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from spikingjelly.activation_based import base
from spikingjelly.activation_based.ann2snn import FXConverter
from spikingjelly.activation_based.ann2snn.recipes import FXConversionRecipe
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from spikeloom import neurons
from spikeloom.convert.signgd import SignGD
from spikeloom.convert.signgd.network import (
    SignGDNetwork,
    beyond_reach,
    finite,
    neuron_of,
)
from spikeloom.convert.signgd.operators import Site, classify
from spikeloom.convert.signgd.time import Machine

from ..adapter import component
from .node import SpikeloomNode, make

__all__ = ["SignGDNode", "SignGDRecipe", "SteppedSignGD"]

PAPER = "H. Oh and Y. Lee, Sign Gradient Descent-based Neuronal Dynamics, ICML 2024"


@component("signGD", PAPER)
class SignGDNode(SpikeloomNode, describes=neurons.SignGD):
    """Tracks a function with one bit a step; :class:`spikeloom.neurons.SignGD` has the rest.

    Input and output are increments, as those of SpikingJelly's temporal-difference modules
    (``TDLinear``, ``TDConv2d``): put it between them.

    Example:
        >>> import torch
        >>> from spikeloom.neurons import Exponential
        >>> from spikeloom.plugins.spikingjelly import SignGDNode
        >>> node = SignGDNode("relu", Exponential(1.0, 0.5), step_mode="m")
        >>> node(torch.tensor([0.8, 0.0, 0.0, 0.0])[:, None]).flatten()
        tensor([ 1.0000, -0.5000,  0.2500,  0.1250])
    """


class SignGDRecipe(FXConversionRecipe):
    """ANN to SNN for networks beyond ReLU, through ``ann2snn.FXConverter``.

    Args:
        dataloader: Calibration batches: tensors, or tuples of the model's arguments (a label
            behind them is left out).
        steps: T, the number of steps that reach and schedule are fitted for.
        settings: As for :class:`spikeloom.convert.SignGD`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import ann2snn, functional
        >>> from spikeloom.plugins.spikingjelly import SignGDRecipe
        >>> ann = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
        >>> x = torch.randn(64, 8)
        >>> snn = ann2snn.FXConverter(SignGDRecipe([x], steps=32)).convert(ann)
        >>> functional.set_step_mode(snn, "m")
        >>> increments = torch.zeros(32, 64, 8)
        >>> increments[0] = x
        >>> bool((snn(increments).sum(0) - ann(x)).abs().max() < 0.02)
        True
        >>> functional.reset_net(snn)
    """

    def __init__(self, dataloader: Iterable[Any], steps: int = 16, **settings: Any) -> None:
        self.dataloader = dataloader
        self.method = SignGD(steps, **settings)

    def before_trace(self, converter: FXConverter, ann: nn.Module) -> nn.Module:
        """A copy, in evaluation mode."""
        return copy.deepcopy(ann).eval()

    def finalize(self, converter: FXConverter, fx_model: fx.GraphModule) -> nn.Module:
        """The converted network with SpikingJelly's nodes."""
        network = self.method.apply(fx_model, self._batches(converter.device))
        return SteppedSignGD(network)

    def _batches(self, device: Any) -> Iterator[Any]:
        for batch in self.dataloader:
            yield pytree.tree_map_only(Tensor, lambda x: x.to(device), batch)


class SteppedSignGD(base.MemoryModule):
    """A converted network that is stepped, reset and watched as SpikingJelly's are.

    Input and output are increments: the input is summed over time, and the sum of the outputs is
    the decoded result. An image is shown by putting it into the first step and zeros into the
    others, likewise token ids; what is true in a mask stays true. Every spiking node is a
    :class:`SignGDNode` under ``nodes``.

    Args:
        network: What :class:`spikeloom.convert.SignGD` made.
        step_mode: ``"s"`` for one step a call, ``"m"`` for a sequence.

    Shape:
        - Input: ``[N, *]`` in step mode "s", ``[T, N, *]`` in "m".
        - Output: The model's output, with the same axes in front. What is no number in it, and
          comes with every call, is returned as it is.

    Attributes:
        report: What became of every operator.
    """

    # Tracers must not look inside and lose the nodes.
    _is_leaf_module = True

    def __init__(self, network: SignGDNetwork, step_mode: str = "s") -> None:
        super().__init__()
        self.report = network.report
        self.operators, self.captured = network.operators, network.captured
        graph, joins = network.operators.graph, network.plan.joins
        self.plan = classify(graph, joins=joins, timed_inputs=True)
        self.nodes = nn.ModuleDict()
        self.reads_operand: dict[str, bool] = {}
        # Where a target that is undefined is looked for.
        self.beyond: dict[str, float | None] = {}
        for site in self.plan.sites:
            schedule, scale = network.schedules[site.name], network.scales[site.name]
            neuron, reads = neuron_of(site, schedule, scale)
            self.nodes[site.name] = make(neuron, step_mode=step_mode)
            self.reads_operand[site.name] = reads
            self.beyond[site.name] = beyond_reach(site, schedule, scale)
        self.machine = Machine(self.operators, self.plan, over_time=True)
        # What arrived and left so far, by place: sums of increments.
        self.register_memory("sums", {})
        self.step_mode = step_mode

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "machine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.machine = Machine(self.operators, self.plan, over_time=True)

    def single_step_forward(self, *x: Any) -> Any:
        """One step: increments in, increments out."""
        moves = self.multi_step_forward(*pytree.tree_map_only(Tensor, lambda part: part[None], x))
        return pytree.tree_map_only(Tensor, lambda y: y[0], moves)

    def multi_step_forward(self, *x: Any) -> Any:
        """A sequence of steps: increments in, increments out."""
        inputs = self._laid_out(x)
        steps = next(len(part) for part in inputs if isinstance(part, Tensor))
        totals = [self._arrived(f"input {i}", part) for i, part in enumerate(inputs)]
        outputs = self.machine(totals, self._at_site)
        change = self.machine.timed_outputs()
        moves = [
            self._sent(f"output {i}", y, None if changes else steps)
            for i, (y, changes) in enumerate(zip(outputs, change, strict=True))
        ]
        return pytree.tree_unflatten(moves, self.captured.results)

    def _laid_out(self, x: tuple[Any, ...]) -> list[Any]:
        """The arguments of a call as a flat list."""
        inputs, structure = pytree.tree_flatten((x, {}))
        if structure != self.captured.arguments:
            wanted = pytree.tree_map(lambda _: "...", self._example())
            raise TypeError(
                f"forward: takes increments of the arguments that the model was converted with, "
                f"{wanted}; got {len(x)} argument(s)"
            )
        return inputs

    def _example(self) -> Any:
        return self.captured.arguments.unflatten(self.captured.example)

    def _arrived(self, place: str, part: Any) -> Any:
        """What has arrived after each step; of a mask, what was true so far."""
        if not isinstance(part, Tensor):
            return part
        totals = self._summed(place, part)
        return totals > 0 if part.dtype == torch.bool else totals

    def _sent(self, place: str, y: Any, steps: int | None) -> Any:
        """The increments of an output; of one without time, over these steps."""
        if not isinstance(y, Tensor):
            return y
        return self._moves(place, y if steps is None else y.expand(steps, *y.shape))

    def _at_site(
        self, site: Site, operands: tuple[Any, ...], compute: Callable[[], Tensor]
    ) -> Tensor:
        node = self.nodes[site.name]
        reads = self.reads_operand[site.name]
        drive = finite(operands[0] if reads else compute(), reads, self.beyond[site.name])
        moves = self._moves(f"{site.name} drive", drive)
        sent = node(moves) if node.step_mode == "m" else torch.stack([node(m) for m in moves])
        return self._summed(f"{site.name} sent", sent)

    def _summed(self, place: str, moves: Tensor) -> Tensor:
        """Increments as sums, continued from the last call."""
        totals = moves.cumsum(0)
        if place in self.sums:
            if self.sums[place].shape != totals.shape[1:]:
                raise ValueError(
                    f"forward: {place} has shape {list(totals.shape[1:])} at each step, before it "
                    f"had {list(self.sums[place].shape)}; call functional.reset_net in between"
                )
            totals = totals + self.sums[place]
        self.sums[place] = totals[-1]
        return totals

    def _moves(self, place: str, totals: Tensor) -> Tensor:
        """Sums as increments, continued from the last call."""
        before = self.sums.get(place, torch.zeros_like(totals[0]))
        self.sums[place] = totals[-1]
        return torch.diff(totals, dim=0, prepend=before[None])
