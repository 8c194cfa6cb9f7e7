import copy
import io
import pickle

import pytest
import torch
from spikingjelly.activation_based import layer as sjl
from spikingjelly.activation_based import neuron as sjn
from torch import nn

from spikeloom import SpikingLayer, compress, neurons
from spikeloom.compress.quantization import grid, round_to_grid
from tests.compress.cases import solved, spikes

X = spikes(6, 24, 12)


def network():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(12, 16),
        SpikingLayer(neurons.LIF(tau=2.0)),
        nn.Linear(16, 8),
        SpikingLayer(neurons.LIF(tau=4.0)),
        nn.Linear(8, 4),
    ).eval()
    with torch.no_grad():
        net[0].weight.mul_(6)
        net[2].weight.mul_(6)
    return net


NET = network()
STATS = compress.calibrate(NET, [X])
LAYERS = ("0", "2", "4")


def pruned(*args, **options):
    net = copy.deepcopy(NET)
    return net, compress.prune(net, STATS, *args, **options)


@pytest.mark.parametrize("method", ["osbc", "obs"])
def test_layers_are_pruned_to_their_budgets_and_solved_for(method):
    net, report = pruned(0.7, method)
    counts = compress.allocate({name: NET.get_submodule(name).weight for name in LAYERS}, 0.7)
    for name in LAYERS:
        layer, dense = net.get_submodule(name), NET.get_submodule(name).weight.detach()
        assert int(layer.weight_mask.sum()) == counts[name]
        (block,) = STATS[name].spiking if method == "osbc" else STATS[name].plain
        expected = solved(dense.double(), block.hessian, layer.weight_mask)
        torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(layer.bias, NET.get_submodule(name).bias)
    assert report.column("removed") == report.column("target") == list(counts.values())


def test_all_methods_remove_the_same_number_from_each_layer():
    targets = [pruned(0.8, method)[1].column("removed") for method in ("osbc", "obs", "magnitude")]
    assert targets[0] == targets[1] == targets[2]


def test_magnitude_compensates_nothing():
    net, _ = pruned(0.5, "magnitude", "uniform")
    for name in LAYERS:
        dense, layer = NET.get_submodule(name).weight, net.get_submodule(name)
        assert torch.equal(layer.weight, dense.masked_fill(layer.weight_mask, 0.0))
        assert dense[layer.weight_mask].abs().max() <= dense[~layer.weight_mask].abs().min()


def test_each_method_is_best_in_its_own_metric():
    reports = {method: pruned(0.7, method)[1] for method in ("osbc", "obs")}
    for method, column in (("osbc", "membrane after"), ("obs", "current after")):
        best = sum(reports[method].column(column))
        assert best == min(sum(report.column(column)) for report in reports.values())


def test_the_report_tells_what_compensation_gained():
    _, report = pruned(0.7, allocation="uniform")
    before, after = report.column("membrane before"), report.column("membrane after")
    assert all(0 < a < b < 1 for a, b in zip(after, before, strict=True))
    assert report.column("order") == ["exact"] * 3
    assert "245 of 352 weights removed" in report.notes[0] and "layer" in str(report)
    assert '"removed"' in report.to_json()
    assert report.plot("membrane after").axes


def test_the_report_names_the_rounds_that_an_effort_takes():
    report = pruned(0.7, effort="fast", allocation="uniform")[1]
    assert report.column("order") == ["2 rounds"] * 3
    assert all(size > 0 for size in report.column("MB"))


