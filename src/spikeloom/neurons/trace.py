"""Linear filters: what a membrane does without a threshold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import Rule
from spikeloom.neurons.described import Described

__all__ = ["Trace"]

SHARE = Rule("must lie in [0, 1]", lambda d: (d >= 0.0) & (d <= 1.0))


class Trace(Described):
    r"""An exponential trace of its input: a neuron that never fires and never resets.

    .. math::
        z[t] = d\,z[t-1] + x[t]

    With a synaptic stage in front:

    .. math::
        i[t] = d_\mathrm{syn}\,i[t-1] + x[t],\qquad z[t] = d\,z[t-1] + i[t]

    The output is the trace itself, so ``decay=0`` is the identity.

    Args:
        decay: d, the share of the trace that a step keeps, in [0, 1]: a number, or a tensor
            (0-d shared, otherwise per neuron; a Parameter is learned).
        synaptic_decay: The same for the first stage; None leaves it out.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value lies outside [0, 1].

    State: ``z``, and ``i`` with a synaptic stage.

    Example:
        >>> import torch, spikeloom
        >>> trace, _ = spikeloom.run(spikeloom.neurons.Trace(0.5), torch.ones(4, 1))
        >>> trace.flatten()
        tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """

    rules = Fixed({"decay": SHARE, "synaptic_decay": SHARE})

    def __init__(self, decay: float | Tensor, synaptic_decay: float | Tensor | None = None) -> None:
        params = {"decay": decay}
        if synaptic_decay is not None:
            params["synaptic_decay"] = synaptic_decay
        state = ("z",) if synaptic_decay is None else ("z", "i")
        super().__init__(self._step, state=state, params=params, name="Trace")

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        if len(state) == 1:
            z = p.decay * state[0] + x
            return z, (z,)
        i = p.synaptic_decay * state[1] + x
        z = p.decay * state[0] + i
        return z, (z, i)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {"decay": self.params["decay"], "synaptic_decay": self.params.get("synaptic_decay")}
