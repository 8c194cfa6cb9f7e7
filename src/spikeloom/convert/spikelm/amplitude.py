"""The amplitude of bi-spiking neurons, set from the data that they see."""

from __future__ import annotations

import copy
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.hosted import Make, made, spikes_from_rest
from spikeloom.kernel.call import COMPUTED, run
from spikeloom.kernel.neuron import Neuron, Parameter, PerStep, kind, tensor_of
from spikeloom.kernel.promotion import promoted
from spikeloom.layer import SpikingLayer
from spikeloom.modules import Conventions, register
from spikeloom.ranks import added_up

__all__ = ["RULES", "BiSpikes", "measure_amplitude"]

RULES = ("first_batch", "moving_average", "learned", "fixed")


def measure_amplitude(
    neuron: Neuron, x: Tensor, *, k: float = 2.0, mask: Tensor | None = None
) -> Tensor:
    r"""The amplitude that a neuron's data ask for: ``k`` times a mean magnitude.

    .. math:: \alpha[t] = k\,\overline{|m[t]|}

    over all neurons of a step; each step's amplitude is in force when the next one is measured.
    An amplitude that all steps share is k times the mean of ``|x|`` over the steps, over all
    neurons or over those that share it. For Gaussian data a fraction :math:`\mathrm{erfc}(k / 2
    \sqrt\pi)` then fires, for Laplacian data :math:`e^{-k/2}`, at any scale: k controls the firing
    rate. In a distributed run the mean is over all ranks, so all get the same amplitude.

    Args:
        neuron: A neuron with the parameter ``alpha`` and one state that is added to the input,
            such as :class:`~spikeloom.neurons.ElasticBiSpike`.
        x: Input ``[T, batch, *]``.
        k: Amplitude per mean magnitude, positive.
        mask: ``[batch]`` or ``[batch, length]``: nonzero where values count, 0 for padding.

    Returns:
        Amplitudes, of the shape that ``alpha`` has; NaN where nothing counted.

    Raises:
        TypeError: If the neuron has no ``alpha``, or x is no floating-point tensor.
        ValueError: If the mask or the number of steps does not fit, k is not positive, or ``alpha``
            is a plain number.

    Example:
        >>> import torch
        >>> from spikeloom.neurons import ElasticBiSpike
        >>> neuron = ElasticBiSpike([1.0, 1.0])
        >>> measure_amplitude(neuron, torch.tensor([[1.0, -3.0], [2.0, 0.5]]))
        tensor([4.0000, 8.5000])

    Source: Xing et al., ICML 2024; k = 2 in the authors' code.
    """
    check_k(k)
    if not isinstance(neuron, Neuron) or "alpha" not in neuron.params:
        raise TypeError(f"neuron: must be one with the parameter alpha, got {neuron!r}")
    x = promoted(x, lambda: neuron.params)
    if not isinstance(x, Tensor) or x.dtype not in COMPUTED:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: must be a floating-point tensor [T, batch, *], got {got}")
    alpha = tensor_of(neuron.params["alpha"])
    if alpha is None:
        raise ValueError("alpha: a plain number cannot be set from data; give it as a tensor")
    is_table = kind(neuron.params["alpha"]) == "step"
    if not len(x) or (is_table and len(x) != len(alpha)):
        wanted = f"the {len(alpha)} steps of alpha" if is_table else "at least one step"
        raise ValueError(f"x: must have {wanted}, got T={len(x)}")
    x = x.detach().to(COMPUTED[x.dtype])
    counted = _counted(mask, x)
    if not is_table:
        return k * _mean_magnitude(x, counted.expand(x.shape[1:]).expand(x.shape), alpha.shape)
    found: list[Tensor] = []
    v = torch.zeros_like(x[0])
    for now in x:
        found.append(k * _mean_magnitude(v + now, counted.expand(now.shape), torch.Size()))
        # Any amplitude will do where nothing counted; the answer is NaN there.
        usable = torch.where(found[-1] > 0, found[-1], 1.0)
        step: dict[str, Parameter] = {"alpha": PerStep(usable[None])}
        _, (v,) = run(neuron, now[None], (v,), params=step)
    return torch.stack(found)


def _counted(mask: Tensor | None, x: Tensor) -> Tensor:
    """Which values of a step count, as 0 and 1, ready to broadcast."""
    if mask is None:
        return x.new_ones(())
    if mask.shape != x.shape[1 : 1 + mask.dim()]:
        raise ValueError(
            f"mask: must have the leading shape of a step, {tuple(x.shape[1:])}, "
            f"got {tuple(mask.shape)}"
        )
    ones = (mask != 0).to(x.dtype)
    return ones.reshape(*mask.shape, *(1,) * (x.dim() - 1 - mask.dim()))


def _mean_magnitude(m: Tensor, counted: Tensor, shape: torch.Size) -> Tensor:
    # NaN at a padded place must not reach the sum.
    magnitude = torch.where(counted > 0, m.abs(), 0.0).double()
    sums = torch.stack([part.sum_to_size(shape) for part in (magnitude, counted.double())])
    sums = added_up(sums)
    return (sums[0] / sums[1]).to(m.dtype)


