"""A call is known by the module whose code makes it, however that code is reached."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spikeloom.convert import LAS
from spikeloom.convert.las.calls.container import CHILD
from tests.convert.las.fitting import relative


def seen(seed):
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(seed))


def converted(model, *batches, **settings):
    return LAS(steps=12, progress=False, **settings).apply(model.eval(), list(batches))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- Containers -----------------------------------------------------------------------------------


class Chained(nn.Sequential):
    """Goes through its layers itself."""

    def forward(self, x):
        for layer in self:
            x = torch.tanh(layer(x)) * x
        return x


class Collecting(nn.Sequential):
    """Keeps what every layer yields."""

    def forward(self, x):
        found = []
        for layer in self:
            x = F.gelu(layer(x))
            found.append(x)
        return torch.cat(found, -1)


class Indexed(nn.Sequential):
    """Counts its layers and takes them by their positions."""

    def forward(self, x):
        return self[-1](F.gelu(self[0](x))) * len(self)


class Listed(nn.ModuleList):
    """A list of layers with a forward."""

    def forward(self, x):
        for layer in self:
            x = F.gelu(layer(x))
        return x


class Children(nn.Module):
    """Asks for its children."""

    def __init__(self, *layers):
        super().__init__()
        self.first, self.second = layers

    def forward(self, x):
        for layer in self.children():
            x = torch.tanh(layer(x)) * x
        return x


@torch.no_grad()
@pytest.mark.parametrize("kind", [Chained, Collecting, Indexed, lambda *layers: Listed(layers)])
def test_a_container_with_calls_of_its_own_goes_through_its_layers_as_before(kind):
    model = kind(nn.Linear(8, 8), nn.Linear(8, 8))
    network = converted(model, seen(0), seen(1))
    assert network.get_submodule(CHILD).places
    again = pickle.loads(pickle.dumps(network))
    for found in (network, again):
        assert 0 < relative(found(seen(2)), model(seen(2))) < 0.005
    assert set(again.state_dict()) == set(network.state_dict())
    assert again.double()(seen(2).double()).dtype == torch.float64


def test_a_module_that_calls_all_its_children_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"calls all of its children.* nn\.ModuleList"):
        converted(Children(nn.Linear(8, 8), nn.Linear(8, 8)), seen(0))


# --- Past the call of a module --------------------------------------------------------------------


class Weighing(nn.Module):
    """A product and a function of its own."""

    def __init__(self, size=1.0):
        super().__init__()
        self.weight = nn.Parameter(size * torch.randn(8, 8) / 3)

    def forward(self, x):
        return F.gelu(x @ self.weight)

    def past(self, x):
        return torch.tanh(x @ self.weight)


class Two(nn.Module):
    """Calls two modules of one class in a loop, in one of several ways."""

    def __init__(self, way, first=None, second=None):
        super().__init__()
        self.way = way
        self.first, self.second = first or Weighing(), second or Weighing(100.0)

    def forward(self, x):
        for part in (self.first, self.second):
            x = self.way(part, x)
        return x


@torch.no_grad()
@pytest.mark.parametrize("way", [lambda part, x: part.forward(x), lambda part, x: part.past(x)])
def test_modules_whose_code_is_reached_past_their_call_have_sites_of_their_own(way):
    model = Two(way)
    network = converted(model, seen(0), seen(1))
    sites = [name for name in network.report.column("site") if name.endswith("factor_0")]
    assert {name.partition(".")[0] for name in sites} == {"first", "second"}
    assert 0 < relative(network(seen(2)), model(seen(2))) < 0.005


@torch.no_grad()
def test_layers_of_torch_reached_past_their_call_have_sites_of_their_own():
    model = Two(
        lambda part, x: part.forward(x[:, None])[:, 0], nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 1)
    )
    network = converted(model, seen(0))
    assert len([name for name in network.report.column("site") if "conv1d" in name]) == 2


def test_an_excluded_module_reached_past_its_call_stays_in_float():
    network = converted(Two(lambda part, x: part.forward(x)), seen(0), exclude=["first"])
    names = network.report.column("site")
    assert any("second" in name for name in names) and not any("first" in name for name in names)


class Encoding(nn.Module):
    """Has a method that users call as well."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.encode(x) + self.encode(x, 2.0)

    def encode(self, x, scale=1.0):
        h = self.layer(scale * x)
        return F.gelu(h) * h

    def other(self, x):
        return torch.tanh(self.layer(x))


