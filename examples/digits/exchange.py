"""A trained network as a NIR file, and what every framework makes of that file."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import nir
import torch
from norse.torch import from_nir as norse_from_nir
from snntorch.import_nir import import_from_nir as snntorch_from_nir
from spikingjelly.activation_based.nir_exchange import import_from_nir as spikingjelly_from_nir
from torch import Tensor, nn

from spikeloom import export

# A step of the network in seconds, as spikeloom.export.to_nir writes it and snnTorch expects it.
DT = 1e-4


def in_spikeloom(path: Path, x: Tensor) -> Tensor:
    return export.run_nir(export.read(path), x, dt=DT)


def in_spikingjelly(path: Path, x: Tensor) -> Tensor:
    return step_by_step(spikingjelly_from_nir(nir.read(path), dt=DT), x)


def in_snntorch(path: Path, x: Tensor) -> Tensor:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints every weight it scales
        network = snntorch_from_nir(nir.read(path))
    return step_by_step(network, x)


def in_norse(path: Path, x: Tensor) -> Tensor:
    # Norse warns that it ignores r; spikeloom writes r = 1, which changes nothing.
    return step_by_step(norse_from_nir(nir.read(path), ignore_warnings=True, dt=DT), x)


READERS: dict[str, Callable[[Path, Tensor], Tensor]] = {
    "spikeloom": in_spikeloom,
    "SpikingJelly": in_spikingjelly,
    "snnTorch": in_snntorch,
    "Norse": in_norse,
}


def step_by_step(network: nn.Module, x: Tensor) -> Tensor:
    """Run an imported network, which hands out its state and wants it back."""
    spikes, state = [], None
    with torch.no_grad():
        for now in x:
            spike, state = network(now, state)
            spikes.append(spike)
    return torch.stack(spikes)


def exchange(network: nn.Module, expected: Tensor, x: Tensor, path: Path) -> dict[str, int]:
    """Write the network to a file; for each reader, how many of its spikes differ.

    ``to_nir`` itself refuses to write what it cannot read back with the same spikes.
    """
    export.to_nir(network, x, dt=DT, path=path)
    return {name: int((read(path, x) != expected).sum()) for name, read in READERS.items()}
