"""Signals, the places through which they pass, and what is known of a whole model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from spikeloom.export.tracing.feature_rows import Wire

__all__ = ["CONSEQUENCE", "FOLD", "INPUT", "Observation", "Signal", "Site", "ancestors", "state_of"]

INPUT = "the model's input"
CONSEQUENCE = "comes after an obstacle"
FOLD = "fold the norms into the weights first: spikeloom.verify.fold_norms(model)"
OWN_MODULE = "give each place a module of its own"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Signal:
    """What a tensor carries: consecutive steps of all samples, every feature in its place.

    Attributes:
        starts: The sites whose outputs it is the sum of, and for each the step it begins with.
        shape: Its shape for one sample at one step.
        readout: How it was reduced over time, if it was.
        spikes: The tensor before that reduction.
    """

    starts: tuple[tuple[str, int], ...]
    shape: Shape
    readout: str = ""
    spikes: Tensor | None = None

    @classmethod
    def of(cls, name: str, start: int, shape: Shape) -> Signal:
        """The output of one site."""
        return cls(((name, start),), shape)

    @property
    def sources(self) -> frozenset[str]:
        """The sites whose outputs it is the sum of."""
        return frozenset(name for name, _ in self.starts)


@dataclass
class Site:
    """A module, or an operation between modules, through which signals pass.

    Attributes:
        name: The module's name in the model; operations are named after where they stand.
        kind: The class's or the function's name.
        module: None for an operation.
        owner: Name and class of the user's module that it is, or that it stands in.
        shape_in: Shape of its input for one sample at one step.
        shape_out: Shape of its output.
        sources: The sites whose outputs it sums, and how many steps late each arrives.
        wires: How their features reach the rows that it acts on, if they were moved on the way.
        steps: How many time steps it has seen.
        heard: In how many of them each source was there.
        states: How many tensors of its state it gave out at its last call.
        inputs: Its inputs, call by call; kept for neurons only.
        outputs: Its outputs, likewise.
        obstacle: Why it cannot be exported, empty if it may be.
        remedy: What to do about it.
        derived: Whether an obstacle before it may be the cause.
        note: What the report should say about it.
        map: Its natural shape, where the signal was made flat for NIR.
    """

    name: str
    kind: str
    module: nn.Module | None
    owner: tuple[str, str]
    shape_in: Shape
    shape_out: Shape
    sources: dict[str, int] = field(default_factory=dict)
    wires: tuple[Wire, ...] = ()
    steps: int = 0
    heard: Counter[str] = field(default_factory=Counter)
    states: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    obstacle: str = ""
    remedy: str = ""
    derived: bool = True
    note: str = ""
    map: Shape = ()

    def block(self, obstacle: str, remedy: str, derived: bool = True) -> None:
        """Note the first reason why this site cannot be exported."""
        if not self.obstacle:
            self.obstacle, self.remedy, self.derived = obstacle, remedy, derived

    def hear(self, starts: Iterable[tuple[str, int]], steps: int) -> int:
        """Note a call of a module: which steps of its sources arrived; its own first step."""
        own = self.steps
        self._align(starts, own)
        self.heard.update({source: steps for source, _ in starts})
        self.steps += steps
        return own

    def relay(self, starts: Iterable[tuple[str, int]]) -> int:
        """Note an operation that has no time of its own: its step is the latest that arrived."""
        own = max((start for _, start in starts), default=0)
        self._align(starts, own)
        return own

    def _align(self, starts: Iterable[tuple[str, int]], own: int) -> None:
        for source, start in starts:
            if self.sources.setdefault(source, own - start) != own - start:
                self.block(
                    f"takes the steps of {source} out of their order, or at several places",
                    f"call it once for each step, in their order; {OWN_MODULE}",
                    derived=False,
                )

    def check_calls(self, total: int) -> None:
        """Refuse a module that has not seen every step of all its sources."""
        if self.steps != total:
            self.block(
                f"sees {self.steps} steps of an input of {total}",
                "call each module once for a sequence, or once in each step",
            )
        if self.steps == total and not self.sources:
            self.block("receives nothing that comes from the input", "leave it out")
        for source, late in self.sources.items():
            if self.heard[source] != total - late:
                self.block(
                    f"receives {source} in {self.heard[source]} of {total} steps",
                    "let every signal arrive at every step",
                )


@dataclass
class Observation:
    """The sites that the output depends on, in the order in which they first ran.

    Attributes:
        sites: By name.
        output: The sites whose outputs sum to the model's output.
        spikes: The model's output ``[T, batch, *]``, before any reduction over time.
        lead: T and the batch size.
        notes: What the export leaves out.
        readout: How the model reduces its output over time, if it does.
    """

    sites: dict[str, Site]
    output: tuple[str, ...]
    spikes: Tensor
    lead: tuple[int, int]
    notes: list[str]
    readout: str = ""

    def neurons(self) -> Iterator[Site]:
        """The sites of neurons."""
        return (site for site in self.sites.values() if site.outputs)


def state_of(name: str) -> str:
    """What the state of a neuron is called where it leaves the neuron.

    Args:
        name: The neuron's name.
    """
    return f"{name} (its state)"


def ancestors(sites: Mapping[str, Site], names: Iterable[str]) -> dict[str, Site]:
    """Some sites and all that lead to them, in the order of ``sites``.

    Args:
        sites: By name.
        names: Where to begin.
    """
    waiting, found = list(names), set(names)
    while waiting:
        for source in sites[waiting.pop()].sources:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return {name: site for name, site in sites.items() if name in found}
