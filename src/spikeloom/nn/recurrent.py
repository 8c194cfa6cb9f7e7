"""Recurrent: a layer of neurons whose spikes are also its own input a step later."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.wrapped import Wrapped
from spikeloom.layer import (
    Implemented,
    as_now,
    checked_neuron,
    current_parameters,
    register_parameters,
)
from spikeloom.modules import (
    Circuit,
    Conventions,
    linear_of,
    register,
    undescribed,
    values_of,
)
from spikeloom.nn.feedback import checked_weight, run_with_feedback
from spikeloom.nn.layer import checked_threshold

__all__ = ["Fed", "Recurrent", "why_not"]

State = tuple[Tensor, ...]


class Fed(Wrapped):
    """A neuron with a second input that is added to its first.

    Args:
        neuron: The neuron, with one input and one output.

    Raises:
        TypeError: If ``neuron`` is no Neuron.
        ValueError: If it cannot take its steps one by one, or has parameters that change with time.
    """

    def __init__(self, neuron: Neuron) -> None:
        self.neuron = checked_neuron(neuron)
        wrong = why_not(neuron)
        if wrong:
            raise ValueError(
                f"neuron: {neuron.name} {wrong}, so its spikes cannot return to it step by step; "
                f"take one such as LIF"
            )
        super().__init__(
            self._step, state=neuron.rest, params=neuron.params, inputs=2, name=neuron.name
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        now, back = x
        return self.neuron.step(now + back, state, p)


def why_not(neuron: Neuron) -> str:
    """Why a neuron's spikes cannot return to it; empty if they can.

    Args:
        neuron: Any description.
    """
    if neuron.begin is not None:
        return "sums its input over time before it begins"
    if neuron.inputs != 1 or neuron.outputs != 1:
        return f"has {neuron.inputs} inputs and {neuron.outputs} outputs"
    timed = [name for name, kind in neuron.kinds.items() if kind in ("step", "gated")]
    return f"has parameters that change with time ({', '.join(timed)})" if timed else ""


class Recurrent(Implemented, nn.Module):
    r"""A layer of neurons whose spikes return to it at the next step through a weight.

    .. math::
        i[t] = x[t] + W\,s[t-1] + b, \qquad s[t], v[t] = \mathrm{neuron}(i[t], v[t-1])

    with :math:`s[-1] = 0`. Forward and back-propagation through time are one call: on a CPU the
    steps are taken by the neuron's compiled one-step kernels, without a graph node for each. While
    few neurons fire, the rows of the weight that they name are added; else the product is torch's.
    The gradient of the weight is one product over all steps, of the spikes' bits.

    On a GPU, under autocast, and while ``torch.compile``, ``torch.func``, a dispatch mode or a
    profiler is active, the layer is a loop over the steps in Python, with the same results within
    rounding. In 16 bits what returns is rounded to 16 bits; states are float32.

    Args:
        neuron: What to run: any neuron with one input, one output and no parameter that changes
            with time. Its tensors become the module's parameters or buffers, as those of a
            :class:`~spikeloom.SpikingLayer` do.
        weight: How many neurons there are, N; or W, ``[N, N]``, whose rows are the neurons that
            receive. A number makes a Parameter that begins as that of :class:`torch.nn.Linear`. A
            Parameter is learned; another tensor becomes a buffer.
        bias: Whether b is added and learned, beginning at zero; or b, ``[N]``.
        implementation: As for :func:`spikeloom.run`.
        events_up_to: The share of neurons that fire up to which weights are added one by one; 0
            never does, 1 does so for all spikes. None is 0.25, for layers of at least 2**20
            products a step; smaller ones never do.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the neuron cannot be run step by step, a shape does not fit, or a number is
            out of range.

    Shape:
        - Input: ``[T, *, N]``
        - Output: ``[T, *, N]``

    Example:
        >>> import torch, spikeloom
        >>> weight = torch.tensor([[0.0, 0.0], [4.0, 0.0]])  # from neuron 0 to neuron 1
        >>> layer = spikeloom.Recurrent(spikeloom.neurons.LIF(tau=2.0), weight)
        >>> x = torch.zeros(4, 1, 2)
        >>> x[0, 0, 0] = 3.0
        >>> layer(x)[:, 0]
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.],
                [0., 0.]])
    """

    # Tracers (torch.fx, nirtorch) must never look inside and lose the neuron.
    _is_leaf_module = True

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        neuron: Neuron,
        weight: int | Tensor,
        bias: bool | Tensor = False,
        *,
        implementation: str = "auto",
        events_up_to: float | None = None,
    ) -> None:
        super().__init__()
        self.neuron = Fed(neuron)
        self.implementation = implementation
        self.events_up_to = checked_threshold(events_up_to, "events_up_to")
        if isinstance(weight, int) and not isinstance(weight, bool):
            weight = _drawn(weight)
        weight = checked_weight("weight", weight)
        bias_tensor: Tensor | None
        if isinstance(bias, bool):
            bias_tensor = nn.Parameter(weight.new_zeros(len(weight))) if bias else None
        elif isinstance(bias, Tensor) and tuple(bias.shape) == (len(weight),):
            bias_tensor = bias
        else:
            got = list(bias.shape) if isinstance(bias, Tensor) else repr(bias)
            raise ValueError(f"bias: must be True, False or a tensor [{len(weight)}], got {got}")
        for name in neuron.tensor_params:
            if hasattr(self, name) or name in ("weight", "bias"):
                raise ValueError(
                    f"neuron: {neuron.name} has a parameter {name!r}, and a Recurrent an attribute "
                    f"of that name; give it another"
                )
        for name, tensor in (("weight", weight), ("bias", bias_tensor)):
            if tensor is None or isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        register_parameters(self, neuron)

    def forward(self, x: Tensor, lengths: Lengths = None) -> Tensor:
        """Run over ``[T, *, N]`` from rest, with no spikes before the first step.

        Args:
            x: ``[T, *, N]``.
            lengths: How many steps each sequence of a batch has, as for :func:`spikeloom.run`; x
                is then ``[T, batch, *, N]``.
        """
        return self.sequence(x, lengths=lengths)[0]

    def sequence(
        self,
        x: Tensor,
        spikes: Tensor | None = None,
        state: State | None = None,
        *,
        lengths: Lengths = None,
    ) -> tuple[Tensor, State]:
        """Run on from where an earlier sequence has ended.

        Args:
            x: ``[T, *, N]``.
            spikes: Those of the step before, ``[*, N]``; None is zeros. To go on, ``y[-1]``.
            state: The states before the first step; None is rest.
            lengths: As for :meth:`forward`. To go on, the spikes of a sequence are those of its
                own last step.

        Returns:
            ``(y, state)``: the output ``[T, *, N]`` and the last states ``[*, N]``.

        Raises:
            TypeError: If a tensor has the wrong dtype or device.
            ValueError: If a shape does not fit, or a state is NaN.

        Example:
            >>> import torch, spikeloom
            >>> layer = spikeloom.Recurrent(spikeloom.neurons.LIF(), 8)
            >>> x = torch.rand(6, 2, 8)
            >>> first, state = layer.sequence(x[:3])
            >>> second, _ = layer.sequence(x[3:], first[-1], state)
            >>> torch.equal(torch.cat([first, second]), layer(x))
            True
        """
        return run_with_feedback(
            self.neuron,
            x,
            self.weight,
            self.bias,
            spikes,
            state,
            params=current_parameters(self, self.neuron),
            implementation=self.implementation,
            threshold=self.events_up_to,
            lengths=lengths,
        )

    def extra_repr(self) -> str:
        """The neuron, how many there are, and how it runs."""
        shown = f"{as_now(self, self.neuron.neuron)}, {len(self.weight)}"
        shown += f", bias={self.bias is not None}, implementation={self.implementation!r}"
        if self.events_up_to is not None:
            shown += f", events_up_to={self.events_up_to}"
        return shown


def _drawn(neurons: int) -> nn.Parameter:
    """A weight as torch.nn.Linear begins."""
    if neurons < 1:
        raise ValueError(f"weight: must be at least 1 neuron, or a weight [N, N], got {neurons}")
    bound = 1 / math.sqrt(neurons)
    return nn.Parameter(torch.empty(neurons, neurons).uniform_(-bound, bound))


def _circuit(module: Recurrent) -> Circuit:
    back = linear_of(module.weight, module.bias)
    return Circuit(module.neuron.neuron, values_of(module), None, back)


# No description says that spikes return: a module of its own kind to all that asks for one.
register(Recurrent, Conventions(describe=undescribed, circuit=_circuit))
