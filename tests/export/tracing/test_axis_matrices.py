"""Layers behind moved axes, as matrices over all axes."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons, plugins
from spikeloom.export import NotExpressible, from_nir, read, run_nir, to_nir
from spikeloom.export.tracing.axis_matrices import shown_bytes
from spikeloom.models import SpikingMLP
from spikeloom.verify import fold_norms
from tests.export.readers import HOST_READERS

T, B = 6, 3
MAKE = {
    "neutral": SpikingLayer,
    "spikingjelly": lambda neuron: plugins.spikingjelly.make(neuron),
    "snntorch": lambda neuron: plugins.snntorch.make(neuron),
    "norse": lambda neuron: plugins.norse.make(neuron),
}


def quarters(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights whose sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if parameter.dim():
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 6 + 1).round() / 4
    return net.eval()


def sample(*shape: int) -> Tensor:
    return (torch.rand(T, B, *shape, generator=torch.Generator().manual_seed(1)) * 12).round() / 4


def digits(make=SpikingLayer, **changes) -> nn.Module:
    """The network of the digits example after some batches, folded."""
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 2, "in_channels": 1, "num_classes": 10, "dim": 24}
    model = SpikingMLP(**{**sizes, "depths": (1, 1), "steps": 4, "make": make, **changes})
    for parameter in model.parameters():
        parameter.data *= 3
    for _ in range(20):
        model.train()(torch.rand(16, 1, 8, 8))
        reset(model)
    return fold_norms(model.eval(), make=make)


def reset(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "step_mode"):
            module.reset()


def images() -> Tensor:
    still = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    return still.expand(4, -1, -1, -1, -1)


def spikes_in(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What every neuron of a model answers, flat, in the order in which they run."""
    found: list[Tensor] = []

    def note(module: nn.Module, args: tuple, y) -> None:
        y = y[0] if isinstance(y, tuple) else y
        found.append(y.detach().flatten(2))

    handles = [
        module.register_forward_hook(note)
        for module in model.modules()
        if hasattr(module, "neuron") and not callable(module.neuron)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("host", MAKE)
def test_the_digits_network_fires_the_same_spikes_from_a_file_and_in_any_host(host, tmp_path):
    model, x = digits(MAKE[host]), images()
    options = {"target": "nir", "dense_token_mixing": True}
    graph, report = to_nir(model, x, path=tmp_path / "mlp.nir", **options)
    reset(model)
    expected = spikes_in(model, x)
    reset(model)
    scores = model(x).detach()
    assert len(expected) == 14
    assert all(0 < spikes.mean() < 1 for spikes in expected)
    assert report.mismatch == 0
    errors = zip(report.column("module"), report.column("mismatch"), strict=True)
    spiking = {name: error for name, error in errors if error is not None}
    assert list(spiking.values()) == [0.0] * 14
    torch.testing.assert_close(run_nir(read(tmp_path / "mlp.nir"), x), scores)
    for other in MAKE:
        moved = from_nir(graph, make=MAKE[other])
        torch.testing.assert_close(moved(x).detach(), scores)
        signals = moved.signals(x)
        for name, spikes in zip(spiking, expected, strict=True):
            assert torch.equal(signals[name].flatten(2), spikes), (other, name)


@pytest.mark.parametrize("reader", ["spikingjelly", "snntorch"])
def test_the_frameworks_own_importers_read_the_digits_network(reader):
    model, x = digits(), images()
    graph, _ = to_nir(model, x, target=reader, dense_token_mixing=True)
    torch.testing.assert_close(HOST_READERS[reader](graph, x), model(x).detach())


def test_an_importer_that_runs_branches_too_early_is_no_target():
    model, x = digits(), images()
    graph, _ = to_nir(model, x, target="nir", dense_token_mixing=True)
    assert HOST_READERS["norse"](graph, x).shape != model(x).shape
    for target in ("norse", "portable"):
        with pytest.raises(NotExpressible, match="runs it before its sources on another branch"):
            to_nir(model, x, target=target, dense_token_mixing=True)


def test_the_report_states_the_size_of_the_matrices():
    graph, report = to_nir(digits(), images(), target="nir", dense_token_mixing=True)
    rows = dict(zip(report.column("module"), report.rows, strict=True))
    mixed = rows["stages.0.blocks.0.token.along_width.0"]
    assert mixed[-1] == "one matrix over all axes, 590 kB"
    matrices = [row[0] for row in report.rows if "over all axes" in row[-1]]
    total = sum(graph.nodes[name].weight.nbytes for name in matrices)
    assert any(f"dense matrices of {shown_bytes(total)}" in note for note in report.notes)


def test_moved_axes_are_refused_by_default_with_the_size_and_the_flag():
    with pytest.raises(NotExpressible) as caught:
        to_nir(digits(), images())
    first = caught.value.offences[0]
    assert first.module == "stages.0.blocks.0.token.along_width.0"
    assert first.kind == "Conv1d"
    assert (
        "NIR cannot move axes, or mix one of several; as a matrix over all axes it takes 590 kB"
        in first.reason
    )
    assert "dense_token_mixing=True, 9.16 MB for the model" in first.remedy


@pytest.mark.parametrize("allowed", [False, True])
def test_norms_that_are_not_folded_name_the_function_that_folds(allowed):
    model = SpikingMLP(8, 2, 1, 10, 24, (1, 1)).eval()
    with pytest.raises(NotExpressible, match=r"spikeloom\.verify\.fold_norms\(model\)"):
        to_nir(model, images(), dense_token_mixing=allowed)


def test_matrices_of_absurd_size_are_refused_before_they_are_made():
    model = SpikingMLP(64, 2, 1, 10, 48, (1,), norm="bn").eval()
    with pytest.raises(ValueError, match=r"dense_token_mixing: .* GB, more than 1.07 GB; use a"):
        to_nir(fold_norms(model), torch.rand(1, 1, 1, 64, 64), dense_token_mixing=True)


# --- any model -------------------------------------------------------------------------------


class Moving(nn.Module):
    """Neurons and weights with any movement between them."""

    def __init__(self, before, layer, after=lambda y: y, neuron=None) -> None:
        super().__init__()
        self.first = SpikingLayer(neurons.LIF())
        self.layer = layer
        self.last = SpikingLayer(neurons.LIF() if neuron is None else neuron)
        self.before, self.after = before, after
        quarters(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.after(self.layer(self.before(self.first(x)))))


def agree(net: nn.Module, x: Tensor, **options):
    graph, report = to_nir(net, x, dense_token_mixing=True, **options)
    expected = net(x).detach()
    assert expected.any()
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x), expected.flatten(2))
    return graph, report


