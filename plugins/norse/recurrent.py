"""Norse's recurrent LIF on our kernel, and what its own modules with weights hold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import norse.torch as host
import torch
import torch.nn.functional as F
from norse.torch.functional.lif import LIFParameters, LIFState
from torch import Tensor, nn

from spikeloom.kernel.call import run_step
from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.vocabulary import detach, fire
from spikeloom.layer import current_parameters
from spikeloom.modules import Circuit, linear_of, register, undescribed
from spikeloom.neurons import CubaLIF
from spikeloom.neurons.li import integrated
from spikeloom.nn.feedback import checked_weight, run_with_feedback
from spikeloom.nn.layer import checked_threshold

from ..adapter import circuit_in, component
from .conventions import OUR_CELLS, OUR_SEQUENCES
from .li import described_li
from .lif import described_lif
from .module import SpikeloomCell, SpikeloomSequence, checked, expanded
from .native import COUNTERPARTS
from .parameters import FromParameters, begins_at_leak

__all__ = ["LIFRecurrent", "LIFRecurrentCell"]

PAPER = "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025"
State = tuple[Tensor, ...]


class RecurrentCubaLIF(CubaLIF):
    """What a recurrent LIF of Norse's does with an input and with what its spikes brought back.

    It is a CubaLIF whose reset passes no gradient, and whose spikes are a state.
    """

    _inputs, _further = 2, Fixed({"z": 0.0})

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        now, back = x
        v, i, _ = state
        h, i = integrated(back, (v, i + now), p)
        s = fire(h - p.v_th, self.surrogate, strict=True)
        z = detach(s)
        return s, ((1.0 - z) * h + z * p.v_reset, i, s)


class _Recurrent(FromParameters):
    """A cell or a sequence: the weights, and one way to run.

    Args:
        input_size: How many inputs there are.
        hidden_size: How many neurons there are.
        p: Norse's parameters.
        input_weights: ``[hidden_size, input_size]``; None draws them as Norse does.
        recurrent_weights: ``[hidden_size, hidden_size]``, likewise.
        autapses: Whether a neuron's spikes return to itself.
        dt: Time step in seconds.
        events_up_to: As for :class:`spikeloom.Recurrent`.
        habits: The arguments of every module.
    """

    _tuple, _state, _begins_at = LIFParameters, LIFState, "v_leak"
    _kind = RecurrentCubaLIF
    input_weights: Tensor
    recurrent_weights: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LIFParameters,
        input_weights: Tensor | None,
        recurrent_weights: Tensor | None,
        autapses: bool,
        dt: float,
        events_up_to: float | None,
        **habits: Any,
    ) -> None:
        super().__init__(p, dt, **habits)
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)
        self.autapses = bool(autapses)
        self.events_up_to = checked_threshold(events_up_to, "events_up_to")
        shape = (self.hidden_size, self.input_size)
        self._own("input_weights", input_weights, shape)
        self._own("recurrent_weights", recurrent_weights, (self.hidden_size, self.hidden_size))
        if not self.autapses:
            with torch.no_grad():
                self.recurrent_weights.fill_diagonal_(0.0)

    def _own(self, name: str, weight: Tensor | None, shape: tuple[int, int]) -> None:
        """Hold weights: a Parameter, or a buffer if they are no Parameter."""
        if weight is None:
            weight = nn.Parameter(torch.randn(shape) * math.sqrt(2.0 / shape[0]))
        if tuple(weight.shape) != shape:
            raise ValueError(f"{name}: must be {list(shape)}, got {list(weight.shape)}")
        if isinstance(weight, nn.Parameter):
            self.register_parameter(name, weight)
        else:
            self.register_buffer(name, weight)

    def _back(self) -> Tensor:
        """The weights through which spikes return; of a neuron back to itself only if asked."""
        weight = checked_weight("recurrent_weights", self.recurrent_weights)
        if self.autapses:
            return weight
        return weight.masked_fill(torch.eye(len(weight), dtype=torch.bool, device=weight.device), 0)

    def _current(self, input_tensor: Any) -> Tensor:
        """What the inputs bring."""
        x = self._promoted(input_tensor)
        checked(x)
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"input_tensor: must have {self.input_size} features, got {list(x.shape)}"
            )
        return F.linear(x, self.input_weights)

    def _begin(self, current: Tensor, state: Any, shape: torch.Size) -> State | None:
        """The neuron's states for Norse's, or at rest."""
        if state is not None:
            z, v, i = state
            return tuple(expanded((v, i, z), current, shape))
        if not isinstance(self.neuron.params["v_leak"], Tensor):
            return None
        return expanded(self._at_rest(), current, shape)

    def _ended(self, states: State, current: Tensor) -> Any:
        v, i, z = states
        return LIFState(z.to(current.dtype), v, i)

    def state_fallback(self, input_tensor: Any) -> Any:
        """The state before the first step: at rest."""
        current = self._current(input_tensor)
        shape = current.shape[self._leading :]
        return self._ended(expanded(self._at_rest(), current, shape), current)

    # How many axes stand before the batch.
    _leading = 0

    def _shown_habits(self) -> str:
        sizes = f"input_size={self.input_size}, hidden_size={self.hidden_size}"
        return f"{sizes}, autapses={self.autapses}, {super()._shown_habits()}"


@component("LIF", PAPER)
class LIFRecurrentCell(_Recurrent, SpikeloomCell):
    """One step of :class:`LIFRecurrent`, a drop-in for ``norse.torch.LIFRecurrentCell``.

    Args:
        input_size: As for :class:`LIFRecurrent`, and so below.
        hidden_size: How many neurons there are.
        p: Norse's parameters.
        input_weights: The weights of the inputs.
        recurrent_weights: The weights of the spikes that return.
        autapses: Whether a neuron's spikes return to itself.
        dt: Time step in seconds.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[batch, input_size]``
        - Output: ``(spikes, LIFState(z, v, i))``, all ``[batch, hidden_size]``

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIFRecurrentCell
        >>> cell = LIFRecurrentCell(3, 2, input_weights=20 * torch.ones(2, 3))
        >>> spikes, state = cell(torch.ones(1, 3))
        >>> spikes.detach()
        tensor([[1., 1.]])

    Source: Norse 1.1, ``norse.torch.module.lif.LIFRecurrentCell``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LIFParameters = LIFParameters(),
        *,
        input_weights: Tensor | None = None,
        recurrent_weights: Tensor | None = None,
        autapses: bool = False,
        dt: float = 0.001,
        implementation: str = "auto",
    ) -> None:
        weights = (input_weights, recurrent_weights, autapses)
        sizes = (input_size, hidden_size, p)
        super().__init__(*sizes, *weights, dt, None, implementation=implementation)

    def forward(self, input_tensor: Any, state: Any = None) -> tuple[Any, Any]:
        """One step from a state; from rest without one."""
        current = self._current(input_tensor)
        begins = self._begin(current, state, current.shape)
        z = torch.zeros_like(current) if begins is None else begins[2].to(current.dtype)
        y, ends = run_step(
            self.neuron,
            (current, F.linear(z, self._back())),
            begins,
            params=current_parameters(self, self.neuron),
            implementation=self.implementation,
        )
        return y, self._ended(ends, current)