def test_a_pattern_prunes_every_layer_to_it():
    for method in ("osbc", "obs", "magnitude"):
        net, report = pruned(method=method, pattern="2:4")
        assert report.column("removed") == [96, 64, 16]
        for name in LAYERS:
            kept = ~net.get_submodule(name).weight_mask
            assert (kept.unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_user_budgets_are_followed():
    net, _ = pruned(allocation={"0": 0.5, "2": 0.0, "4": 0.25})
    removed = [int((net.get_submodule(name).weight == 0).sum()) for name in LAYERS]
    assert removed == [96, 0, 8]


def test_only_the_layers_asked_for_change():
    net, report = pruned(0.5, layers=["2"])
    assert report.column("layer") == ["2"]
    assert torch.equal(net[0].weight, NET[0].weight) and not hasattr(net[0], "weight_mask")


def test_a_layer_without_spikes_falls_back_to_magnitude():
    net = network()
    with torch.no_grad():
        net[0].weight.fill_(-1.0)
        net[0].bias.fill_(-1.0)
    stats = compress.calibrate(net, [X])
    with pytest.warns(UserWarning, match="inputs of '2' .* never fired"):
        compress.prune(net, stats, 0.5, layers=["2"])
    mask = net[2].weight_mask
    assert NET[2].weight[mask].abs().max() <= NET[2].weight[~mask].abs().min()


def test_the_scale_of_a_normalisation_decides_which_rows_give():
    net = nn.Sequential(
        nn.Linear(12, 6, bias=False), sjl.BatchNorm1d(6, step_mode="m"), SpikingLayer(neurons.LIF())
    ).eval()
    with torch.no_grad():
        net[1].weight[:3] = 1e-3
    stats = compress.calibrate(net, [X])
    compress.prune(net, stats, 0.5)
    assert net[0].weight_mask.sum(1).tolist() == [12, 12, 12, 0, 0, 0]


# --- Masks ------------------------------------------------------------------------------------


def test_removed_weights_stay_zero_in_training():
    net, _ = pruned(0.8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(X).square().sum().backward()
        optimizer.step()
    net(X)
    for name in LAYERS:
        layer = net.get_submodule(name)
        assert not layer.weight[layer.weight_mask].any()
        assert not torch.equal(layer.weight, NET.get_submodule(name).weight)


def test_a_layer_called_at_every_step_can_be_trained():
    net, _ = pruned(0.8)
    sum(net[0](step).square().sum() for step in X).backward()
    assert net[0].weight.grad.any()


def test_a_pruned_layer_compiles_without_a_graph_break():
    net, _ = pruned(0.8)
    layer = torch.compile(net[0], fullgraph=True, backend="eager")
    torch.testing.assert_close(layer(X), net[0](X))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_keep_their_masks(duplicate):
    net = duplicate(pruned(0.8)[0])
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net(X)
    assert torch.equal(net[0].weight == 0, net[0].weight_mask)


def test_a_saved_network_loads_into_a_dense_one():
    net, _ = pruned(0.8)
    compress.quantize(net, STATS, 4)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = network()
    compress.load_compressed(loaded, torch.load(file))
    assert torch.equal(loaded(X), net(X))
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with torch.no_grad():
        loaded[0].weight.fill_(1.0)
        loaded(X)
    assert torch.equal(loaded[0].weight == 0, net[0].weight_mask)


# --- Quantisation -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["osbc", "obc", "rtn"])
def test_weights_are_codes_times_scales(method):
    net = copy.deepcopy(NET)
    report = compress.quantize(net, STATS, 3, method)
    for name in LAYERS:
        layer = net.get_submodule(name)
        assert torch.equal(layer.weight, layer.weight_scale[:, None] * layer.weight_codes)
        assert layer.weight_codes.dtype == torch.int8
    assert report.column("bits") == [3, 3, 3]


def test_quantised_layers_equal_the_function_for_one_layer():
    net = copy.deepcopy(NET)
    compress.quantize(net, STATS, 3)
    for name in LAYERS:
        weight, (block,) = NET.get_submodule(name).weight, STATS[name].spiking
        expected, codes, scale = compress.quantize_weight(weight, block.hessian, 3)
        layer = net.get_submodule(name)
        assert torch.equal(layer.weight, expected) and torch.equal(layer.weight_codes, codes)
        assert torch.equal(layer.weight_scale, scale)


def test_rounding_to_nearest_is_rounding_to_nearest():
    net = copy.deepcopy(NET)
    compress.quantize(net, STATS, 4, "rtn")
    weight = NET[0].weight.detach()
    codes = round_to_grid(weight.double(), grid(weight.double(), 4).float().double(), 4)
    assert torch.equal(net[0].weight_codes.double(), codes)


def test_a_pruned_network_can_be_quantised():
    net, _ = pruned(0.7)
    report = compress.quantize(net, STATS, 4)
    for name in LAYERS:
        layer = net.get_submodule(name)
        assert not layer.weight[layer.weight_mask].any()
        assert not layer.weight_codes[layer.weight_mask].any()
    pairs = zip(report.column("membrane after"), report.column("membrane before"), strict=True)
    assert all(after < before for after, before in pairs)


def test_convolutions_are_pruned_and_quantised():
    net = nn.Sequential(
        sjl.Conv2d(4, 8, 3, groups=2, step_mode="m"), sjn.LIFNode(2.0, step_mode="m")
    ).eval()
    stats = compress.calibrate(net, [spikes(4, 3, 4, 6, 6)])
    compress.prune(net, stats, 0.5)
    assert net[0].weight_mask.shape == net[0].weight.shape
    assert int((net[0].weight == 0).sum()) == 72
    compress.quantize(net, stats, 4)
    scale = net[0].weight_scale.reshape(-1, 1, 1, 1)
    assert torch.equal(net[0].weight, scale * net[0].weight_codes)


def test_a_quantised_layer_pruned_by_magnitude_keeps_codes_that_are_its_weight():
    net = copy.deepcopy(NET)
    compress.quantize(net, STATS, 4)
    report = compress.prune(net, STATS, 0.5, "magnitude")
    assert not any("dropped" in note for note in report.notes)
    for name in LAYERS:
        layer = net.get_submodule(name)
        assert layer.weight_mask.any() and not layer.weight_codes[layer.weight_mask].any()
        assert torch.equal(layer.weight, layer.weight_scale[:, None] * layer.weight_codes)


def test_a_quantised_layer_whose_other_weights_are_compensated_loses_its_codes():
    net = copy.deepcopy(NET)
    compress.quantize(net, STATS, 4)
    report = compress.prune(net, STATS, 0.5, layers=["0"])
    assert "codes and scale dropped: 0" in str(report)
    assert set(dict(net[0].named_buffers())) == {"weight_mask"}
    assert torch.equal(net[2].weight, net[2].weight_scale[:, None] * net[2].weight_codes)
    compress.quantize(net, STATS, 4, layers=["0"])
    assert torch.equal(net[0].weight, net[0].weight_scale[:, None] * net[0].weight_codes)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_saving_codes_that_training_has_left_behind_warns(duplicate):
    net = copy.deepcopy(NET)
    compress.quantize(net, STATS, 4)
    net = duplicate(net)
    net.state_dict()  # without a warning
    with torch.no_grad():
        net[2].weight[0, 0] += 1e-4
    with pytest.warns(UserWarning, match=r"^2\.weight_codes: the weight has changed") as seen:
        state = net.state_dict()
    assert len(seen) == 1
    loaded = network()
    compress.load_compressed(loaded, state)
    with pytest.warns(UserWarning, match=r"^2\.weight_codes"):
        loaded.state_dict()


# --- Bad input --------------------------------------------------------------------------------

NO_PLAIN = compress.calibrate(NET, [X], plain=False)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda net: compress.prune(net, STATS, 1.0), ValueError, "sparsity"),
        (lambda net: compress.prune(net, STATS, -0.5), ValueError, "sparsity"),
        (lambda net: compress.prune(net, STATS), ValueError, "sparsity"),
        (lambda net: compress.prune(net, STATS, 0.5, "obd"), ValueError, "'magnitude'"),
        (lambda net: compress.prune(net, STATS, 0.9, pattern="2:4"), ValueError, "leave it out"),
        (lambda net: compress.prune(net, STATS, pattern="2:5"), ValueError, "does not divide"),
        (
            lambda net: compress.prune(net, STATS, 0.2, allocation=dict.fromkeys(LAYERS, 0.5)),
            ValueError,
            "leave sparsity=0.2 out",
        ),
        (
            lambda net: compress.prune(
                net, STATS, pattern="2:4", allocation=dict.fromkeys(LAYERS, 0.5)
            ),
            ValueError,
            "allocation: pattern 2:4 fixes it",
        ),
        (lambda net: compress.prune(net, STATS, 0.5, layers="0"), TypeError, "layers: .* got '0'"),
        (lambda net: compress.quantize(net, STATS, layers="2"), TypeError, "layers: .* got '2'"),
        (lambda net: compress.prune(net, STATS, 0.5, layers=["7"]), ValueError, "0, 2, 4"),
        (lambda net: compress.prune(net, {}, 0.5), TypeError, "from calibrate"),
        (lambda net: compress.prune(net, NO_PLAIN, 0.5, "obs"), ValueError, "plain=True"),
        (lambda net: compress.prune(net[:3], STATS, 0.5), ValueError, "no layer '4'"),
        (lambda net: compress.quantize(net, STATS, 9), ValueError, "bits"),
        (lambda net: compress.quantize(net, STATS, 4, "gptq"), ValueError, "'rtn'"),
        (lambda net: compress.quantize(net, NO_PLAIN, 4, "obc"), ValueError, "plain=True"),
    ],
)
def test_bad_input_is_named_and_leaves_the_network_alone(call, error, message):
    net = copy.deepcopy(NET)
    with pytest.raises(error, match=message):
        call(net)
    assert list(net.state_dict()) == list(NET.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), NET.parameters(), strict=True))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_network_that_changed_after_calibration_is_refused(compressed):
    net = copy.deepcopy(NET)
    if compressed:
        compress.prune(net, STATS, 0.5)
    with torch.no_grad():
        net[2].weight[0, 0] += 1
    for call in (lambda: compress.prune(net, STATS, 0.5), lambda: compress.quantize(net, STATS)):
        with pytest.raises(ValueError, match="'2' has changed since it was calibrated"):
            call()


