"""A neuron's input gain into the weights in front."""

from __future__ import annotations

from torch import nn

from spikeloom.neurons.lif import LIF
from spikeloom.verify.fold.connections import main_input
from spikeloom.verify.fold.draft import Draft, lif_of
from spikeloom.verify.fold.plain import is_plain_norm, is_weight
from spikeloom.verify.fold.weights import scale_current

__all__ = ["fold_gains"]


def fold_gains(draft: Draft) -> None:
    """Divide by tau in the weights instead of in the neurons, in the whole model or nowhere."""
    neurons = {
        name: neuron
        for name in draft.connections.calls
        if (neuron := lif_of(draft.module(name))) is not None
    }
    problem, sources = _gain_sources(draft, neurons)
    remade = {} if problem else {n: draft.remade(n, decay_input=False) for n in neurons}
    new: dict[str, nn.Module] = {n: module for n, module in remade.items() if module is not None}
    if len(new) < len(remade):
        odd = ", ".join(remade.keys() - new.keys())
        problem = f"{odd}: has hooks, or is no module such as make makes"
    if problem:
        draft.report.notes.append(f"Input gains remain: {problem}.")
        return
    gain = 1.0 / next(iter(neurons.values())).settings()["tau"]
    for source in sources:
        scale_current(draft.module(source), gain)
    for name, module in new.items():
        draft.replace(name, module)
    draft.report.notes.append(f"Input gain {gain:.6g} is in the weights of {len(sources)} layers.")


def _gain_sources(draft: Draft, neurons: dict[str, LIF]) -> tuple[str, set[str]]:
    """Why the gain cannot be folded, if so, and the layers whose outputs would take it."""
    connections = draft.connections
    taus = {n.params.get("tau") if n.decay_input else None for n in neurons.values()}
    if len(taus) != 1 or not isinstance(next(iter(taus)), (int, float)):
        return "not every neuron divides its input by the same number tau", set()
    sources: set[str] = set()
    for name in neurons:
        for node in connections.calls[name]:
            for origin in connections.origins(main_input(node)):
                found = connections.name(origin)
                if not (is_weight(draft.module(found)) or is_plain_norm(draft.module(found))):
                    return f"{name} is fed by more than weight layers", set()
                sources.add(str(found))
    for source in sources:
        for node in connections.calls[source]:
            for user in connections.readers(node):
                if connections.name(user) not in neurons:
                    return f"{source} also feeds something that is no neuron", set()
    for name in (*sources, *neurons):
        if not connections.is_seen(name):
            return f"{name} is also read or called where torch.fx does not see it", set()
    return "", sources