@component("LIF", PAPER)
class LIFRecurrent(_Recurrent, SpikeloomSequence):
    r"""LIF whose spikes return through weights, a drop-in for ``norse.torch.LIFRecurrent``.

    .. math::
        j[t] &= i[t-1] + W_\mathrm{in}\,x[t] + W_\mathrm{rec}\,z[t-1] \\
        h[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((v_\mathrm{leak} - v[t-1]) + j[t]\bigr) \\
        z[t] &= \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = (1 - z[t])\,h[t] + z[t]\,v_\mathrm{reset},\qquad
        i[t] = j[t] - \Delta t\,\tau_\mathrm{syn}^{-1} j[t]

    The inputs' share is one product for the whole sequence, and the steps are one call with one
    node in autograd's graph, see :class:`spikeloom.Recurrent`. Where the sums of weights are exact,
    spikes and states equal Norse's to the last bit; elsewhere the order of a product's sums may
    differ in the last digit.

    Args:
        input_size: How many inputs there are.
        hidden_size: How many neurons there are.
        p: Norse's parameters; see :class:`LIF`.
        input_weights: ``[hidden_size, input_size]``: a Parameter is learned, another tensor is a
            buffer; None draws a Parameter as Norse does.
        recurrent_weights: ``[hidden_size, hidden_size]``, likewise.
        autapses: Whether a neuron's spikes return to itself. Otherwise the weights' diagonal is
            set to 0, and stays without effect and without a gradient.
        dt: Time step in seconds.
        record_states: Return the states after every step; the steps are then taken one by one.
        implementation: As for :class:`SpikeloomCell`.
        events_up_to: As for :class:`spikeloom.Recurrent`.

    Shape:
        - Input: ``[time, batch, input_size]``
        - Output: ``(spikes, LIFState(z, v, i))``: ``[time, batch, hidden_size]`` and ``[batch,
          hidden_size]``, with ``record_states`` both ``[time, batch, hidden_size]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite, or weights have another shape.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIFRecurrent
        >>> layer = LIFRecurrent(3, 2, input_weights=20 * torch.ones(2, 3))
        >>> spikes, state = layer(torch.ones(4, 1, 3))
        >>> spikes.shape, state.z.shape
        (torch.Size([4, 1, 2]), torch.Size([1, 2]))

    Source: Norse 1.1, ``norse.torch.module.lif.LIFRecurrent``.
    """

    _leading = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LIFParameters = LIFParameters(),
        *,
        input_weights: Tensor | None = None,
        recurrent_weights: Tensor | None = None,
        autapses: bool = False,
        dt: float = 0.001,
        record_states: bool = False,
        implementation: str = "auto",
        events_up_to: float | None = None,
    ) -> None:
        weights = (input_weights, recurrent_weights, autapses)
        sizes = (input_size, hidden_size, p)
        habits: dict[str, Any] = {"record_states": record_states, "implementation": implementation}
        super().__init__(*sizes, *weights, dt, events_up_to, **habits)

    def forward(
        self, input_tensor: Any, state: Any = None, lengths: Lengths = None
    ) -> tuple[Any, Any]:
        """A whole sequence from a state; from rest without one.

        Args:
            input_tensor: ``[time, batch, input_size]``.
            state: The state before the first step.
            lengths: How many steps each sequence of the batch has, as for :func:`spikeloom.run`.
        """
        current = self._current(input_tensor)
        begins = self._begin(current, state, current.shape[1:])
        if not self.record_states:
            y, ends = self._scan_back(current, begins, lengths)
            return y, self._ended(ends, current)
        if lengths is not None:
            raise ValueError("lengths: not with record_states=True; make a layer without it")
        spikes, states = [], []
        for now in current.split(1):
            y, begins = self._scan_back(now, begins, None)
            spikes.append(y)
            states.append(self._ended(begins, current))
        if not spikes:
            return current, LIFState(current, current, current)
        return torch.cat(spikes), LIFState(*map(torch.stack, zip(*states, strict=True)))

    def _scan_back(self, current: Tensor, begins: State | None, lengths: Lengths) -> Any:
        return run_with_feedback(
            self.neuron,
            current,
            self._back(),
            None,
            None if begins is None else begins[2].to(current.dtype),
            begins,
            params=current_parameters(self, self.neuron),
            implementation=self.implementation,
            threshold=self.events_up_to,
            lengths=lengths,
        )