def test_a_failure_in_a_late_layer_leaves_the_early_ones_alone(monkeypatch):
    calls = []

    def fail_later(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    from spikeloom.compress import compression as module

    original = module.prune_blocks
    monkeypatch.setattr(module, "prune_blocks", fail_later)
    net = copy.deepcopy(NET)
    with pytest.raises(KeyboardInterrupt):
        compress.prune(net, STATS, 0.5)
    assert list(net.state_dict()) == list(NET.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), NET.parameters(), strict=True))


@pytest.mark.parametrize("method", ["osbc", "magnitude"])
def test_layers_pruned_one_after_another_stay_pruned(method):
    net = copy.deepcopy(NET)
    compress.prune(net, STATS, method=method, allocation={"0": 0.75, "2": 0.0, "4": 0.0})
    gone = net[0].weight_mask.clone()
    report = compress.prune(net, STATS, method=method, allocation={"0": 0.0, "2": 0.5, "4": 0.0})
    assert torch.equal(net[0].weight_mask, gone)
    assert report.column("target") == [0, 64, 0] and report.column("removed") == [144, 64, 0]
    assert report.notes[-1].endswith("stays so: 0")
    compress.quantize(net, STATS, 3)
    assert not net[0].weight[gone].any() and not net[0].weight_codes[gone].any()


