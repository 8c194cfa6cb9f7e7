"""check_mfi: three independent proofs that a network multiplies nothing behind its stem.

1. Value kinds along every edge say that weights only meet spikes or whole numbers, whatever the
   data (:mod:`spikeloom.verify.static`).
2. The network runs on additions, comparisons, selections and gathers alone
   (:mod:`spikeloom.verify.gather`).
3. That run equals the dense network in float64.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from spikeloom.calibrate import Batch, arguments_of
from spikeloom.hosted import copied, to_rest
from spikeloom.modules import carried, registered
from spikeloom.names import check_names
from spikeloom.report import Report
from spikeloom.verify.gather import Gathering
from spikeloom.verify.sealed import Unfollowed
from spikeloom.verify.static import Finding, KindTrace

__all__ = ["MFIReport", "check_mfi", "checked_sample", "exact_copy"]

# Re-associated float64 sums of a few thousand terms; a flipped spike is far above.
TOLERANCE = 1e-9
# Attributes that every module has.
TORCHS = frozenset(vars(nn.Module()))


@dataclass
class MFIReport(Report):
    """What :func:`check_mfi` found; counts are totals over the sample.

    Attributes:
        violations: The offending modules, by name; ``"sample"`` for a sample that proves nothing.
        proofs: Whether each proof holds: ``static``, ``guarded``, ``equal``.
        difference: Largest difference between the gathered and the dense outputs, in float64;
            infinite if they do not compare, or values left torch.
        exempt: Modules that may multiply, as given, or the one that computes the stem;
            ``"(model)"`` if that is the model's own forward.
        accumulates: Synaptic additions, of weights that are not 0.
        additions: Other additions: skips, leaks, pools.
        comparisons: Comparisons.
        multiplications: Multiplications that remain outside exempt modules.
        exempt_multiplications: Multiplications in exempt modules.
        operations: Torch operations of the guarded run, by name.
    """

    violations: list[str] = field(default_factory=list)
    proofs: dict[str, bool] = field(default_factory=dict)
    difference: float = 0.0
    exempt: list[str] = field(default_factory=list)
    accumulates: int = 0
    additions: int = 0
    comparisons: int = 0
    multiplications: int = 0
    exempt_multiplications: int = 0
    operations: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all three proofs hold."""
        return not self.violations and all(self.proofs.values())

    def as_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes."""
        own = {f.name for f in fields(self)} - {f.name for f in fields(Report)}
        numbers = {name: getattr(self, name) for name in sorted(own)}
        return {**super().as_dict(), "ok": self.ok, **numbers}


@torch.inference_mode(False)  # tensors made there hide what operations are made of
def check_mfi(model: nn.Module, sample: Any, *, exempt: Collection[str] | None = None) -> MFIReport:
    """Prove that a network needs no multiplication at inference, or say which modules do.

    Whether a layer's input is binary is never decided by looking at the sample's values. Products
    and quotients by powers of two are shifts, products with spikes are selections.

    What the forward computes outside of torch would escape a proof, so it may not: a module that
    takes values out by ``numpy()``, ``tolist()``, DLPack, a storage or an address, or writes what
    depends on the sample to a tensor that is neither made in the forward nor a buffer of the model,
    is a violation, and the proofs end there. A tensor that comes from elsewhere, such as an array
    of numbers, can then only be a constant. Two things are taken on trust: that the forward reads
    the sample from its arguments alone, and that it does not search the watched tensors for their
    hidden values.

    Args:
        model: In eval mode, made of torch layers (or a host's, derived from them) and spikeloom
            neurons; its norms folded by :func:`~spikeloom.verify.fold_norms`. It is not changed.
        sample: A batch, as :func:`spikeloom.calibrate.arguments_of` takes it: a tensor, a tuple of
            the arguments that have no defaults, or a mapping of keyword arguments. A few samples
            suffice; the guarded run is slow.
        exempt: Names of modules that may multiply. None exempts the stem alone: the first weight
            layer that runs, where it multiplies the sample by its weight, and no other operation
            of the module that calls it.

    Returns:
        The report; ``ok`` and ``violations`` are the verdict.

    Raises:
        TypeError: If the model is no module or one of torch.jit, the sample holds no tensor or too
            few arguments, or ``exempt`` is one string.
        ValueError: If the model is in training mode, cannot be copied, the sample is on another
            device or has no axis for its samples, an exempt module does not exist, or a forward
            changes the dtype, so that the model cannot run in float64.

    Example:
        >>> import torch, spikeloom
        >>> from torch import nn
        >>> from spikeloom.verify import check_mfi
        >>> lif = spikeloom.SpikingLayer(spikeloom.neurons.LIF())
        >>> net = nn.Sequential(nn.Linear(4, 8), lif, nn.Linear(8, 2)).eval()
        >>> check_mfi(net, 3 * torch.rand(5, 1, 4)).ok
        True
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        >>> check_mfi(net, torch.rand(5, 1, 4)).violations
        ['2']
    """
    batch = checked_sample(model, sample)
    check_names("exempt", exempt or (), model)
    batch = Batch(*tree_map(_double, (batch.args, batch.kwargs)))
    trace = KindTrace(None if exempt is None else frozenset(exempt))
    gathering, difference = Gathering(()), float("inf")
    try:
        dense = trace.run(_promoting(exact_copy(model)), batch)
        gathering = Gathering(trace.exempt, trace.dense)
        difference = _difference(dense, gathering.run(_promoting(exact_copy(model)), batch))
    except Unfollowed as problem:
        for proof in (trace, gathering):
            proof.findings.append(Finding(problem.module, problem.why))
    return _report(model, batch, trace, gathering, difference)


def checked_sample(model: nn.Module, sample: Any) -> Batch:
    """The arguments that a sample stands for, and what every verification on it needs.

    Args:
        model: The model.
        sample: A batch as :func:`spikeloom.calibrate.arguments_of` takes it.

    Raises:
        TypeError: If one is of another type.
        ValueError: If the model is in training mode, or the sample on another device.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"model: {repr(name) if name else 'it'} is a ScriptModule, which cannot be "
                f"watched; give the model as it was before torch.jit"
            )
    batch = arguments_of(model, sample, name="sample")
    tensors = _tensors(batch)
    if not tensors:
        raise TypeError(f"sample: must be a tensor, or hold tensors, got {type(sample).__name__}")
    if model.training:
        raise ValueError("model: is in training mode; call model.eval()")
    own = next((p.device for p in (*model.parameters(), *model.buffers())), None)
    for tensor in tensors:
        if own is not None and tensor.device != own:
            raise ValueError(
                f"sample: is on {tensor.device}, the model on {own}; sample.to({str(own)!r})"
            )
    return batch


