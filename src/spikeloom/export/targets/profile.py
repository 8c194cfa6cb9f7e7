"""What a target is: the nodes that a reader takes, and the rules for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nir

from spikeloom.kernel.neuron import Neuron

__all__ = ["Finding", "Profile", "Rule"]


@dataclass(frozen=True)
class Finding:
    """A restriction that a node violates.

    Attributes:
        node: The node's name.
        kind: Its class.
        reader: Who reads it so.
        problem: What it violates.
        remedy: What to change; empty if only another reader helps.
        silent: Whether the reader computes something else instead of refusing.
    """

    node: str
    kind: str
    reader: str
    problem: str
    remedy: str
    silent: bool

    @property
    def refusal(self) -> tuple[str, str]:
        """Reason and remedy, where it stops the export."""
        reason = f"as {self.kind} for {self.reader}: {self.problem}"
        others = 'choose another target, such as target="nir"'
        return reason, f"{self.remedy}, or {others}" if self.remedy else others


@dataclass(frozen=True)
class Rule:
    """One restriction of a reader.

    Attributes:
        kinds: The node classes it applies to.
        broken: Whether a node violates it, at a time step.
        problem: What to say.
        remedy: What to change.
        silent: Whether the reader computes something else instead of refusing.
    """

    kinds: tuple[type, ...]
    broken: Callable[[nir.NIRNode, float], bool]
    problem: str
    remedy: str
    silent: bool = False


@dataclass(frozen=True)
class Profile:
    """What a reader takes.

    Attributes:
        name: The target's name.
        reads: Node classes that it takes; None for all.
        rules: Restrictions on them.
        checked: How we know.
        arithmetic: How it computes a LIF or IF node, where that is known.
        fires_at_threshold: Whether its neurons fire at the threshold, not only above.
        members: Readers that the target stands for.
        wants_whole_inputs: Whether it takes an input of a leaky neuron as it is, whatever r says.
        reads_edges_back: Whether it takes graphs with a loop.
        runs_depth_first: Whether it runs nodes as it meets them, before sources on other branches.
    """

    name: str
    reads: frozenset[type] | None
    rules: tuple[Rule, ...] = ()
    checked: str = "checked against documentation only"
    arithmetic: Callable[[nir.LIF | nir.IF, float], Neuron] | None = None
    fires_at_threshold: bool = False
    members: tuple[str, ...] = ()
    wants_whole_inputs: bool = False
    reads_edges_back: bool = True
    runs_depth_first: bool = False
