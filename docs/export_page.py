"""The documentation page "What can be exported, exactly", written by exporting everything.

Run ``python docs/export_page.py`` after a change; a test compares the two.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import nir
import torch
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.export.exporter import to_nir
from spikeloom.export.graph import dynamics
from spikeloom.export.refuse import NotExpressible
from spikeloom.export.report import ExportReport
from spikeloom.export.targets.profiles import PROFILES
from spikeloom.files import write_text
from spikeloom.layer import SpikingLayer
from spikeloom.modules import described_classes, frameworks
from spikeloom.neurons.described import Described, Variant

__all__ = ["export_page", "write_export_page"]

# Every graph has them.
PORTS = {nir.Input, nir.Output}
# What each flag of on_inexact leads to, the truest first.
OUTCOMES = {
    "raise": "exact",
    "subgraph": "subgraph",
    "approximate": "approximate",
    "extension": "extension",
}

INTRODUCTION = """# What can be exported, exactly

<!-- Written by `python docs/export_page.py`; change that, not this file. -->

`spikeloom.export.to_nir(model, sample)` writes a trained model as a
[NIR](https://neuroir.org) graph. It runs the model once on the sample, so time loops, hidden
states, wrappers and shortcuts need no preparation. It then writes the file, reads it back, runs it
and compares the spikes with the model's. What NIR cannot say is refused, all modules at once, each
with the reason, the measured error of the nearest node and the flag that would allow it.

```python
from spikeloom import export, plugins

graph, report = export.to_nir(model, sample, path="net.nir")  # sample: [T, batch, *]
print(report)
spikes = export.run_nir(export.read("net.nir"), sample)        # the reference interpreter
other = export.from_nir(graph, make=plugins.norse.make)        # a model that trains, in any host
```

What happens between modules is followed element by element and step by step, so it does not depend
on the numbers in the sample whether a permutation, a late signal or a reset is noticed. The
comparison at the end shows as much as the sample makes the model do: a layer that fires no spike on
it is named in the report's first note. A model that takes values out of torch, by `numpy()`,
`tolist()`, DLPack or `item()`, is refused. A tensor that does not come from the input is a
constant, whatever made it, and never a signal.

A module is taken for its class, or for its neuron, only if it does nothing else: a subclass with a
`forward` of its own, a `forward` replaced on the module and weights under a parametrisation are
refused. Of a model that returns several signals the first is written, and the report says so.

States of a NIR graph begin at 0. A potential that begins elsewhere (at `v_reset`, at Norse's leak
potential, or where SpikingJelly's `set_reset_value` puts it) is written as its distance from there,
thresholds, resets and leaks with it. The shift rounds, so a potential within rounding of the
threshold may be decided otherwise; on the sample that is compared, as all rounding is.

The time step `dt` stands in the graph's metadata. `run_nir` and `from_nir` take it from there;
a `dt` given to them wins, and without either it is 1e-4 s. They warn of a graph that states none
and whose neurons hardly move in such a step, as one that is meant in steps (an `IF` with r = 1):
that one wants `dt=1`.

`from_nir` makes a model in torch's default precision, whatever the graph's arrays have, and
`run_nir` computes in that of its input; `dtype=` asks for another. Neurons' constants have float32
precision, as files have it.

NIR files hold no checksums. `export.read` names what is wrong with most damaged files, but the HDF5
library may crash or stall on one whose bytes were changed; read what you do not trust in a process
of its own. No file makes spikeloom import anything: an extension can name only spikeloom's own
neurons.

The frameworks' own export calls are there under their own names: `export_to_nir` in
`plugins.spikingjelly` and `plugins.snntorch`, `to_nir` in `plugins.norse`; the graph's `report`
says what was compared. `plugins.<host>.to_host(net)` returns a copy with the framework's own
neurons, for exporters that know only those.

## Neurons

Verdicts, each found by exporting:

- **exact**: one node; the default allows nothing else.
- **subgraph**: exact as a few nodes; `on_inexact="subgraph"` allows it.
- **approximate**: one node, or a few, that come near; `on_inexact="approximate"` allows it, and the
  report states the error. The last column is its share of wrong outputs in a network of three
  neurons with weights in quarters, over 50 steps of random input: yours will differ.
- **extension**: a nested graph that only spikeloom reads; `on_inexact="extension"` allows it.

*portable* is the default target and stands for SpikingJelly, snnTorch and Norse: none of them may
silently compute anything else. Where one of them refuses a node with an error, the report
says so. A column says *refused* where the export is refused for that target.
"""

METHODS = """## Time in the file

**Few-spike neurons** (FewSpike, OAT, HG) sum their input over time and answer with K spikes. The
file has a node for each of the K comparisons, so all of this is one step: *each step of the file
carries a complete value*. A step of `Linear -> OAT -> Linear -> OAT` gives, for the input of that
step alone, the sum of the spikes that the model gives for it. The sample's steps are such values,
and they are what model and file are compared on. A bias is added once for a value; behind a
few-spike neuron, where the model adds it with each of the K spikes, it is written K times as large.
Decoders (`OAT(...).decoder()`) are written in the same way, in a model that computes with values
itself. Beside them no neuron may have a memory.

The spikes inside are those of the neuron to the bit, with its rule for ties. The output is their
weighted sum; it is exact in every reader if the thresholds have at most 24 - K significant bits,
and otherwise rounded in the order in which a reader adds. OAT with K = 16 and two ranges takes 263
nodes for a layer; a neuron of more than 2000 nodes is refused.

**Sign gradient descent**: relu, leaky_relu, abs and identity, with any schedule, are the neuron to
the bit: comparisons, and a clock that lets each step's size pass at its own step. That takes about
six nodes for each change of the step size. The file holds as many steps as the sample; afterwards
the estimate rests. Between neurons that send increments a bias would be added at every step, in the
model and in the file alike. A converted network (`convert.SignGD`) is written through
`network.as_layers()`, whose neurons send their estimates, so that its biases are right; its sample
is what the network takes. The file takes it at every step, and the last step of its output is what
the network returns.

```python
from spikeloom import convert, export

snn = convert.SignGD(steps=16).apply(model, calibration)
graph, report = export.to_nir(snn, x, on_inexact="subgraph")
y = export.run_nir(graph, x.expand(16, *x.shape))[-1]           # snn(x)
```

Its feedback needs care from readers: NIR does not say where in a loop a step ends. Here it ends
where the loop is entered. nirtorch runs nodes in the order of their names and agrees as long as the
modules' names sort in the order in which they run, as those of a Sequential do.

**ElasticBiSpike** over several steps multiplies its membrane by its spike, which NIR cannot. Over a
single step (a sample with T = 1) no memory is used, and two Thresholds are exact.
"""

LAYERS = """## Layers

| Layer | NIR | Remarks |
|---|---|---|
| `Linear` | `Affine`, `Linear` | on one axis; flatten first, or see below |
| `Conv1d`, `Conv2d` | `Conv1d`, `Conv2d` | zero padding; zeros fill groups and uneven kernels |
| `AvgPool2d` | `AvgPool2d`, `SumPool2d` | without `ceil_mode`, padding counted |
| `AdaptiveAvgPool2d` | `AvgPool2d` | sizes that divide; it divides once where torch divides by \
height and width in turn, so the last bit may differ |
| `Flatten`, `x.flatten(...)` | `Flatten` | all axes after time and batch |
| `BatchNorm1d`, `BatchNorm2d` | - | folded into the weights right before it |
| `Dropout`, `Identity` | - | vanish |
| `Unflatten` | - | followed; a layer behind it is a matrix over all features, see below |
| `spikeloom.Recurrent` | its neuron, and a `Linear` on an edge back to it | the edge \
carries the step before; a bias of that weight is refused, since NIR would leave it out at first |
| `a + b` | two edges | different signals of one shape |
| `x.mean(0)`, `x.sum(0)` as the last operation | - | left to the reader |

SpikingJelly's layers of the same names are taken like torch's. Everything else (max pooling,
layer normalisation, softmax, products) has no NIR counterpart and is refused.

Linear layers, convolutions and pools behind permutations, concatenations, unflattenings or
selections of features can be written as matrices over all features, zeros included:
`dense_token_mixing=True`. The report states their size, at most 1 GiB for a model; without the flag
the error does.

Pruned and quantised weights are written as float32, zeros included, since NIR has no sparse or
packed form. What `spikeloom.compress` left on a layer stands in the node's metadata
(`weight_bits`, `weight_scale`, `weight_sparsity`), which no reader needs.

A network from `from_nir`, recurrent or not, is written again as the graph it came from, with its
present weights.
"""

HOSTS = """## The frameworks' own neurons

A framework's own neuron is written like spikeloom's if it is of one of these classes, or of a
subclass that overrides none of their methods:

{table}
A recurrent module is written as its neuron, the weights before it, and one edge back through the
weights through which its spikes return; so are `spikeloom.Recurrent` and spikeloom's `RLeaky`,
`LIFRecurrent` and `LinearRecurrentContainer`.

Every other class of a framework that computes over time is refused by its name, filters and
encoders included. The calls of the same names in `spikeloom.plugins` write what this page lists.

{containers}
"""

TIES = """## Thresholds, rounding and ties

SpikingJelly fires at the threshold, snnTorch, Norse and NIR above it. Where potentials lie on a
grid, as with quantised weights, they meet the threshold often. A neuron that fires at the
threshold is therefore written with the next smaller float32; for targets that include SpikingJelly,
a neuron that fires above it is written with the next larger one. Both are then decided alike by
every reader.

The frameworks also compute the same formula in a different order. For time constants of a power of
two steps this makes no difference; for others it decides about spikes whose potential lies within
rounding of the threshold. The report's `readers` holds the share of the sample's output that each
framework's arithmetic changes.
"""


def export_page() -> str:
    """The page as Markdown."""
    parts = [
        INTRODUCTION,
        _neurons(),
        METHODS,
        LAYERS,
        _hosts(),
        TIES,
        _targets(),
        _dynamics(),
    ]
    return "\n".join(part.strip() + "\n" for part in parts)


def write_export_page(path: str | Path) -> None:
    """Write the page.

    Args:
        path: The file; an older one is replaced.
    """
    write_text(path, export_page())


def _neurons() -> str:
    rows = []
    for kind in _described():
        for variant in kind.variants():
            cells = [_outcome(variant, target) for target in PROFILES]
            near = _export(variant, "nir", "approximate")
            error = f"{near.mismatch:.1%}" if near and _is_near(near) else ""
            name = ", ".join(filter(None, (kind.__name__, variant.label)))
            rows.append([name, _form(variant), *cells, error])
    return _table(["Neuron", "Written as", *PROFILES, "error if approximated"], rows)


def _described() -> list[type[Described]]:
    """Spikeloom's neurons, in the order of their names."""
    found = [getattr(neurons, name) for name in neurons.__all__]
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, Described)]


