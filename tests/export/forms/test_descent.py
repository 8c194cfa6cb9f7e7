"""Sign gradient descent as a clock and comparisons: neurons, and whole converted networks."""

import nir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeloom import SpikingLayer, convert, run
from spikeloom.export import NotExpressible, Verdict, read, run_nir, to_nir
from spikeloom.neurons import Constant, Exponential, Inverse, SignGD, SignTracker
from tests.export.readers import with_nirtorch

T = 16
SCHEDULES = [
    Constant(0.25),
    Exponential(0.15, 0.95),
    Exponential(0.5, 0.5, hold=5),
    Inverse(1.0),
    [0.5] * 4 + [0.125] * 12,
]
FUNCTIONS = {"relu": {}, "leaky_relu": {"negative_slope": 0.1}, "abs": {}, "identity": {}}
SCALE = torch.tensor([0.5, 1.0, 0.3, 2.0])


def inputs(*shape: int) -> Tensor:
    """Multiples of 1/16, so that estimates meet their targets."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T, 3, *shape, generator=generator).mul(4).round().div(16)


def net_of(neuron) -> nn.Module:
    return nn.Sequential(SpikingLayer(neuron))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_move_is_the_neurons_own(function, schedule):
    neuron = SignGD(function, schedule, SCALE, **FUNCTIONS[function])
    x = inputs(4)
    graph, report = to_nir(net_of(neuron), x, on_inexact="subgraph")
    expected, _ = run(neuron, x)
    assert report.column("verdict") == [Verdict.SUBGRAPH]
    assert expected.unique().numel() > 1
    assert torch.equal(run_nir(graph, x), expected)
    assert torch.equal(with_nirtorch(graph, x), expected)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_estimate_is_the_trackers_own(function, strict):
    schedule = Exponential(0.25, 0.5, hold=4)
    neuron = SignTracker(schedule, T, 0.5, strict, function, **FUNCTIONS[function])
    x = inputs(4)
    graph, _ = to_nir(net_of(neuron), x, on_inexact="subgraph")
    expected, _ = run(neuron, x)
    assert torch.equal(run_nir(graph, x), expected)
    assert torch.equal(with_nirtorch(graph, x), expected)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1.0, 0.5, 0.25, 0.3]), min_size=1, max_size=5),
    slope=st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    strict=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_table_of_steps_is_followed(sizes, slope, strict, seed):
    neuron = SignTracker(sizes, len(sizes), 0.5, strict, "leaky_relu", negative_slope=slope)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sizes), 2, 8, generator=generator).mul(4).round().div(4)
    graph, _ = to_nir(net_of(neuron), x, on_inexact="subgraph")
    assert torch.equal(run_nir(graph, x), run(neuron, x)[0])


def test_a_map_of_neurons_is_written_too():
    neuron, x = SignGD("relu", Exponential(), torch.rand(2, 1, 1) + 0.5), inputs(2, 3, 3)
    graph, _ = to_nir(net_of(neuron), x, on_inexact="subgraph")
    assert torch.equal(run_nir(graph, x), run(neuron, x)[0])


def test_steps_of_one_size_share_their_nodes():
    held, falling = (
        to_nir(net_of(SignGD("relu", schedule)), inputs(4), on_inexact="subgraph")[0]
        for schedule in (Exponential(0.5, 0.5, hold=12), Exponential(0.5, 0.5))
    )
    assert len(held.nodes) < len(falling.nodes) / 2


def test_after_its_last_step_the_estimate_rests():
    neuron = SignTracker(Exponential(0.5, 0.7), T)
    x = torch.full((T, 1, 2), 0.7)
    graph, report = to_nir(net_of(neuron), x, on_inexact="subgraph")
    y = run_nir(graph, torch.full((2 * T, 1, 2), 0.7))
    assert report.column("note") == [f"rests after its {T} steps"]
    assert (y[T:] == y[T - 1]).all()


@pytest.mark.parametrize(
    ("neuron", "reason"),
    [
        (SignGD("gelu"), "no gelu to compare an estimate with"),
        (SignGD("leaky_relu", negative_slope=2.0), "negative_slope above 1 makes it a minimum"),
        (SignGD(torch.nn.functional.relu), "no relu to compare"),
    ],
)
def test_what_is_no_maximum_of_multiples_is_refused(neuron, reason):
    with pytest.raises(NotExpressible, match=reason):
        to_nir(net_of(neuron), inputs(4), on_inexact="subgraph")


def test_too_many_steps_are_refused_with_the_number_of_nodes():
    with pytest.raises(NotExpressible, match=r"it takes \d+ nodes.*use fewer steps"):
        to_nir(net_of(SignGD("relu")), torch.zeros(400, 1, 2), on_inexact="subgraph")


# --- whole networks -------------------------------------------------------------------------


class Residual(nn.Module):
    """Functions and modules, a shortcut, three of the four functions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 12)
        self.body = nn.Sequential(nn.Linear(12, 12), nn.LeakyReLU(0.1))
        self.fc2 = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu(self.fc1(x))
        return self.fc2(torch.abs(h + self.body(h)))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