MOVES = {
    "the last axis": (lambda s: s, nn.Linear(4, 5), lambda y: y),
    "the first axis": (
        lambda s: s.transpose(2, 3), nn.Linear(3, 5), lambda y: y.transpose(2, 3)
    ),
    "and leaves them transposed": (lambda s: s.mT, nn.Linear(3, 5), lambda y: y),
    "with samples along the map": (
        lambda s: s.permute(0, 2, 1, 3).flatten(2),
        nn.Conv1d(3, 2, 1),
        lambda y: y.unflatten(2, (B, 4)).permute(0, 2, 1, 3),
    ),
    "a concatenation": (lambda s: torch.cat([s, s], 3), nn.Linear(8, 2), lambda y: y),
    "a selection": (lambda s: s[:, :, 1], nn.Linear(4, 2), lambda y: y),
    "thirds": (
        lambda s: torch.cat(s.chunk(2, 3)[::-1], 3), nn.Linear(4, 3), lambda y: y[..., 1:]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_a_layer_along_any_axis_is_a_matrix(name):
    agree(Moving(*MOVES[name]), sample(3, 4))


def test_a_convolution_of_a_flat_signal_is_a_matrix():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = Moving(*MOVES["the first axis"])
            self.conv = nn.Conv1d(5, 4, 3, padding=1, stride=2, groups=1)
            self.pool = nn.AvgPool2d((1, 2))
            self.spike = SpikingLayer(neurons.LIF())

        def forward(self, x: Tensor) -> Tensor:
            s = self.mix(x).flatten(0, 1)
            return self.spike(self.pool(self.conv(s)).unflatten(0, x.shape[:2]))

    net = Net()
    net.mix.after = lambda y: y.transpose(2, 3)
    _, report = agree(quarters(net), sample(3, 4))
    assert any("The output [4, 1] is flat" in note for note in report.notes)


def test_signals_that_only_change_places_are_put_in_order_by_a_matrix():
    easy = neurons.LIF(v_threshold=0.5)
    net = Moving(lambda s: s.transpose(2, 3), nn.Identity(), neuron=easy)
    _, report = agree(net, sample(3, 4))
    assert any(row[1] == "order" for row in report.rows)
    with pytest.raises(NotExpressible, match="dense_token_mixing=True, 576 bytes"):
        to_nir(net, sample(3, 4))


def test_an_output_with_moved_axes_is_put_in_order_too():
    class Net(Moving):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).transpose(2, 3)

    agree(Net(lambda s: s, nn.Linear(4, 5)), sample(3, 4))


def test_parameters_of_a_map_follow_their_features():
    thresholds = torch.tensor([[0.5], [1.0], [2.0]])
    net = Moving(*MOVES["the first axis"][:1], nn.Linear(3, 3), MOVES["the first axis"][2],
                 neuron=neurons.LIF(v_threshold=thresholds))  # fmt: skip
    agree(net, sample(3, 4), target="nir")
    agree(net, sample(3, 4))


def test_a_model_of_single_steps_may_move_axes():
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(3, 2)
            self.lif = plugins.snntorch.Leaky(0.5, reset_mechanism="zero", init_hidden=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(self.mix(x.transpose(1, 2)).transpose(1, 2))

    net, x = quarters(Step()), sample(3, 4)
    graph, _ = to_nir(net, x, dense_token_mixing=True)
    plugins.snntorch.reset(net)
    expected = torch.stack([net(now) for now in x]).detach()
    assert expected.any()
    assert torch.equal(run_nir(graph, x), expected.flatten(2))


@pytest.mark.parametrize(
    ("before", "layer", "reason"),
    [
        (lambda s: s.permute(0, 2, 3, 1), nn.Linear(B, B), "mixes steps or samples"),
        (lambda s: s.permute(1, 2, 3, 0), nn.Linear(T, T), "mixes steps or samples"),
        (lambda s: s.permute(2, 0, 1, 3), nn.Identity(), "other axes in front of time"),
        (lambda s: s.transpose(2, 3) * 2, nn.Identity(), "the function mul"),
        (lambda s: s.mT + s.mT, nn.Linear(3, 2), "receives a signal twice"),
        (lambda s: s.mT[:, :, :0], nn.Linear(3, 2), "takes nothing of a signal"),
        (lambda s: s.mT, nn.LayerNorm(3), "no counterpart of LayerNorm"),
        (lambda s: torch.cat([s.mT, torch.ones(T, B, 4, 1)], 3), nn.Linear(4, 2), "joins"),
    ],
)
def test_what_is_no_matrix_of_features_is_refused(before, layer, reason):
    net = Moving(before, layer)
    with pytest.raises(NotExpressible, match=reason):
        to_nir(net, sample(3, 4), dense_token_mixing=True)


@st.composite
def movements(draw) -> tuple[nn.Module, Tensor]:
    """Blocks that each permute the features, mix one axis, and permute again."""
    blocks, shape = [], tuple(draw(st.lists(st.integers(1, 3), min_size=2, max_size=3)))
    start = shape
    for seed in range(draw(st.integers(1, 3))):
        axes = draw(st.permutations(range(len(shape))))
        moved = [shape[axis] for axis in axes]
        moved[-1] = draw(st.integers(1, 3))
        back = draw(st.permutations(range(len(shape))))
        blocks.append((axes, shape[axes[-1]], moved[-1], back, draw(st.booleans()), seed))
        shape = tuple(moved[axis] for axis in back)
    return Chain(blocks), sample(*start)


class Chain(nn.Module):
    def __init__(self, blocks) -> None:
        super().__init__()
        self.plan = blocks
        self.mix = nn.ModuleList(nn.Linear(i, o) for _, i, o, _, _, _ in blocks)
        self.spike = nn.ModuleList(SpikingLayer(neurons.LIF()) for _ in blocks)
        quarters(self, len(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for (axes, _, _, back, skip, _), mix, spike in zip(
            self.plan, self.mix, self.spike, strict=True
        ):
            y = mix(x.permute(0, 1, *(2 + axis for axis in axes)))
            y = y.permute(0, 1, *(2 + axis for axis in back))
            x = spike(x + y if skip and x.shape == y.shape else y)
        return x


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(movements())
def test_a_random_chain_of_movements_is_written_exactly(drawn):
    net, x = drawn
    graph, report = to_nir(net, x, dense_token_mixing=True)
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x).flatten(2), net(x).detach().flatten(2))