def _outcome(variant: Variant, target: str) -> str:
    for flag, word in OUTCOMES.items():
        if _export(variant, target, flag):
            return word
    return "refused"


def _form(variant: Variant) -> str:
    for flag in OUTCOMES:
        report = _export(variant, "nir", flag)
        if report:
            kinds = [entry.split()[-1] for entry in str(report.column("nodes")[1]).split(", ")]
            return ", ".join(f"`{kind}`" for kind in kinds)
    return ""


def _is_near(report: ExportReport) -> bool:
    return "APPROXIMATE" in report.column("verdict")


def _export(variant: Variant, target: str, flag: str) -> ExportReport | None:
    """What exporting a small network of a neuron reports; None if it is refused."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), SpikingLayer(variant.neuron))
    net[0].weight.data = _quarters(torch.randn(3, 4, generator=generator))
    sample = _quarters(torch.randn(variant.steps, 16, 4, generator=generator))
    try:
        return to_nir(net, sample, on_inexact=flag, target=target)[1]
    except NotExpressible:
        return None


def _quarters(values: Tensor) -> Tensor:
    return values.mul(4).round().div(4)


def _hosts() -> str:
    """Which of the frameworks' own classes are written."""
    rows, followed = [], []
    for framework in frameworks():
        taken = [
            f"`{name}`" + (f" with {settings}" if settings else "")
            for name, settings in described_classes(framework).items()
        ]
        rows.append([framework.title, ", ".join(taken)])
        followed += sorted(f"`{cls.__name__}`" for cls in framework.followed)
    table = _table(["Framework", "Written"], rows)
    containers = textwrap.fill(
        f"The exporter looks into containers: `nn.Sequential` and what derives from it, "
        f"{', '.join(followed[:-1])} and {followed[-1]}. It also looks into your own modules.",
        width=100,
    )
    return HOSTS.format(table=table, containers=containers)


def _targets() -> str:
    rows = []
    for profile in PROFILES.values():
        rules = {f"{', '.join(kind.__name__ for kind in rule.kinds)}: {rule.remedy}"
                 + (" (read wrongly otherwise)" if rule.silent else "")
                 for rule in profile.rules}  # fmt: skip
        kinds = sorted(kind.__name__ for kind in (profile.reads or set()) - PORTS)
        reads = ", ".join(profile.members) or ", ".join(kinds) or "everything"
        rows.append([f"`{profile.name}`", reads, "; ".join(sorted(rules)), profile.checked])
    return "## Targets\n\n" + _table(["Target", "Reads", "Asks for", "How we know"], rows)


def _dynamics() -> str:
    """The interpreter in its own words."""
    _, words = str(dynamics.__doc__).split("\n\n", 1)
    return f"## One time step\n\n```text\n{words.strip()}\n```"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    write_export_page(Path(__file__).with_name("export.md"))
