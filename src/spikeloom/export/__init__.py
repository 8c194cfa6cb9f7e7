"""Trained networks as NIR graphs: written, read back and compared."""

try:
    import nir  # noqa: F401
except ImportError as error:
    raise ImportError('spikeloom.export needs nir: pip install "spikeloom[nir]"') from error

from spikeloom.export.network import Network, from_nir, run_nir

__all__ = ["Network", "from_nir", "run_nir"]