def test_weights_removed_before_count_among_those_that_go():
    net = copy.deepcopy(NET)
    for sparsity in (0.5, 0.7, 0.9):
        before = net[0].weight_mask.clone() if sparsity > 0.5 else torch.zeros(16, 12).bool()
        report = compress.prune(net, STATS, sparsity, "obs")
        assert sum(report.column("removed")) == int(sparsity * (16 * 12 + 8 * 16 + 4 * 8))
        assert net[0].weight_mask[before].all()
    (block,) = STATS["0"].plain
    layer, last = net[0], copy.deepcopy(net[0].weight.detach())
    solution = solved(last.double(), block.hessian, layer.weight_mask)
    torch.testing.assert_close(last.double(), solution, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["osbc", "magnitude"])
def test_a_pattern_spares_nothing_that_was_removed_before(method):
    net, _ = pruned(0.8, method)
    gone = {name: net.get_submodule(name).weight_mask.clone() for name in LAYERS}
    compress.prune(net, STATS, method=method, pattern="2:4")
    for name in LAYERS:
        layer = net.get_submodule(name)
        assert layer.weight_mask[gone[name]].all() and not layer.weight[gone[name]].any()
        left = (~layer.weight_mask).unflatten(1, (-1, 4)).sum(2)
        assert left.max() == 2


def test_statistics_on_another_device_are_refused():
    net = copy.deepcopy(NET).to("meta")
    with pytest.raises(ValueError, match=r"stats: are on cpu, the weight of '0' on meta"):
        compress.prune(net, STATS, 0.5)


def test_loading_shares_nothing_with_the_state():
    net, fresh = pruned(0.5)[0], network()
    compress.load_compressed(fresh, net.state_dict())
    mask = net[0].weight_mask.clone()
    net[0].weight_mask.logical_not_()
    assert torch.equal(fresh[0].weight_mask, mask)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.update({"0.weight_mask": torch.ones(3, 12).bool()}), "size mismatch"),
        (lambda state: state.update({"9.weight_mask": torch.ones(3).bool()}), "9.weight_mask"),
        (lambda state: state.pop("4.bias"), "4.bias"),
    ],
    ids=["shape", "unknown layer", "missing"],
)
def test_a_state_that_does_not_fit_leaves_no_masks_behind(change, message):
    state = pruned(0.5)[0].state_dict()
    change(state)
    fresh = network()
    keys = fresh.state_dict().keys()
    with pytest.raises(RuntimeError, match=message):
        compress.load_compressed(fresh, state)
    assert fresh.state_dict().keys() == keys
    fresh(X)
    compress.load_compressed(fresh, pruned(0.5)[0].state_dict())
    assert fresh[0].weight_mask.any() and len(fresh[0]._forward_pre_hooks) == 1


def test_an_interrupt_while_a_state_is_loaded_leaves_no_masks_behind(monkeypatch):
    def interrupted(state):
        raise KeyboardInterrupt

    fresh = network()
    monkeypatch.setattr(fresh, "load_state_dict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress.load_compressed(fresh, pruned(0.5)[0].state_dict())
    assert fresh.state_dict().keys() == network().state_dict().keys()


def test_removed_weights_are_saved_as_zero_right_after_an_optimizers_step():
    net, _ = pruned(0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(X).sum().backward()
    optimizer.step()
    assert net[0].weight[net[0].weight_mask].any()
    assert not net.state_dict()["0.weight"][net[0].weight_mask].any()


def test_no_layers_is_an_error():
    with pytest.raises(ValueError, match="layers: names no layer"):
        pruned(0.5, layers=[])