@circuit_in(host.LIFRecurrent, host.LIFRecurrentCell)
def _circuit(module: Any) -> Circuit:
    neuron = described_lif(module)
    into, back = linear_of(module.input_weights), linear_of(module.recurrent_weights)
    return Circuit(neuron, neuron.params, into, back, begins_at_leak(module, neuron))


def _our_circuit(module: _Recurrent) -> Circuit:
    into, back = linear_of(module.input_weights), linear_of(module._back())
    neuron = described_lif(module)
    return Circuit(neuron, neuron.params, into, back, module._at_rest()[0])


@circuit_in(host.LILinearCell)
def _weighted(module: Any) -> Circuit:
    neuron, into = described_li(module), linear_of(module.input_weights)
    return Circuit(neuron, neuron.params, into, None, begins_at_leak(module, neuron))


# A description says nothing of the weights.
register(LIFRecurrentCell, replace(OUR_CELLS, describe=undescribed, circuit=_our_circuit))
register(LIFRecurrent, replace(OUR_SEQUENCES, describe=undescribed, circuit=_our_circuit))


@COUNTERPARTS.of(RecurrentCubaLIF)
def _native(module: _Recurrent, over_time: bool) -> nn.Module:
    settings = {
        "input_weights": module.input_weights,
        "recurrent_weights": module.recurrent_weights,
        "autapses": module.autapses,
        "dt": module.dt,
    }
    sizes = (module.input_size, module.hidden_size, module.p)
    if not over_time:
        return host.LIFRecurrentCell(*sizes, **settings)
    records: Any = module.record_states
    return host.LIFRecurrent(*sizes, record_states=records, **settings)
