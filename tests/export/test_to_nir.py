"""Models in, verified NIR files out."""

import json
import pickle
import subprocess
import sys

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikeloom import Neuron, PerStep, SpikingLayer, convert, neurons
from spikeloom.export import NotExpressible, Verdict, read, run_nir, to_nir
from spikeloom.export.forms.candidates import candidates
from spikeloom.export.forms.node_groups import Layer
from spikeloom.export.refuse import Refused
from tests.export.readers import HOST_READERS, READERS

T = 50
HARD = {
    "LIF": lambda: neurons.LIF(tau=2.0),
    "LIF, input not divided": lambda: neurons.LIF(tau=4.0, decay_input=False),
    "LIF, strict": lambda: neurons.LIF(tau=2.0, fires_at_threshold=False),
    "LIF, rest below 0": lambda: neurons.LIF(tau=2.0, v_reset=-0.5),
    "LIF, learned tau": lambda: neurons.LIF(tau=nn.Parameter(torch.tensor(2.0))),
    "Leaky": lambda: neurons.Leaky(0.5, reset_mechanism="zero"),
    "Leaky without delay": lambda: neurons.Leaky(
        0.5, reset_mechanism="zero", reset_delay=False
    ),
    "Leaky, slow": lambda: neurons.Leaky(0.9, reset_mechanism="zero"),
    "Leaky, graded": lambda: neurons.Leaky(
        0.5, reset_mechanism="zero", graded_spikes_factor=2.0
    ),
    "LIFBox": lambda: neurons.LIFBox(tau_mem_inv=500.0),
    "LIFBox, slow": lambda: neurons.LIFBox(tau_mem_inv=125.0),
}  # fmt: skip
SOFT = {
    "LIF": lambda: neurons.LIF(tau=2.0, v_reset=None),
    "LIF, input not divided": lambda: neurons.LIF(tau=2.0, v_reset=None, decay_input=False),
    "IF": lambda: neurons.IF(v_reset=None),
    "Leaky": lambda: neurons.Leaky(0.5),
    "Leaky without leak": lambda: neurons.Leaky(1.0),
    "Leaky without reset": lambda: neurons.Leaky(0.5, reset_mechanism="none"),
    "LIFBox": lambda: neurons.LIFBox(tau_mem_inv=500.0, reset_method="subtract"),
}


class PerStepLayer(nn.Module):
    """A layer without a time axis, applied to each step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def dense(make) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 24),
        SpikingLayer(make()),
        nn.Linear(24, 16, bias=False),
        SpikingLayer(make()),
        nn.Linear(16, 5),
        SpikingLayer(make()),
    )


def convolutional(make) -> nn.Sequential:
    return nn.Sequential(
        PerStepLayer(nn.Conv2d(2, 4, 3, padding=1, stride=2, groups=2)),
        SpikingLayer(make()),
        PerStepLayer(nn.Conv2d(4, 4, (1, 3), padding=(0, 1), bias=False)),
        SpikingLayer(make()),
        nn.Flatten(2),
        nn.Linear(16, 5),
        SpikingLayer(make()),
    )


def drawn(net: nn.Module, grid: bool, seed: int = 0) -> nn.Module:
    """Random weights large enough to fire, or weights on a grid of 1/4."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if parameter.dim():
            values = 2 * torch.randn(parameter.shape, generator=generator)
            parameter.data = (values * 4).round() / 4 if grid else values
    return net


def sample(*shape: int, grid: bool = False, seed: int = 1) -> Tensor:
    values = torch.rand(T, 4, *shape, generator=torch.Generator().manual_seed(seed)) * 3
    return (values * 4).round() / 4 if grid else values


@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.parametrize("name", HARD)
def test_the_portable_form_is_read_alike_by_every_framework(name, build, grid):
    net = drawn(build(HARD[name]), grid)
    x = sample(*((6,) if build is dense else (2, 4, 4)), grid=grid)
    graph, report = to_nir(net, x)
    spikes = net(x).detach()
    assert 0.01 < (spikes > 0).float().mean() < 0.99
    assert report.mismatch == 0
    assert set(report.column("verdict")) == {Verdict.EXACT}
    assert torch.equal(run_nir(graph, x), spikes)
    for reader, read_with in READERS.items():
        assert torch.equal(read_with(graph, x), spikes), reader


