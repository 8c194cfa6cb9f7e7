"""One-shot pruning and quantisation of trained spiking networks, a file per idea."""

from spikeloom.compress.allocation import allocate
from spikeloom.compress.calibration import calibrate
from spikeloom.compress.compression import load_compressed, prune, quantize
from spikeloom.compress.finish import finish
from spikeloom.compress.folder import osbc_folder
from spikeloom.compress.hessian import layer_hessian
from spikeloom.compress.objective import quadratic_error
from spikeloom.compress.pruning import prune_weight
from spikeloom.compress.quantization import quantize_weight
from spikeloom.compress.response import Response, UnknownNeuron, linear_response
from spikeloom.compress.statistics import Statistics
from spikeloom.compress.sweep import Sweep, sweep_bits, sweep_sparsity
from spikeloom.hosted import to_rest as reset_states

__all__ = [
    "Response",
    "Statistics",
    "Sweep",
    "UnknownNeuron",
    "allocate",
    "calibrate",
    "finish",
    "layer_hessian",
    "linear_response",
    "load_compressed",
    "osbc_folder",
    "prune",
    "prune_weight",
    "quadratic_error",
    "quantize",
    "quantize_weight",
    "reset_states",
    "sweep_bits",
    "sweep_sparsity",
]