def converted(build, **arguments):
    torch.manual_seed(0)
    model = build()
    x = torch.randn(8, 1, 8, 8) if build is convolutional else torch.randn(16, 8)
    return convert.SignGD(steps=T, **arguments).apply(model, x), x


@pytest.mark.parametrize("arguments", [{}, {"schedule": Constant(0.1)}, {"per": "node"}], ids=str)
@pytest.mark.parametrize("build", [perceptron, Residual, convolutional])
def test_a_converted_network_with_biases_is_exact_as_a_file(build, arguments, tmp_path):
    snn, x = converted(build, **arguments)
    steps = x.expand(T, *x.shape)
    _, report = to_nir(snn, steps, on_inexact="subgraph", path=tmp_path / "net.nir")
    y = run_nir(read(tmp_path / "net.nir"), steps)
    assert report.mismatch == 0
    assert set(report.column("verdict")) == {Verdict.EXACT, Verdict.SUBGRAPH}
    torch.testing.assert_close(y[-1], snn(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y[7], snn(x, at=[8])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [perceptron, convolutional])
def test_a_converted_network_takes_the_sample_that_it_takes_itself(build):
    snn, x = converted(build)
    graph, report = to_nir(snn, x, on_inexact="subgraph")
    steps = x.expand(T, *x.shape)
    expected, _ = to_nir(snn, steps, on_inexact="subgraph")
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, steps), run_nir(expected, steps))
    torch.testing.assert_close(run_nir(graph, steps)[-1], snn(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [perceptron, convolutional])
def test_nirtorch_runs_a_converted_network(build):
    snn, x = converted(build)
    steps = x.expand(T, *x.shape)
    graph, _ = to_nir(snn, steps, on_inexact="subgraph")
    assert torch.equal(with_nirtorch(graph, steps).detach(), run_nir(graph, steps))


def test_a_converted_network_with_a_hosts_neurons_is_the_same_file():
    snn, x = converted(perceptron, make=SpikingLayer, schedule=Exponential(1.0, 0.7), scale=2.0)
    steps = x.expand(T, *x.shape)
    graph, _ = to_nir(snn, steps, on_inexact="subgraph")
    torch.testing.assert_close(run_nir(graph, steps)[-1], snn(x), rtol=1e-5, atol=1e-5)


def test_what_nir_cannot_state_is_named_by_the_users_own_names():
    def build() -> nn.Module:
        layers = nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        return nn.Sequential(*layers)

    snn, x = converted(build)
    with pytest.raises(NotExpressible) as caught:
        to_nir(snn, x.expand(T, *x.shape), on_inexact="subgraph")
    offences = {offence.module: offence.reason for offence in caught.value.offences}
    assert list(offences) == ["1", "3"]
    assert "no gelu to compare" in offences["1"]
    assert "layer_norm has no NIR counterpart" in offences["3"]


def test_a_function_that_nir_cannot_state_can_be_an_extension():
    snn, x = converted(lambda: nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)))
    steps = x.expand(T, *x.shape)
    graph, report = to_nir(snn, steps, on_inexact="extension")
    assert report.column("verdict") == [Verdict.EXACT, Verdict.EXTENSION, Verdict.EXACT]
    assert isinstance(graph.nodes["1"], nir.NIRGraph)
    torch.testing.assert_close(run_nir(graph, steps)[-1], snn(x), rtol=1e-5, atol=1e-5)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor):
        h = torch.relu(self.a(x))
        return h, torch.relu(self.b(h))


class TwoInputs(TwoOutputs):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(self.a(x) + self.b(y))


@pytest.mark.parametrize(
    ("model", "count", "reason"),
    [(TwoOutputs, 1, "returns 2 tensors"), (TwoInputs, 2, "takes 2 tensors")],
)
def test_a_converted_network_of_several_ends_is_refused_like_any_other(model, count, reason):
    network = convert.SignGD(steps=16).apply(model(), [tuple(torch.rand(count, 5, 3))])
    with pytest.raises(NotExpressible, match=f"{reason}.*parts that take one tensor"):
        to_nir(network, torch.rand(4, 5, 3))


def test_a_sample_of_another_length_is_named():
    snn, x = converted(perceptron)
    with pytest.raises(ValueError, match="has 16 steps, the sequence has T=5"):
        to_nir(snn, x.expand(5, *x.shape), on_inexact="subgraph")
