"""A folder to work in, the command, and small models to name on its line."""

import sys
import textwrap

import pytest
import torch
from typer.testing import CliRunner

from spikeloom_cli import app

# A spiking network and an ANN as the user's own file; each test has its own, under its own name.
MODELS = """
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons


def snn():
    net = nn.Sequential(
        nn.Linear(6, 8), SpikingLayer(neurons.LIF(tau=2.0)),
        nn.Linear(8, 3), SpikingLayer(neurons.LIF(tau=2.0)),
    )
    for layer in net[::2]:
        nn.init.normal_(layer.weight)  # so that both layers fire
    return net


def ann():
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def batch():
    return 2 * torch.rand(12, 4, 6, generator=torch.Generator().manual_seed(1))


def mixed():
    return nn.Sequential(*snn()[:2], nn.Linear(8, 3), nn.GELU())


broken = 42
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, which holds models.py and x.pt."""
    (tmp_path / "models.py").write_text(textwrap.dedent(MODELS))
    x = 2 * torch.rand(12, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "x.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.modules.pop("models", None)


@pytest.fixture
def spikeloom():
    """Run the command; the result has exit_code, stdout and stderr."""

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run
