"""How the classes of a framework come to be known without being imported by spikeloom."""

import subprocess
import sys
from importlib import import_module, metadata

import pytest
import torch

from spikeloom import compress, neurons
from spikeloom.hosted import to_rest
from spikeloom.modules import Conventions, neuron_of, register, registry, takes_steps

FRAMEWORK = """
from torch import nn

class Cell(nn.Module):
    def __init__(self, leak):
        super().__init__()
        self.leak, self.v = leak, None

    def forward(self, x):
        self.v = x if self.v is None else self.leak * self.v + x
        s = (self.v > 1).to(x)
        self.v = self.v * (1 - s)
        return s

    def forget(self):
        self.v = None
"""
DESCRIPTION = """
from abacus import Cell
from spikeloom import neurons
from spikeloom.modules import Conventions, register

register(
    Cell,
    Conventions(
        describe=lambda cell: neurons.Leaky(cell.leak, reset_mechanism="zero", reset_delay=False),
        takes_steps=lambda cell: True,
        keeps_state=lambda cell: True,
        reset="forget",
        decisive=None,
    ),
)
"""


@pytest.fixture
def abacus(tmp_path, monkeypatch):
    """A framework, and a package that describes it, as if both were installed."""
    (tmp_path / "abacus.py").write_text(FRAMEWORK)
    (tmp_path / "abacus_described.py").write_text(DESCRIPTION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_conventions", dict(registry._conventions))
    point = metadata.EntryPoint("abacus", "abacus_described", "spikeloom.hosts")
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [point])
    yield import_module("abacus")
    for name in ("abacus", "abacus_described"):
        sys.modules.pop(name, None)
    registry._asked.discard("abacus")
    registry._bases.clear()


def test_a_framework_of_another_package_is_described_when_its_module_is_met(abacus):
    cell = abacus.Cell(0.5)
    assert "abacus_described" not in sys.modules
    assert neuron_of(cell).settings()["beta"] == 0.5 and takes_steps(cell)
    cell(torch.ones(2, 3))
    to_rest(cell)
    assert cell.v is None


def test_its_neurons_are_calibrated_like_any_other(abacus):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), abacus.Cell(0.75)).eval()
    x = torch.rand(7, 5, 3)

    def steps(model, batch):
        return torch.stack([model(now) for now in batch])

    found = compress.calibrate(net, [x], forward=steps)["0"].facts
    assert (found.neuron, found.decays, found.steps, found.samples) == ("1", "0.75", 7, 5)


@pytest.mark.parametrize(
    "lines",
    [
        "from spikingjelly.activation_based.neuron import LIFNode as Neuron",
        "from snntorch import Leaky; Neuron = lambda: Leaky(0.5)",
        "from norse.torch import LIFBoxCell as Neuron",
    ],
    ids=["spikingjelly", "snntorch", "norse"],
)
def test_a_frameworks_own_neuron_is_known_without_any_plugin_being_imported(lines):
    code = f"""
import sys
{lines}
from spikeloom.modules import neuron_of
module = Neuron()
assert not any(name.startswith("spikeloom.plugins") for name in sys.modules)
assert neuron_of(module) is not None
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("cls", "conventions", "said"),
    [
        ("Cell", Conventions(), "cls: must be a class"),
        (torch.nn.Identity, {"reset": "reset"}, "conventions: must be spikeloom.modules.Conv"),
    ],
)
def test_what_is_no_class_or_states_no_conventions_is_refused(cls, conventions, said):
    with pytest.raises(TypeError, match=said):
        register(cls, conventions)


def test_the_description_of_a_neuron_says_nothing_for_one_with_another_step():
    class Faster(neurons.LIF):
        def _share(self, difference, p):
            return difference

    with pytest.raises(compress.UnknownNeuron):
        compress.linear_response(Faster(tau=4.0))
    assert compress.linear_response(neurons.LIF(tau=4.0)).decay == 0.75
