"""How Norse's modules behave, and which of its neurons have a description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import norse.torch as host
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.modules import Conventions, Framework, register, register_framework, undescribed

__all__ = ["OUR_CELLS", "OUR_SEQUENCES"]


def _our_begins(module: Any, neuron: Neuron) -> Parameter | None:
    """The leak potential, for example, which may be learned."""
    return module._at_rest()[0] if neuron.rest else None


OUR_SEQUENCES = Conventions(begins=_our_begins)
OUR_CELLS = replace(OUR_SEQUENCES, takes_steps=lambda cell: True)
SEQUENCES = Conventions(describe=undescribed, decisive=None)
CELLS = replace(SEQUENCES, takes_steps=lambda cell: True)
NEURONS = (SNN, SNNCell, SNNRecurrent, SNNRecurrentCell, host.LILinearCell)
CONTAINERS = (host.Lift, host.RecurrentSequential, host.RegularizationCell, host.SequentialState)

for cls in (*NEURONS, *vars(host).values()):
    home = getattr(cls, "__module__", "")
    if isinstance(cls, type) and home.startswith("norse.torch.module.") and cls not in CONTAINERS:
        conventions = CELLS if cls.__name__.endswith("Cell") else SEQUENCES
        register(cls, replace(conventions, is_neuron=issubclass(cls, NEURONS)))
register_framework(
    "norse",
    Framework(
        "Norse",
        homes=("norse.torch.module.",),
        followed=CONTAINERS[:3],
    ),
)
