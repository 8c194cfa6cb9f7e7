"""A neuron's input gain into the weights in front."""

from __future__ import annotations

from spikeloom.neurons.lif import LIF
from spikeloom.verify.fold.draft import Draft, neuron_of
from spikeloom.verify.fold.weights import is_plain_norm, is_weight, scale_current

__all__ = ["fold_gains"]


def fold_gains(draft: Draft) -> None:
    """Divide by tau in the weights instead of in the neurons, in the whole model or nowhere."""
    neurons = {
        name: neuron
        for name in draft.connections.calls
        if isinstance(neuron := neuron_of(draft.module(name)), LIF)
    }
    problem, sources = _gain_sources(draft, neurons)
    if problem:
        draft.report.notes.append(f"Input gains remain: {problem}.")
        return
    gain = 1.0 / next(iter(neurons.values())).settings()["tau"]
    for source in sources:
        scale_current(draft.module(source), gain)
    for name in neurons:
        draft.replace(name, draft.make(LIF(**{**draft.settings(name), "decay_input": False})))
    draft.report.notes.append(f"Input gain {gain:.6g} is in the weights of {len(sources)} layers.")


def _gain_sources(draft: Draft, neurons: dict[str, LIF]) -> tuple[str, set[str]]:
    """Why the gain cannot be folded, if so, and the layers whose outputs would take it."""
    taus = {n.params.get("tau") if n.decay_input else None for n in neurons.values()}
    if len(taus) != 1 or not isinstance(next(iter(taus)), (int, float)):
        return "not every neuron divides its input by the same number tau", set()
    sources: set[str] = set()
    for name in neurons:
        for graph, node in draft.connections.calls[name]:
            for origin in draft.connections.origins(graph, node.args[0]):
                found = graph.name(origin)
                if not (is_weight(draft.module(found)) or is_plain_norm(draft.module(found))):
                    return f"{name} is fed by more than weight layers", set()
                sources.add(str(found))
    for source in sources:
        for graph, node in draft.connections.calls[source]:
            for user in draft.connections.readers(graph, node):
                if graph.name(user) not in neurons:
                    return f"{source} also feeds something that is no neuron", set()
    return "", sources
