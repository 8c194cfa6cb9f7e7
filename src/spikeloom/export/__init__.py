"""Trained networks as NIR graphs: written, read back and compared.

>>> from spikeloom import export
>>> graph, report = export.to_nir(model, sample, path="net.nir")     # doctest: +SKIP
>>> print(report)                                                    # doctest: +SKIP
>>> spikes = export.run_nir(export.read("net.nir"), sample)          # doctest: +SKIP
"""

try:
    import nir  # noqa: F401
except ImportError as error:
    raise ImportError('spikeloom.export needs nir: pip install "spikeloom[nir]"') from error

from spikeloom.export.exporter import to_nir
from spikeloom.export.graph.description import describe, draw
from spikeloom.export.graph.interpreter import Network, from_nir, run_nir
from spikeloom.export.graph.storage import read, write
from spikeloom.export.refuse import NotExpressible, Offence, Verdict
from spikeloom.export.report import ExportReport
from spikeloom.export.targets.profiles import PROFILES

__all__ = [
    "PROFILES",
    "ExportReport",
    "Network",
    "NotExpressible",
    "Offence",
    "Verdict",
    "describe",
    "draw",
    "from_nir",
    "read",
    "run_nir",
    "to_nir",
    "write",
]
