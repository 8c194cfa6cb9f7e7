"""The worked examples of CONTRIBUTING.md do what they say, as files where they say."""

import doctest
import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from spikeloom import compress, neurons, plugins
from spikeloom.hosted import made
from spikeloom.plugins import adapter, contract
from tests.examples.markdown import python_blocks

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
PACKAGES = {"src/spikeloom": "spikeloom", "plugins": "spikeloom.plugins", "tests": "tests"}

# These start a Python of their own, in which the example is not installed.
NEEDS_INSTALLATION = {
    contract.importing_it_imports_nothing_foreign,
    contract.a_missing_host_is_one_clear_error,
}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Import a file of the page as the module that it would be; forget it afterwards."""
    for block in python_blocks(PAGE):
        if block.path:
            path = tmp_path / block.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
    plugins.components()  # each host is listed when it is imported, which happens only once
    monkeypatch.setattr(adapter, "_components", list(adapter._components))

    def load(file):
        path = tmp_path / file
        folder = next(folder for folder in PACKAGES if file.startswith(f"{folder}/"))
        parts = path.relative_to(tmp_path / folder).with_suffix("").parts
        name = ".".join((PACKAGES[folder], *(part for part in parts if part != "__init__")))
        inside = [str(path.parent)] if path.name == "__init__.py" else None
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    before = set(sys.modules)
    yield load
    for name in set(sys.modules) - before:
        if (
            getattr(sys.modules[name], "__file__", None)
            and str(tmp_path) in sys.modules[name].__file__
        ):
            del sys.modules[name]


def named_tests(module):
    return {name: check for name, check in vars(module).items() if name.startswith("test_")}


@pytest.fixture
def adaptive(example, monkeypatch):
    module = example("src/spikeloom/neurons/adaptive.py")
    monkeypatch.setattr(neurons, "AdaptiveLIF", module.AdaptiveLIF, raising=False)
    return module


def test_the_neuron_s_docstring_tells_the_truth(adaptive):
    results = doctest.testmod(adaptive)
    assert results.attempted
    assert not results.failed


def test_the_neuron_s_tests_pass(adaptive, example):
    tests = named_tests(example("tests/neurons/test_adaptive.py"))
    assert len(tests) == 3
    for check in tests.values():
        check()


def test_the_neuron_s_class_is_at_home_in_its_host(adaptive, example):
    host_class = example("plugins/norse/adaptive.py").AdaptiveLIF
    (listed,) = (c for c in plugins.components() if c.name == "AdaptiveLIF")
    assert (listed.host, listed.cls, listed.method) == ("norse", host_class, "adaptive LIF")
    spikes, state = host_class(tau=1.0, decay=0.5, rise=1.0)(contract.grid(6, 2, 3))
    assert spikes.shape == (6, 2, 3)
    assert state._fields == ("v", "a")


@pytest.fixture
def recurrent(example, monkeypatch):
    module = example("plugins/recurrent/__init__.py")
    monkeypatch.setattr(plugins, "recurrent", module, raising=False)
    return module


def test_the_host_fulfils_the_contract(recurrent, example):
    module = example("tests/plugins/recurrent/test_contract.py")
    for check in itertools.filterfalse(NEEDS_INSTALLATION.__contains__, contract.CHECKS):
        module.test_contract(check)


def test_calibration_knows_the_host_s_axes(recurrent):
    x = contract.grid(7, 5, 3)
    turned, plain = (
        nn.Sequential(nn.Linear(3, 4), recurrent.LIF(batch_first=first), Spikes(), nn.Linear(4, 2))
        for first in (True, False)
    )
    turned.load_state_dict(plain.state_dict())
    expected = compress.calibrate(plain.eval(), x)
    found = compress.calibrate(turned.eval(), x.transpose(0, 1))
    assert str(found) == str(expected)
    for name in expected:
        (own,), (other,) = found[name].spiking, expected[name].spiking
        torch.testing.assert_close(own.hessian, other.hessian)


def test_a_recipe_makes_the_host_s_layers_time_first(recurrent):
    layer = made(lambda neuron: recurrent.make(neuron, batch_first=True), neurons.LIF())
    assert not layer.batch_first


class Spikes(nn.Module):
    """Takes a layer's spikes, and leaves its state."""

    def forward(self, result):
        return result[0]


def test_the_host_has_its_convention_and_says_what_runs(recurrent):
    x = contract.grid(2, 5, 3)
    layer, turned = recurrent.LIF(), recurrent.LIF(batch_first=True)
    first, _ = turned(x)
    second, _ = layer(x.transpose(0, 1))
    contract.same(first, second.transpose(0, 1))
    assert "llvm" in repr(layer)
