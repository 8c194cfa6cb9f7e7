"""spikeloom: neurons, converters and compressors of five papers, for three frameworks."""

from importlib import import_module
from typing import TYPE_CHECKING

from spikeloom import neurons, nn
from spikeloom.diagnosis import doctor
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Gated, Neuron, PerStep
from spikeloom.kernel.source import source
from spikeloom.layer import SpikingLayer
from spikeloom.nn import Recurrent, event_driven, pack_saved

__all__ = [
    "Gated",
    "Neuron",
    "PerStep",
    "Recurrent",
    "SpikingLayer",
    "doctor",
    "event_driven",
    "neurons",
    "nn",
    "pack_saved",
    "run",
    "source",
]

__version__ = "0.1.0"

# Imported when they are first asked for: `spikeloom.convert.LAS` works after `import spikeloom`.
if TYPE_CHECKING:
    from types import ModuleType

    from spikeloom import compress as compress
    from spikeloom import convert as convert
    from spikeloom import export as export
    from spikeloom import models as models
    from spikeloom import observe as observe
    from spikeloom import verify as verify

    plugins: ModuleType
else:
    _LATER = {"compress", "convert", "export", "models", "observe", "plugins", "verify"}

    def __getattr__(name):
        if name in _LATER:
            return import_module(f"spikeloom.{name}")
        raise AttributeError(f"module 'spikeloom' has no attribute {name!r}")