@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_a_neuron_without_leak_is_an_if_node(grid):
    net = drawn(dense(neurons.IF), grid)
    x = sample(6, grid=grid)
    graph, report = to_nir(net, x)
    spikes = net(x)
    assert 0.01 < spikes.mean() < 0.99
    for reader in ("nirtorch", "spikingjelly", "norse"):
        assert torch.equal(READERS[reader](graph, x), spikes), reader
    assert any("snntorch does not read the file as meant" in note for note in report.notes)


def test_the_nodes_are_the_canonical_form():
    net = drawn(dense(lambda: neurons.LIF(tau=4.0)), grid=False)
    graph, _ = to_nir(net, sample(6), dt=2e-4)
    lif = graph.nodes["1"]
    assert isinstance(lif, nir.LIF)
    for name, value in {"tau": 8e-4, "r": 1.0, "v_leak": 0.0, "v_reset": 0.0}.items():
        array = getattr(lif, name)
        assert array.dtype == np.float32
        assert array.shape == (24,)
        assert (array == np.float32(value)).all()
    assert (lif.v_threshold == np.nextafter(np.float32(1), np.float32(0))).all()
    assert isinstance(graph.nodes["0"], nir.Affine)
    assert isinstance(graph.nodes["2"], nir.Linear)


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_reset_is_refused_with_its_measured_error(name):
    net = drawn(dense(SOFT[name]), grid=False)
    with pytest.raises(NotExpressible, match='on_inexact="subgraph"') as caught:
        to_nir(net, sample(6))
    assert [offence.module for offence in caught.value.offences] == ["1", "3", "5"]
    for offence in caught.value.offences:
        assert offence.verdict == Verdict.SUBGRAPH
        assert f"({offence.error:.2%} of the output differs)" in str(offence)
    assert max(offence.error for offence in caught.value.offences) > 0.01


@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
@pytest.mark.parametrize("name", SOFT)
def test_a_soft_reset_is_exact_as_a_subgraph(name, grid):
    net = drawn(dense(SOFT[name]), grid)
    x = sample(6, grid=grid)
    graph, report = to_nir(net, x, on_inexact="subgraph")
    spikes = net(x)
    assert 0.01 < spikes.mean() < 0.99
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x), spikes)
    assert torch.equal(READERS["nirtorch"](graph, x), spikes)
    assert any("snntorch does not read the file as meant" in note for note in report.notes)


@pytest.mark.parametrize("name", SOFT)
def test_an_approximation_reports_the_error_it_makes(name):
    net = drawn(dense(SOFT[name]), grid=False)
    x = sample(6)
    graph, report = to_nir(net, x, on_inexact="approximate")
    different = (run_nir(graph, x) != net(x)).float().mean()
    assert report.mismatch == pytest.approx(float(different))
    assert report.mismatch > 0
    assert set(report.column("verdict")) == {Verdict.EXACT, Verdict.APPROXIMATE}
    assert all(error > 0 for error in report.column("mismatch") if error is not None)


@pytest.mark.parametrize("tau", [2.0, 3.0, 10.0])
@pytest.mark.parametrize("host", HOST_READERS)
def test_the_report_foresees_what_each_frameworks_rounding_does(host, tau):
    net = drawn(dense(lambda: neurons.LIF(tau)), grid=True)
    x = sample(6, grid=True)
    graph, report = to_nir(net, x)
    different = (HOST_READERS[host](graph, x) != net(x)).float().mean()
    assert report.mismatch == 0
    assert report.readers[host] == pytest.approx(float(different))
    assert tau != 3.0 or host == "spikingjelly" or different > 0
    assert any(f"{host} rounds differently" in note for note in report.notes) == (different > 0)


