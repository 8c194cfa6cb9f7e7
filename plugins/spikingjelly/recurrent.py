"""LinearRecurrentContainer: SpikingJelly's container, a whole sequence of our nodes in one call."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from spikingjelly.activation_based import layer
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor, nn

from spikeloom.kernel.counted import counting_modes
from spikeloom.layer import current_parameters
from spikeloom.modules import Circuit, linear_of
from spikeloom.nn.feedback import run_with_feedback
from spikeloom.nn.layer import checked_threshold
from spikeloom.nn.recurrent import Fed, why_not

from ..adapter import circuit_in
from .node import SpikeloomNode

__all__ = ["LinearRecurrentContainer"]

LINEAR = (nn.Linear, layer.Linear)


class LinearRecurrentContainer(layer.LinearRecurrentContainer):
    r"""SpikingJelly's ``LinearRecurrentContainer``, whose sequences are one call.

    .. math::
        y[t] = \mathrm{node}\left(W \binom{x[t]}{y[t-1]} + b\right), \qquad y[-1] = 0

    It has the arguments, the state and the ``state_dict`` of SpikingJelly's. In step mode "m" with
    one of our nodes inside, the input's share of the product is taken for all steps at once, and
    what remains is that of :class:`spikeloom.Recurrent`. Everything else runs as in SpikingJelly,
    step by step: step mode "s", another module inside, a node with a step of its own, hooks or
    ``store_v_seq``, and while one of SpikingJelly's counters counts.

    Args:
        sub_module: What the container runs; in step mode "s".
        in_features: How many inputs ``sub_module`` has; with a node, as many as ``out_features``.
        out_features: How many outputs ``sub_module`` has.
        bias: Whether b is learned.
        step_mode: ``"s"`` for one step at each call, ``"m"`` for a sequence.
        events_up_to: As for :class:`spikeloom.Recurrent`.

    Shape:
        - Input: ``[N, *, in_features]`` in step mode "s", ``[T, N, *, in_features]`` in "m"
        - Output: ``[N, *, out_features]``, ``[T, N, *, out_features]``

    Raises:
        ValueError: If the state has another batch than the input; call ``reset_net`` first.

    Example:
        >>> import torch
        >>> from spikeloom.plugins import spikingjelly
        >>> net = spikingjelly.LinearRecurrentContainer(spikingjelly.LIFNode(), 4, 4, step_mode="m")
        >>> net(torch.rand(8, 2, 4)).shape
        torch.Size([8, 2, 4])

    Source: SpikingJelly, ``spikingjelly.activation_based.layer.LinearRecurrentContainer``.
    """

    def __init__(
        self,
        sub_module: nn.Module,
        in_features: int,
        out_features: int,
        bias: bool = True,
        step_mode: str = "s",
        *,
        events_up_to: float | None = None,
    ) -> None:
        super().__init__(sub_module, in_features, out_features, bias, step_mode)
        self.events_up_to = checked_threshold(events_up_to, "events_up_to")
        self._fed: Fed | None = None

    def multi_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """A whole sequence; the node inside keeps its own state."""
        (x,), (y,), node = inputs, states, self.sub_module
        if not len(x) or not self._is_one_call():
            return super().multi_step_functional_forward(inputs, states, **kwargs)
        node._restart()
        own, back = self.rc.weight.split((x.shape[-1], y.shape[-1]), dim=1)
        current = F.linear(x, own, self.rc.bias)
        vs = node.materialize_states((current,), tuple(node._memories.values()), "m")
        y_seq, vs = run_with_feedback(
            self._fed_neuron(),
            current,
            back,
            None,
            y,
            vs,
            params=current_parameters(node, node.neuron),
            implementation=node.implementation,
            threshold=self.events_up_to,
        )
        node._memories.update(zip(node._memories, vs, strict=True))
        return (y_seq,), (y_seq[-1],)

    def _fed_neuron(self) -> Fed:
        """The node's neuron with a second input, traced once."""
        neuron = self.sub_module.neuron
        if self._fed is None or self._fed.neuron is not neuron:
            self._fed = Fed(neuron)
        return self._fed

    def _is_one_call(self) -> bool:
        """Whether nothing but a node of ours is inside, and its single steps are not observed."""
        node = self.sub_module
        if not isinstance(node, SpikeloomNode) or counting_modes():
            return False
        whole = not node._transition_is_overridden() and not node.store_v_seq
        whole &= type(node).single_step_forward is BaseNode.single_step_forward
        whole &= type(node).forward is SpikeloomNode.forward
        return whole and not why_not(node.neuron) and _is_unwatched(node, self.rc)


@circuit_in(
    layer.LinearRecurrentContainer,
    LinearRecurrentContainer,
    settings="a node inside, or Sequential(Linear, node)",
)
def _circuit(container: Any) -> Circuit | None:
    inside, own = container.sub_module, container.rc
    *before, node = inside if type(inside) is nn.Sequential else [inside]
    if len(before) > 1 or any(type(part) not in LINEAR for part in before):
        return None
    weight, bias = own.weight.detach(), own.bias
    for part in before:
        weight, bias = _behind(part, weight, bias)
    outputs = container.sub_module_out_features
    into, back = weight.split((own.in_features - outputs, outputs), dim=1)
    return Circuit.around(node, linear_of(into, bias), linear_of(back))


def _behind(part: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """What a weight and a bias are behind one more linear layer."""
    outer = part.weight.detach().double()
    whole = (outer @ weight.double()).to(weight)
    if bias is None:
        return whole, part.bias
    shift = outer @ bias.detach().double()
    return whole, (shift if part.bias is None else shift + part.bias.detach()).to(weight)


def _is_unwatched(*modules: nn.Module) -> bool:
    """Whether no hook, and no forward of a module's own, is to see each step."""
    return not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        for module in modules
    )