class BiSpikes(nn.Module):
    """A bi-spiking neuron with the rule that sets its amplitude.

    Until its first batch a neuron has no amplitude; that batch sets it, from
    :func:`measure_amplitude`, before the batch fires. Then it stays (``"first_batch"``, as
    published), follows the data while training (``"moving_average"``) or learns (``"learned"``,
    a parameter from the start). ``"fixed"`` keeps what the neuron was made with. Whether a batch
    was seen is saved with the amplitude, so a loaded neuron measures nothing again.

    The amplitude is float32 in a network of half precision too, where a moving average would stand
    still, unless it learns. What activation checkpointing computes anew is not measured again.
    Nothing waits for the device, except at the first batch and the first one after loading.

    Args:
        neuron: The description, of which a copy is made; for rules other than ``"fixed"`` its
            ``alpha`` is a tensor, whose values are placeholders.
        k: Amplitude per mean magnitude.
        rule: ``"first_batch"``, ``"moving_average"``, ``"learned"`` or ``"fixed"``.
        momentum: Weight of a new batch in the moving average.
        make: Makes the module that runs the neuron, such as ``plugins.<host>.make``; it takes
            whole sequences and begins at rest in every call.

    Shape:
        - Input and output: ``[T, batch, *]``

    Raises:
        TypeError: If ``make`` makes no module.
        ValueError: If an argument is out of range; when called, if the first batch is all padding,
            all zero or not finite.

    Example:
        >>> import torch
        >>> from spikeloom.neurons import ElasticBiSpike
        >>> spikes = BiSpikes(ElasticBiSpike(torch.ones(1)))
        >>> spikes(torch.tensor([[[0.5, -2.0, 1.5, 0.0]]]))
        tensor([[[ 0., -2.,  2.,  0.]]])
        >>> spikes.amplitude
        tensor([2.])
    """

    batches: Tensor

    def __init__(
        self,
        neuron: Neuron,
        *,
        k: float = 2.0,
        rule: str = "first_batch",
        momentum: float = 0.1,
        make: Make = SpikingLayer,
    ) -> None:
        super().__init__()
        check_rule(k, rule, momentum)
        # Its own, because batches set the amplitude in place.
        self.node = made(make, copy.deepcopy(neuron))
        self.k = float(k)
        self.rule = rule
        self.momentum = float(momentum)
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        # Known without asking the device; None after loading.
        self._seen: bool | None = False
        # How many batches a calibration pass has averaged; None outside one.
        self.averaged: int | None = None

    @property
    def neuron(self) -> Neuron:
        """The description that runs; its amplitude may have moved on, see :attr:`amplitude`."""
        return self.node.neuron

    @property
    def amplitude(self) -> Any:
        """The amplitude now: a tensor, or the number that the neuron was made with."""
        return getattr(self.node, "alpha", self.neuron.params["alpha"])

    @property
    def is_set(self) -> bool:
        """Whether there is an amplitude: from a batch, or the one it was made with."""
        return self.rule == "fixed" or bool(self.batches > 0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Spikes for values; the mask says which of them set the amplitude."""
        if self.rule != "fixed":
            self._follow(x, mask)
        return spikes_from_rest(self.node, x)

    @torch.no_grad()
    def _follow(self, x: Tensor, mask: Tensor | None) -> None:
        if self._seen is None:
            self._seen = bool(self.batches > 0)
        if not self._seen:
            self._start(measure_amplitude(self.neuron, x, k=self.k, mask=mask))
            self._seen = True
        elif self.averaged is not None:
            self._average(x, mask, 1.0 / (self.averaged + 1))
        elif self.training and self.rule == "moving_average" and not _in_backward():
            self._average(x, mask, self.momentum)
        else:
            return
        self.batches += 1
        if self.averaged is not None:
            self.averaged += 1

    def _start(self, found: Tensor) -> None:
        if not bool((found.isfinite() & (found > 0)).all()):
            raise ValueError(
                "x: the first batch sets the amplitude, and must hold values that are neither all "
                f"padding, nor all zero, nor infinite; it gives {found.tolist()}"
            )
        self.amplitude.copy_(found)

    def _average(self, x: Tensor, mask: Tensor | None, weight: float) -> None:
        found = measure_amplitude(self.neuron, x, k=self.k, mask=mask)
        # A batch that says nothing (all padding, all zero) changes nothing.
        moved = torch.lerp(self.amplitude, found.to(self.amplitude.dtype), weight)
        self._set(torch.where(found > 0, moved, self.amplitude))

    def _set(self, found: Tensor) -> None:
        if isinstance(self.amplitude, nn.Parameter):
            self.amplitude.copy_(found)
        else:
            # A new tensor: the graph of a call that is still to be differentiated holds the old.
            self.node.alpha = found.to(self.amplitude.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> BiSpikes:
        before = self.amplitude
        super()._apply(fn, recurse)
        now = self.amplitude
        follows = isinstance(now, Tensor) and not isinstance(now, nn.Parameter)
        if follows and now.dtype in (torch.float16, torch.bfloat16):
            self.node.alpha = before.to(now.device, torch.float32)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._seen = None

    def extra_repr(self) -> str:
        """The rule."""
        return f"k={self.k:g}, rule={self.rule!r}"


# The neuron is the module within, and time may be folded into what comes in.
register(BiSpikes, Conventions(is_neuron=False))


def _in_backward() -> bool:
    """Whether a checkpoint computes anew what was measured in the forward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def check_k(k: float) -> None:
    """Refuse an amplitude per mean magnitude that is out of range."""
    if isinstance(k, bool) or not isinstance(k, Real) or not 0.0 < k < math.inf:
        raise ValueError(f"k: must be a positive finite number, got {k!r}")


def check_rule(k: float, rule: str, momentum: float) -> None:
    """Refuse settings of :class:`BiSpikes` that are out of range."""
    check_k(k)
    if rule not in RULES:
        raise ValueError(f"amplitude: must be a number or one of {RULES}, got {rule!r}")
    if not 0.0 < momentum <= 1.0:
        raise ValueError(f"momentum: must lie in (0, 1], got {momentum!r}")