def test_thresholds_of_each_neuron_move_into_the_weights():
    thresholds = torch.tensor([0.5, 1.0, 2.0, 4.0])
    net = drawn(
        nn.Sequential(nn.Linear(6, 4), SpikingLayer(neurons.LIF(v_threshold=thresholds))), False
    )
    x = sample(6)
    graph, report = to_nir(net, x)
    assert np.unique(graph.nodes["1"].v_threshold).size == 1
    weight = net[0].weight.detach() / thresholds[:, None]
    np.testing.assert_array_equal(graph.nodes["0"].weight, weight.numpy())
    assert report.column("note")[1] == "its thresholds are in the weights before it"
    for reader, read_with in READERS.items():
        assert torch.equal(read_with(graph, x), net(x)), reader


def test_thresholds_within_a_channel_need_another_target():
    thresholds = torch.linspace(0.5, 2, 8).reshape(2, 2, 2)
    net = drawn(
        nn.Sequential(
            PerStepLayer(nn.Conv2d(1, 2, 1)), SpikingLayer(neurons.LIF(v_threshold=thresholds))
        ),
        False,
    )
    x = sample(1, 2, 2)
    with pytest.raises(NotExpressible, match="differ within a channel"):
        to_nir(net, x)
    graph, report = to_nir(net, x, target="nir")
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x), net(x))


@pytest.mark.parametrize("bias", [True, False])
def test_batch_normalisation_is_folded(bias):
    torch.manual_seed(0)
    net = nn.Sequential(
        PerStepLayer(nn.Sequential(nn.Conv2d(1, 3, 3, bias=bias), nn.BatchNorm2d(3))),
        SpikingLayer(neurons.LIF()),
        nn.Flatten(2),
        PerStepLayer(nn.Sequential(nn.Linear(12, 4, bias=bias), nn.BatchNorm1d(4))),
        SpikingLayer(neurons.LIF()),
    )
    x = sample(1, 4, 4)
    for _ in range(3):
        net(x)  # running statistics
    graph, report = to_nir(net, x)
    kinds = {type(node).__name__ for node in graph.nodes.values()}
    assert kinds == {"Input", "Conv2d", "LIF", "Flatten", "Affine", "Output"}
    assert report.mismatch == 0
    for reader, read_with in READERS.items():
        assert torch.equal(read_with(graph, x), net.eval()(x)), reader


def test_batch_normalisation_after_spikes_is_refused():
    net = nn.Sequential(SpikingLayer(neurons.LIF()), PerStepLayer(nn.BatchNorm1d(6)))
    with pytest.raises(NotExpressible, match="does not come from weights of its own"):
        to_nir(net, sample(6))


def test_the_model_is_left_as_it_was():
    net = drawn(dense(HARD["LIF"]), grid=False).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    to_nir(net, sample(6))
    assert net.training
    assert "forward" not in vars(net[0])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_dropout_and_identity_leave_no_node():
    net = nn.Sequential(
        nn.Linear(6, 4), nn.Dropout(), nn.Identity(), SpikingLayer(neurons.LIF()), nn.Identity()
    )
    graph, report = to_nir(net, sample(6))
    assert sorted(graph.nodes) == ["0", "3", "input", "output"]
    assert report.column("note")[1:3] == ["folded into its neighbours"] * 2


# --- signal flow --------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.spike1, self.spike2 = SpikingLayer(neurons.LIF()), SpikingLayer(neurons.LIF())

    def forward(self, x: Tensor) -> Tensor:
        s = self.spike1(self.first(x))
        return s + self.spike2(self.second(s) + x)


