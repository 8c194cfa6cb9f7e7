"""What a target's readers make of a graph, and whether that stops its export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import nir

from spikeloom.export.graph.execution_plan import Edge, delayed_edges, first_out_of_order
from spikeloom.export.targets.profile import Finding, Profile
from spikeloom.export.targets.profiles import ONE_THRESHOLD, PROFILES

__all__ = [
    "findings",
    "fires_at_threshold",
    "judged",
    "needs_one_threshold",
    "readers",
    "wants_whole_inputs",
]


def findings(
    target: str, nodes: dict[str, nir.NIRNode], edges: Sequence[Edge], dt: float
) -> Iterator[Finding]:
    """Every restriction of a target that some node violates.

    Args:
        target: A name in :data:`PROFILES`; ``portable`` asks all of its members.
        nodes: The nodes by name.
        edges: Between them, in the order of the file.
        dt: Time step in seconds.
    """
    profile = PROFILES[target]
    for member in profile.members:
        yield from findings(member, nodes, edges, dt)
    yield from _unfit_nodes(profile, nodes, dt)
    if not profile.reads_edges_back:
        for _, name in sorted(delayed_edges(edges)):
            problem, remedy = "it has an edge back to it", "read it with spikeloom.export.from_nir"
            yield Finding(name, type(nodes[name]).__name__, target, problem, remedy, silent=False)
    # A reader that refuses a node never comes to run the graph.
    if profile.runs_depth_first and all(type(n) in (profile.reads or ()) for n in nodes.values()):
        start, end = (_the_only(nodes, kind) for kind in (nir.Input, nir.Output))
        early = first_out_of_order(edges, start, end)
        if early is not None:
            problem = "the reader runs it before its sources on another branch"
            remedy = "read it with spikeloom.export.from_nir"
            kind = type(nodes[early]).__name__
            yield Finding(early, kind, target, problem, remedy, silent=True)


def _the_only(nodes: dict[str, nir.NIRNode], kind: type) -> str:
    return next(name for name, node in nodes.items() if isinstance(node, kind))


def _unfit_nodes(profile: Profile, nodes: dict[str, nir.NIRNode], dt: float) -> Iterator[Finding]:
    """Nodes that a reader does not take, or not like this."""
    for name, node in nodes.items():
        kind = type(node).__name__
        if profile.reads is not None and type(node) not in profile.reads:
            problem = f"it does not read {kind}"
            yield Finding(name, kind, profile.name, problem, "", silent=False)
            continue
        for rule in profile.rules:
            if isinstance(node, rule.kinds) and rule.broken(node, dt):
                yield Finding(name, kind, profile.name, rule.problem, rule.remedy, rule.silent)


def judged(
    target: str, nodes: dict[str, nir.NIRNode], edges: Sequence[Edge], dt: float
) -> tuple[list[Finding], list[str]]:
    """The findings that stop an export, and what to say about the others.

    Silent errors of a reader always stop; refusals stop if that reader was asked for.

    Args:
        target: A name in :data:`PROFILES`.
        nodes: The nodes by name.
        edges: Between them, in the order of the file.
        dt: Time step in seconds.
    """
    asked = not PROFILES[target].members
    stops: list[Finding] = []
    loud: dict[str, set[str]] = {}
    for finding in findings(target, nodes, edges, dt):
        if finding.silent or asked:
            stops.append(finding)
        else:
            problems = loud.setdefault(finding.reader, set())
            problems.add(f"{finding.kind}: {finding.problem}")
    notes = [
        f"{reader} does not read the file as meant: {'; '.join(sorted(problems))}."
        for reader, problems in loud.items()
    ]
    return stops, notes


def needs_one_threshold(target: str) -> bool:
    """Whether a reader of this target takes layers with one threshold only.

    Args:
        target: A name in :data:`PROFILES`.
    """
    return any(ONE_THRESHOLD in reader.rules for reader in readers(target))


def fires_at_threshold(target: str) -> bool:
    """Whether a reader of this target fires at the threshold, not only above.

    Args:
        target: A name in :data:`PROFILES`.
    """
    return any(reader.fires_at_threshold for reader in readers(target))


def wants_whole_inputs(target: str) -> bool:
    """Whether the readers of this target add an input of a leaky neuron as it is.

    Args:
        target: A name in :data:`PROFILES`.
    """
    return PROFILES[target].wants_whole_inputs


def readers(target: str) -> list[Profile]:
    """The readers that a target stands for.

    Args:
        target: A name in :data:`PROFILES`.
    """
    return [PROFILES[name] for name in PROFILES[target].members or (target,)]