@torch.no_grad()
def test_a_method_called_from_outside_computes_by_the_spikes_of_the_forward_that_calls_it():
    model = Encoding()
    network = converted(model, seen(0))
    assert len([name for name in network.report.column("site") if "mul" in name]) == 4
    again = pickle.loads(pickle.dumps(network))
    for found in (network, copy.deepcopy(network), again):
        assert 0 < relative(found(seen(1)), model(seen(1))) < 0.005
        assert 0 < relative(found.encode(seen(1)), model.encode(seen(1))) < 0.005
        h = found.layer(seen(1))
        assert not torch.equal(found.encode(seen(1)), F.gelu(h) * h)
    assert str(inspect.signature(network.encode)) == "(x, scale=1.0)"


def test_a_method_that_calibration_did_not_reach_is_refused_from_outside():
    network = converted(Encoding(), seen(0))
    with pytest.raises(ValueError, match="did not reach this call of tanh in Encoding"):
        network.other(seen(1))
    assert "other" in vars(network) and "other" not in vars(Encoding())


# --- Checkpoints ----------------------------------------------------------------------------------


def curve(h):
    return F.gelu(h) * torch.tanh(h)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_function_that_a_checkpoint_repeats_is_refused_with_the_remedy(reentrant):
    model = Applying(lambda h: checkpoint(curve, h, use_reentrant=reentrant))
    network = converted(model, seen(0))
    with torch.no_grad():
        assert 0 < relative(network(seen(1)), model(seen(1))) < 0.005
    with pytest.raises(ValueError, match=r"Applying calls .* within torch\.utils\.checkpoint"):
        network(seen(1))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_module_that_a_checkpoint_repeats_has_the_gradients_that_it_has_without(reentrant):
    class Curve(nn.Module):
        def forward(self, h):
            return curve(h)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.curve, self.saves = nn.Linear(8, 8), Curve(), True

        def forward(self, x):
            h = self.layer(x)
            if self.saves:
                return checkpoint(self.curve, h, use_reentrant=reentrant)
            return self.curve(h)

    network = converted(Checkpointed(), seen(0))
    grads = []
    for network.saves in (True, False):
        network.zero_grad()
        network(seen(1)).square().sum().backward()
        grads.append(network.layer.weight.grad.clone())
    assert float(grads[0].abs().max()) > 0 and torch.equal(*grads)


# --- What torch does not see ----------------------------------------------------------------------


class Kernel(torch.autograd.Function):
    """Computes by compiled code, as far as torch can tell."""

    @staticmethod
    def forward(ctx, x):
        with torch._C.DisableTorchFunction():
            return torch.sin(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Written(torch.autograd.Function):
    """Computes by functions of torch."""

    @staticmethod
    def forward(ctx, x):
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Applying(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(8, 8), function

    def forward(self, x):
        return 2 * self.function(self.layer(x))


def test_a_function_of_autograd_by_compiled_code_is_refused_with_its_place():
    model = nn.Sequential(Applying(Kernel.apply))
    with pytest.raises(TypeError, match=r"0 \(Applying\) calls code that torch does not see"):
        converted(model, seen(0))
    assert converted(model, seen(0), exclude=["0"]).report


def test_compiled_code_without_a_name_is_refused_with_its_place():
    def sine(h):
        with torch._C.DisableTorchFunction():
            return torch.sin(h)

    class Last(Applying):
        def forward(self, x):
            return self.function(self.layer(x))

    with pytest.raises(TypeError, match=r"0 \(Last\) calls code that torch does not see"):
        converted(nn.Sequential(Last(sine)), seen(0))


@torch.no_grad()
def test_a_function_of_autograd_written_in_torch_is_computed_by_spikes():
    model = Applying(lambda h: Written.apply(h) + Written.apply(50 * h))
    network = converted(model, seen(0))
    assert sum("mul" in name for name in network.report.column("site")) >= 2
    assert 0 < relative(network(seen(1)), model(seen(1))) < 0.005