def _tensors(batch: Batch) -> list[Tensor]:
    leaves = tree_leaves((batch.args, batch.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def exact_copy(model: nn.Module) -> nn.Module:
    """A copy in float64 whose neurons are at rest and run as traced programs.

    Args:
        model: Is not changed.

    Raises:
        ValueError: If it cannot be copied.
    """
    model = copied("model", model).double()
    for module in model.modules():
        neuron = carried(module)
        if neuron is not None and neuron.program is not None:
            module.implementation = "auto"  # type: ignore[assignment]  # no tensor or module
    to_rest(model)
    return model


def _promoting(model: nn.Module) -> nn.Module:
    """Let the neurons of a copy in float64 promote counts, events and states to float64 too."""

    def promote(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map(_counts_to_double, (args, kwargs))

    for module in model.modules():
        if carried(module) is not None:
            module.register_forward_pre_hook(promote, with_kwargs=True)
            if registered(type(module)) is None:
                own = vars(module)
                own.update({key: tree_map(_double, own[key]) for key in own.keys() - TORCHS})
    return model


def _counts_to_double(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or leaf.is_floating_point() or leaf.is_complex():
        return leaf
    return leaf.double()


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _difference(a: Any, b: Any) -> float:
    """The largest difference between two outputs; infinite if they do not compare."""
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    gaps = [(x - y).detach().abs().max() for x, y in pairs if isinstance(x, Tensor) and x.numel()]
    largest = float(torch.stack(gaps).max()) if gaps else 0.0
    return largest if largest == largest else float("inf")


def _report(
    model: nn.Module, batch: Batch, trace: KindTrace, gathering: Gathering, difference: float
) -> MFIReport:
    exempt = sorted(trace.exempt if trace.stem is None else {trace.stem})
    findings = {"static": trace.findings, "guarded": gathering.findings}
    report = MFIReport(
        "Multiplication-free inference",
        ("module", "layer", "input", "verdict"),
        proofs={proof: not found for proof, found in findings.items()},
        difference=difference,
        exempt=[name or "(model)" for name in exempt],
        accumulates=sum(gathering.accumulated.values()),
        additions=trace.additions,
        comparisons=trace.comparisons,
        multiplications=trace.multiplications,
        exempt_multiplications=trace.exempt_multiplications,
        operations=dict(gathering.operations.most_common()),
    )
    report.proofs["equal"] = difference <= TOLERANCE
    reasons = _reasons(findings)
    modules = dict(model.named_modules())
    for name in dict.fromkeys((*trace.inputs, *reasons)):
        kinds = ", ".join(sorted(str(kind) for kind in trace.inputs.get(name, ())))
        verdict = "; ".join(reasons.get(name, ())) or ("exempt" if name in exempt else "free")
        report.add(name or "(model)", type(modules[name]).__name__, kinds or "-", verdict)
    report.violations = [name or "(model)" for name in reasons]
    if not any(bool(tensor.any()) for tensor in _tensors(batch)):
        why = "is all zeros: running it proves nothing; give a real sample"
        report.violations.append("sample")
        report.add("sample", "-", "-", why)
    _summarise(report, [name for name in trace.inputs if name not in gathering.accumulated])
    return report


def _reasons(findings: dict[str, list[Finding]]) -> dict[str, list[str]]:
    """Why a module violates, each reason once; the static proof's reasons say more."""
    reasons: dict[str, list[str]] = {}
    for found in findings.values():
        known = set(reasons)
        for module, why in found:
            if module not in known and why not in reasons.setdefault(module, []):
                reasons[module].append(why)
    return reasons


def _summarise(report: MFIReport, silent: list[str]) -> None:
    verdicts = ", ".join(f"{proof} {'yes' if ok else 'NO'}" for proof, ok in report.proofs.items())
    report.notes += [
        f"{'Multiplication free' if report.ok else 'NOT multiplication free'}; proofs: {verdicts} "
        f"(largest difference {report.difference:.2g}).",
        f"{report.accumulates:,} synaptic additions, {report.additions:,} other additions, "
        f"{report.comparisons:,} comparisons, {report.multiplications:,} multiplications; "
        f"exempt: {', '.join(report.exempt) or 'nothing'} "
        f"({report.exempt_multiplications:,} multiplications).",
    ]
    silent = [name or "(model)" for name in silent]
    silent = [name for name in silent if name not in report.exempt]
    if silent:
        report.notes.append(f"No spike reached: {', '.join(silent)}.")