class Recurrent(nn.Module):
    """A time loop with feedback through weights, as users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.come, self.back = nn.Linear(6, 5), nn.Linear(5, 5, bias=False)
        self.spike = SpikingLayer(neurons.LIF())

    def forward(self, x: Tensor) -> Tensor:
        from spikeloom import run

        state, s, spikes = None, x.new_zeros(x.shape[1], 5), []
        for now in x:
            charge = self.come(now) + self.back(s)
            (s,), state = run(self.spike.neuron, charge[None], state)
            spikes.append(s)
        return torch.stack(spikes)


def test_a_residual_network_is_read_alike_by_every_framework():
    net = drawn(Residual(), grid=True)
    x = sample(6, grid=True)
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    assert ("input", "spike2") in graph.edges
    for reader, read_with in HOST_READERS.items():
        assert torch.equal(read_with(graph, x), net(x)), reader


class IntoBuffer(nn.Module):
    """Writes each step's spikes into a tensor made beforehand."""

    def __init__(self, part: slice = slice(None)) -> None:
        super().__init__()
        self.net, self.part = NET, part

    def forward(self, x: Tensor) -> Tensor:
        y, out = self.net(x), torch.zeros(T, 4, 5)
        for step in range(T):
            out[step, :, self.part] = y[step, :, self.part]
        return out


def test_spikes_may_be_written_into_a_buffer_but_not_into_a_part_of_it():
    x = sample(6)
    graph, _ = to_nir(IntoBuffer(), x)
    assert torch.equal(run_nir(graph, x), NET(x))
    with pytest.raises(NotExpressible, match="come from nowhere, by the function __setitem__"):
        to_nir(IntoBuffer(slice(2)), x)


class TimeLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.come, self.back = nn.Linear(6, 5), nn.Linear(5, 5, bias=False)
        from spikeloom.plugins import snntorch

        self.lif = snntorch.Leaky(0.5, reset_mechanism="zero")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem, s, spikes, potentials = None, torch.zeros(x.shape[1], 5), [], []
        for step in range(x.shape[0]):
            s, mem = self.lif(self.come(x[step]) + self.back(s), mem)
            spikes.append(s)
            potentials.append(mem)
        return torch.stack(spikes), torch.stack(potentials)


def test_a_recurrent_time_loop_becomes_a_loop_in_the_graph():
    net = drawn(TimeLoop(), grid=True)
    x = sample(6, grid=True)
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    assert set(graph.edges) == {
        ("input", "come"),
        ("come", "lif"),
        ("back", "lif"),
        ("lif", "back"),
        ("lif", "output"),
    }
    assert torch.equal(run_nir(graph, x), net(x)[0])
    assert torch.equal(READERS["nirtorch"](graph, x), net(x)[0])


class Wrapped(nn.Module):
    """Any function of a network's output, or of its input."""

    def __init__(self, before=lambda x: x, after=lambda y: y) -> None:
        super().__init__()
        self.net = drawn(nn.Sequential(nn.Linear(6, 6), SpikingLayer(neurons.LIF())), False)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


@pytest.mark.parametrize("readout", [lambda y: y.mean(0), lambda y: y.sum(dim=0)])
def test_a_readout_over_time_is_left_to_the_reader(readout):
    net, x = Wrapped(after=readout), sample(6)
    graph, report = to_nir(net, x)
    assert torch.equal(readout(run_nir(graph, x)), net(x))
    assert any("over time of the output is left to the reader" in note for note in report.notes)


@pytest.mark.parametrize(
    ("wrapped", "obstacle"),
    [
        (Wrapped(after=torch.relu), "the function relu"),
        (Wrapped(after=lambda y: y * 2), "the function mul"),
        (Wrapped(after=lambda y: y.mean(0).softmax(-1)), "the function softmax"),
        (Wrapped(after=lambda y: y.mean(0) - 1), "the function sub"),
        (Wrapped(after=lambda y: y.mean(2, keepdim=True)), "the function mean"),
        (Wrapped(after=lambda y: y.flip(0)), "the function flip"),
        (Wrapped(after=lambda y: y.transpose(0, 1)), "the function transpose"),
        (Wrapped(after=lambda y: y + 1), "adds a constant"),
        (Wrapped(after=lambda y: y + y), "adds a signal to itself"),
        (Wrapped(after=lambda y: y[..., :3]), "NIR cannot move axes"),
        (Wrapped(after=lambda y: torch.cat([y, y], 2)), "NIR cannot move axes"),
        (Wrapped(after=lambda y: torch.cat([y[:5], torch.ones(T - 5, 4, 6)])), "joins different"),
        (Wrapped(before=lambda x: x[::2]), "does not hold every sample at consecutive"),
        (Wrapped(before=lambda x: x - x.mean(0)), "the function sub"),
    ],
)
def test_what_happens_between_modules_must_be_movement_or_addition(wrapped, obstacle):
    with pytest.raises(NotExpressible, match=obstacle):
        to_nir(wrapped, sample(6))


def test_a_module_used_twice_is_refused():
    shared = nn.Linear(6, 6)
    net = nn.Sequential(shared, SpikingLayer(neurons.LIF()), shared, SpikingLayer(neurons.LIF()))
    with pytest.raises(NotExpressible, match=r"0 \(Linear\) .* again after all 50 steps.*own"):
        to_nir(net, sample(6))


class Late(nn.Module):
    """A skip connection that arrives one step later than NIR would deliver it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = SpikingLayer(neurons.LIF()), SpikingLayer(neurons.LIF())

    def forward(self, x: Tensor) -> Tensor:
        s = self.a(x)
        return self.b(torch.cat([torch.zeros_like(s[:1]), s[:-1]]))


def test_a_signal_that_arrives_late_is_never_written_as_if_it_were_on_time():
    with pytest.raises(NotExpressible):
        to_nir(Late(), sample(6))


@pytest.mark.parametrize("module", [SpikingLayer(neurons.LIF()), nn.Linear(6, 3)])
def test_a_single_module_is_a_model_too(module):
    graph, report = to_nir(module, sample(6))
    assert report.column("module") == [type(module).__name__]
    torch.testing.assert_close(run_nir(graph, sample(6)), module(sample(6)).detach())


@pytest.mark.parametrize("dt", [1e-3, 3e-4, 1.0])
def test_the_time_step_is_the_callers_choice(dt):
    net, x = drawn(dense(HARD["LIF"]), True), sample(6, grid=True)
    graph, report = to_nir(net, x, dt=dt)
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x, dt=dt), net(x))
    assert any("time step is always 1e-4" in note for note in report.notes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_of_either_precision(dtype):
    net, x = drawn(dense(HARD["LIF"]), True).to(dtype), sample(6, grid=True).to(dtype)
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    assert graph.nodes["0"].weight.dtype == np.float32


def test_readers_of_other_dynamics_are_refused_as_targets():
    for target in ("sinabs", "rockpool", "spyx"):
        with pytest.raises(NotExpressible, match=f"for {target}"):
            to_nir(NET, sample(6), target=target)


def test_a_bias_is_refused_for_lava_and_spinnaker2():
    for target in ("lava", "spinnaker2"):
        with pytest.raises(NotExpressible, match="it has a bias"):
            to_nir(NET, sample(6), target=target)
        bare = nn.Sequential(nn.Linear(6, 4, bias=False), SpikingLayer(neurons.LIF()))
        drawn(bare, grid=True)
        _, report = to_nir(bare, sample(6), target=target)
        assert any("documentation only" in note for note in report.notes)


def test_a_model_without_any_neuron_is_compared_by_value():
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    graph, report = to_nir(net, sample(6))
    torch.testing.assert_close(run_nir(graph, sample(6)), net(sample(6)).detach())
    assert report.mismatch == 0


# --- refusals -------------------------------------------------------------------------------


def step_of_a_user(x, state, p):
    (v,) = state
    return v * x, (v + x,)


def test_every_module_in_the_way_is_named_with_a_remedy():
    net = nn.Sequential()
    net.add_module("fc", nn.Linear(6, 6))
    net.add_module("norm", nn.LayerNorm(6))
    net.add_module("act", nn.ReLU())
    net.add_module("own", SpikingLayer(Neuron(step_of_a_user)))
    net.add_module("soft", SpikingLayer(neurons.LIF(v_reset=None)))
    with pytest.raises(NotExpressible) as caught:
        to_nir(net, sample(6))
    offences = {offence.module: offence for offence in caught.value.offences}
    assert list(offences) == ["norm", "act", "own", "soft"]
    assert offences["norm"].kind == "LayerNorm"
    assert "BatchNorm" in offences["norm"].remedy
    assert "spikeloom.convert" in offences["act"].remedy
    assert "no step that NIR can state" in offences["own"].reason
    assert offences["soft"].verdict == Verdict.SUBGRAPH
    for offence in caught.value.offences:
        assert f"{offence.module} ({offence.kind})" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).offences == caught.value.offences


@pytest.mark.parametrize(
    ("neuron", "reason"),
    [
        (neurons.LIFBox(tau_mem_inv=500.0, v_reset=-0.5), "v_reset is not 0"),
        (neurons.LIFBox(tau_mem_inv=500.0, v_leak=0.1), "v_leak is not 0|v_leak"),
        (neurons.LIF(tau=torch.linspace(1.5, 4, 6)), "time constants differ"),
    ],
)
def test_what_a_reader_would_silently_compute_otherwise_is_not_portable(neuron, reason):
    net = nn.Sequential(nn.Linear(6, 6), SpikingLayer(neuron))
    if "leak" not in reason:
        with pytest.raises(NotExpressible, match=reason):
            to_nir(drawn(net, False), sample(6))
    _, report = to_nir(net, sample(6), target="nir")
    assert report.mismatch == 0


def test_a_parameter_that_changes_with_time_is_refused():
    changing = {"tau": 2.0, "v_threshold": PerStep(torch.ones(T))}
    with pytest.raises(Refused, match="v_threshold changes with time"):
        candidates(neurons.LIF(), changing, Layer((6,), 1e-4))


def test_a_reset_that_is_decided_twice_is_refused():
    net = nn.Sequential(SpikingLayer(neurons.Leaky(0.5, reset_delay=False)))
    with pytest.raises(NotExpressible, match="use reset_delay=True"):
        to_nir(net, sample(6), on_inexact="subgraph")


def test_a_leak_faster_than_a_step_is_refused():
    neuron = neurons.LIFBox(tau_mem_inv=1500.0)
    with pytest.raises(NotExpressible, match="shorter than one"):
        to_nir(nn.Sequential(SpikingLayer(neuron)), sample(6))


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 4, 4), "padding_mode"),
        (nn.Conv2d(1, 2, (1, 2)), (1, 4, 4), "1x2 kernel"),
        pytest.param(
            nn.Conv2d(1, 2, 2, padding="same"),
            (1, 4, 4),
            "one side more",
            marks=pytest.mark.filterwarnings("ignore:Using padding='same'"),
        ),
        (nn.AvgPool2d(3, ceil_mode=True), (1, 4, 4), "ceil_mode"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), (1, 4, 4), "leaves its padding out"),
        (nn.MaxPool2d(2), (1, 4, 4), "no counterpart of MaxPool2d"),
        (nn.Linear(4, 4), (1, 4, 4), "or mix one of several"),
        (nn.Flatten(2), (2, 2, 2), "flattens only some axes"),
        (nn.BatchNorm1d(6, track_running_stats=False), (6,), "statistics of each batch"),
    ],
)
def test_layers_that_nir_states_otherwise_are_refused(layer, shape, reason):
    with pytest.raises(NotExpressible, match=reason):
        to_nir(PerStepLayer(layer), sample(*shape))


class MyLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs()


def test_a_subclass_is_never_taken_for_its_base():
    with pytest.raises(NotExpressible, match="the function linear"):
        to_nir(nn.Sequential(MyLinear(6, 6)), sample(6))


class GraySpike(neurons.LIF):
    """Fires half a spike, which nir.LIF does not."""

    def _step(self, x, state, p):
        s, state = super()._step(x, state, p)
        return 0.5 * s, state


class Renamed(neurons.LIF):
    """Nothing but a name."""


def test_a_subclass_of_a_neuron_must_behave_like_it():
    net = nn.Sequential(nn.Linear(6, 6), SpikingLayer(Renamed(tau=2.0)))
    assert to_nir(drawn(net, False), sample(6))[1].mismatch == 0
    net[1] = SpikingLayer(GraySpike(tau=2.0))
    with pytest.raises(NotExpressible, match="a LIF that computes something else"):
        to_nir(net, sample(6))


def test_a_network_converted_by_las_is_refused_before_it_runs():
    ann = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    ann.add_module("classes", nn.Sequential(nn.GELU()))
    network = convert.LAS(steps=4).apply(ann, [torch.randn(32, 6)])
    with pytest.raises(NotExpressible, match=r"converted by LAS.*neurons\.OAT") as caught:
        to_nir(network, sample(6))
    assert [offence.module for offence in caught.value.offences] == ["0", "1", "2", "classes.0"]
    assert len(str(caught.value)) < 2000


def test_a_module_used_twice_in_a_circle_is_refused_by_its_name():
    class Circle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.spike = nn.Linear(6, 6), SpikingLayer(neurons.LIF())
            self.again = SpikingLayer(neurons.LIF())

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.fc(self.again(self.spike(self.fc(x)))))

    with pytest.raises(NotExpressible, match="give each place a module of its own") as caught:
        to_nir(Circle(), sample(6))
    assert [offence.module for offence in caught.value.offences] == ["fc", "again"]


# --- arguments ------------------------------------------------------------------------------

NET = drawn(dense(HARD["LIF"]), grid=False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model: must be a torch.nn.Module, got str"),
        ({"sample": [1.0]}, TypeError, "sample: must be a floating-point tensor"),
        ({"sample": torch.ones(5, 2, 6).int()}, TypeError, r"got torch.int32; sample.float\(\)"),
        ({"sample": torch.ones(5, 6)}, ValueError, r"\[T, batch, features...\]"),
        ({"sample": torch.ones(0, 2, 6)}, ValueError, r"got \[0, 2, 6\]"),
        ({"sample": torch.full((2, 2, 6), torch.nan)}, ValueError, "NaN or infinity"),
        ({"dt": 0.0}, ValueError, "dt: must be a positive number"),
        ({"dt": float("inf")}, ValueError, "dt: must be a positive number"),
        ({"on_inexact": "ignore"}, ValueError, "on_inexact: must be one of raise, subgraph"),
        ({"target": "loihi"}, ValueError, "target: must be one of portable, nir"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    given = {"model": NET, "sample": sample(6), **arguments}
    with pytest.raises(error, match=message):
        to_nir(**given)


def test_a_sample_that_the_model_cannot_take_is_named():
    with pytest.raises(ValueError, match=r"model: does not run on the sample \[50, 4, 7\]"):
        to_nir(NET, sample(7))


class Mixing(nn.Module):
    """Moves axes about, and goes on from there."""

    def __init__(self) -> None:
        super().__init__()
        self.spike, self.mix = SpikingLayer(neurons.LIF()), nn.Linear(3, 3)
        self.act, self.last = nn.ReLU(), SpikingLayer(neurons.LIF())

    def forward(self, x: Tensor) -> Tensor:
        s = self.spike(x).permute(3, 0, 1, 2)
        return self.last(self.act(self.mix(s)))


def test_the_consequences_of_an_obstacle_are_not_listed_as_obstacles():
    with pytest.raises(NotExpressible, match="NIR cannot move axes") as caught:
        to_nir(Mixing(), sample(3, 3))
    assert [offence.module for offence in caught.value.offences] == ["mix", "act"]


def test_offences_are_found_however_the_output_looks():
    wrapped = Wrapped(after=lambda y: y.transpose(0, 1))
    wrapped.net[1] = SpikingLayer(neurons.LIF(v_reset=None))
    with pytest.raises(NotExpressible) as caught:
        to_nir(wrapped, sample(6))
    assert [offence.module for offence in caught.value.offences] == ["net.1", "Wrapped"]


def test_a_sum_at_the_output_is_checked_for_the_target_too():
    net = nn.Sequential(PerStepLayer(nn.Conv2d(1, 1, 1)), SpikingLayer(neurons.LIF()))

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return x + self.net(x)

    assert to_nir(Shortcut(), sample(1, 2, 2))[1].mismatch == 0
    with pytest.raises(NotExpressible, match="as Scale for norse: it does not read Scale"):
        to_nir(Shortcut(), sample(1, 2, 2), target="norse")


def test_a_model_that_does_not_use_its_input_is_refused():
    with pytest.raises(ValueError, match="does not depend on the input"):
        to_nir(Wrapped(after=lambda y: torch.zeros(3)), sample(6))


def test_a_model_that_returns_no_tensor_is_refused():
    with pytest.raises(TypeError, match="model: must return a tensor, got str"):
        to_nir(Wrapped(after=lambda y: "spikes"), sample(6))


def test_an_output_without_all_steps_is_refused():
    with pytest.raises(ValueError, match=r"the output must be one tensor \[T, batch"):
        to_nir(Wrapped(after=lambda y: y[-1]), sample(6))


# --- files ----------------------------------------------------------------------------------


def test_the_file_is_written_whole_and_reads_back(tmp_path):
    x = sample(6)
    graph, _ = to_nir(NET, x, path=tmp_path / "net.nir")
    assert [file.name for file in tmp_path.iterdir()] == ["net.nir"]
    again = read(tmp_path / "net.nir")
    assert torch.equal(run_nir(again, x), run_nir(graph, x))
    assert torch.equal(run_nir(nir.read(tmp_path / "net.nir"), x), NET(x).detach())


def test_a_refused_model_leaves_no_file_and_an_older_one_untouched(tmp_path):
    path = tmp_path / "net.nir"
    net = dense(SOFT["LIF"])
    with pytest.raises(NotExpressible):
        to_nir(net, sample(6), path=path)
    assert not list(tmp_path.iterdir())
    path.write_text("old")
    with pytest.raises(NotExpressible):
        to_nir(net, sample(6), path=path)
    assert path.read_text() == "old"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        to_nir(NET, sample(6), path=tmp_path / "no" / "net.nir")


def test_the_file_runs_the_same_without_its_metadata():
    x = sample(6)
    graph, _ = to_nir(NET, x)
    spikes = run_nir(graph, x)
    assert graph.metadata["mismatch"] == 0
    graph.metadata = {}
    for node in graph.nodes.values():
        node.metadata = {}
    assert torch.equal(run_nir(graph, x), spikes)


def test_the_report_prints_as_a_table_and_saves_as_json(tmp_path):
    _, report = to_nir(NET, sample(6))
    lines = str(report).splitlines()
    assert lines[0] == "Sequential as NIR for portable"
    assert lines[1].split() == ["module", "kind", "verdict", "nodes", "mismatch", "note"]
    assert "0.00% of the output differs" in str(report)
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["mismatch"] == 0
    assert saved["target"] == "portable"
    assert [row["module"] for row in saved["rows"]] == list("012345")


def test_spikeloom_does_not_import_nir_and_names_the_package_that_is_missing():
    code = (
        "import sys, spikeloom\n"
        "assert 'nir' not in sys.modules and 'nirtorch' not in sys.modules\n"
        "sys.modules['nir'] = None\n"
        "import spikeloom.export\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'ImportError: spikeloom.export needs nir: pip install "spikeloom[nir]"' in done.stderr


def test_the_result_does_not_depend_on_the_hash_seed():
    code = (
        "import hashlib, torch\n"
        "from spikeloom.export import to_nir, run_nir\n"
        "from tests.export.test_to_nir import Residual, drawn, sample\n"
        "graph, report = to_nir(drawn(Residual(), False), sample(6))\n"
        "y = run_nir(graph, sample(6))\n"
        "print(list(graph.nodes), graph.edges, hashlib.sha256(y.numpy().tobytes()).hexdigest())\n"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "7")
    }
    assert len(results) == 1
