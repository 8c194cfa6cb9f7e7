"""SpikeLinear beside torch's own layer."""

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import spikeloom
from spikeloom.kernel import events
from spikeloom.nn import SpikeLinear, break_even, product

T, BATCH, INPUTS, OUTPUTS = 5, 7, 70, 33


def spikes(*shape, density=0.1, dtype=torch.float32):
    return (torch.rand(shape or (T, BATCH, INPUTS)) < density).to(dtype)


def layer(threshold=1.0, **settings):
    torch.manual_seed(0)
    return SpikeLinear(INPUTS, OUTPUTS, threshold=threshold, **settings)


@pytest.fixture
def by_events(monkeypatch):
    """Counts the products that are taken by events."""
    calls, multiply = [], events.product

    def counted(*arguments):
        calls.append(arguments)
        return multiply(*arguments)

    monkeypatch.setattr(events, "product", counted)
    return calls


INPUT_KINDS = {
    "binary": lambda x: x,
    "ternary": lambda x: x * torch.randn_like(x).sign(),
    "with an amplitude": lambda x: 0.37 * x * torch.randn_like(x).sign(),
    "with a scale for each step": lambda x: x * torch.rand(T, 1, 1, dtype=x.dtype),
    "silent": lambda x: 0.0 * x,
}


@pytest.mark.parametrize("kind", INPUT_KINDS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_outputs_and_gradients_are_those_of_the_dense_layer(kind, dtype, by_events):
    torch.manual_seed(1)
    x = INPUT_KINDS[kind](spikes(dtype=dtype)).requires_grad_()
    ours, gy = layer(dtype=dtype), torch.randn(T, BATCH, OUTPUTS, dtype=dtype)
    found = ours(x)
    grads = torch.autograd.grad(found, (x, *ours.parameters()), gy)
    exact = [t.detach().double().requires_grad_() for t in (x, *ours.parameters())]
    expected = F.linear(*exact)
    expected_grads = torch.autograd.grad(expected, exact, gy.double())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    for a, b in ((found, expected), *zip(grads, expected_grads, strict=True)):
        assert a.dtype == dtype and a.shape == b.shape and a.is_contiguous()
        assert (a.double() - b).norm() <= tolerance * b.norm()
    assert len(by_events) == 1


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=3)))
def test_only_wanted_gradients_are_computed(wanted):
    torch.manual_seed(2)
    x, gy = spikes(), torch.randn(T, BATCH, OUTPUTS)
    ours, dense = layer(), nn.Linear(INPUTS, OUTPUTS)
    dense.load_state_dict(ours.state_dict())
    found = []
    for module in (ours, dense):
        tensors = (x.clone(), module.weight, module.bias)
        for tensor, want in zip(tensors, wanted, strict=True):
            tensor.requires_grad_(want)
        y = module(tensors[0])
        assert y.requires_grad == any(wanted)
        if any(wanted):
            y.backward(gy)
        found.append([tensor.grad for tensor in tensors])
    for ours_, theirs in zip(*found, strict=True):
        assert (ours_ is None) == (theirs is None)
        if ours_ is not None:
            torch.testing.assert_close(ours_, theirs)


@pytest.mark.parametrize("value", (0.3, float("nan"), float("inf"), -0.3))
def test_what_is_no_spike_takes_the_dense_path_bit_for_bit(value, by_events):
    torch.manual_seed(3)
    x = spikes(density=0.5)
    x[3, 2, 5], x[3, 2, 6] = value, 1.0
    ours = layer()
    torch.testing.assert_close(
        ours(x), F.linear(x, ours.weight, ours.bias), rtol=0, atol=0, equal_nan=True
    )
    assert not by_events


def test_a_nan_among_zeros_makes_its_row_nan(by_events):
    x = torch.zeros(4, INPUTS)
    x[1, 60], x[2, 4] = float("nan"), 1.0
    ours = layer()
    expected = F.linear(x, ours.weight, ours.bias)
    torch.testing.assert_close(ours(x), expected, equal_nan=True)
    assert ours(x).isnan().sum() == OUTPUTS
    assert by_events


@pytest.mark.parametrize("shape", ((0, 7), (5, 0), (0,), ()))
def test_empty_input_gives_what_the_dense_layer_gives(shape):
    ours, dense = layer(), nn.Linear(INPUTS, OUTPUTS)
    x = torch.zeros(*shape, INPUTS)
    assert ours(x).shape == dense(x).shape
    ours(x).sum().backward()
    assert ours.weight.grad is not None and not ours.weight.grad.count_nonzero()


@pytest.mark.parametrize("shape", ((T, BATCH, INPUTS + 1), (INPUTS - 1,)))
def test_a_wrong_width_is_refused_as_by_torch(shape):
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied|size mismatch"):
        layer()(torch.zeros(shape))


def test_strided_input_and_gradients_are_read_where_they_lie(by_events):
    torch.manual_seed(4)
    ours = layer()
    wide = spikes(BATCH, T, 2 * INPUTS)
    for x in (
        wide[..., ::2],
        wide[..., INPUTS:].transpose(0, 1),
        wide[:, :1, :INPUTS].expand(BATCH, T, -1),
    ):
        y = ours(x)
        weight, bias = torch.autograd.grad(y.sum(), (ours.weight, ours.bias))
        torch.testing.assert_close(y, F.linear(x, ours.weight, ours.bias))
        torch.testing.assert_close(weight, x.sum((0, 1)).expand(OUTPUTS, -1))
        torch.testing.assert_close(bias, torch.full((OUTPUTS,), float(BATCH * T)))
    assert len(by_events) == 3


@pytest.mark.parametrize("density, taken", ((0.05, 1), (0.3, 0)))
def test_more_spikes_than_the_threshold_allows_are_multiplied(density, taken, by_events):
    torch.manual_seed(5)
    layer(threshold=0.15)(spikes(density=density))
    assert len(by_events) == taken


def test_spikes_that_only_a_few_rows_have_are_multiplied_too(by_events):
    """What is seen of some rows is confirmed by all of them."""
    x = torch.zeros(640, INPUTS)
    x[1::10] = 1.0
    layer(threshold=0.05)(x)
    assert not by_events


@pytest.mark.parametrize(
    "threshold, error", ((1.5, ValueError), (-0.1, ValueError), ("a", TypeError), (True, TypeError))
)
def test_a_threshold_that_is_no_density_is_refused(threshold, error):
    with pytest.raises(error, match="threshold"):
        SpikeLinear(2, 2, threshold=threshold)


def test_a_second_derivative_is_refused_with_the_remedy():
    torch.manual_seed(6)
    x = spikes().requires_grad_()
    ours = layer()
    (gx,) = torch.autograd.grad((ours(x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="threshold=0"):
        gx.sum().backward()
    ours.threshold = 0.0
    (gx,) = torch.autograd.grad((ours(x) ** 2).sum(), x, create_graph=True)
    gx.sum().backward()


def test_of_the_input_only_bits_are_kept():
    torch.manual_seed(7)
    x, kept = spikes(64, 8, 640), []

    def note(tensor):
        kept.append(tensor)
        return tensor

    ours = SpikeLinear(640, 32, threshold=1.0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ours(x)
    assert sum(tensor.nbytes for tensor in kept) == x.nbytes // 32


def test_an_input_may_change_after_the_call():
    torch.manual_seed(8)
    x, ours = spikes(), layer()
    expected = torch.autograd.grad(F.linear(x, ours.weight, ours.bias).sum(), ours.weight)
    y = ours(x)
    x.zero_()
    torch.testing.assert_close(torch.autograd.grad(y.sum(), ours.weight), expected)


def test_a_weight_that_is_changed_in_place_before_its_use_is_an_error():
    x, ours = spikes().requires_grad_(), layer()
    y = ours(x)
    with torch.no_grad():
        ours.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_change_of_the_weight_is_seen_however_it_is_made():
    torch.manual_seed(9)
    x, ours = spikes(), layer()
    ours(x)
    ours.weight.data.mul_(3.0)
    torch.testing.assert_close(ours(x), F.linear(x, ours.weight, ours.bias))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_other_precisions_are_torchs_own(dtype, by_events):
    torch.manual_seed(10)
    x, ours = spikes(dtype=dtype), layer(dtype=dtype)
    assert torch.equal(ours(x), F.linear(x, ours.weight, ours.bias))
    wide = layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wide(spikes()).dtype == torch.bfloat16
    assert not by_events


def test_it_is_a_linear_layer_in_every_other_respect():
    ours, dense = layer(), nn.Linear(INPUTS, OUTPUTS)
    assert isinstance(ours, nn.Linear)
    assert list(ours.state_dict()) == list(dense.state_dict())
    dense.load_state_dict(ours.state_dict())
    torch.manual_seed(11)
    x = spikes()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), ours(x)) and other.threshold == 1.0
    assert repr(ours) == "SpikeLinear(in_features=70, out_features=33, bias=True, threshold=1.0)"
    assert repr(SpikeLinear(2, 3)) == "SpikeLinear(in_features=2, out_features=3, bias=True)"


def test_transformations_and_modes_see_torchs_own_operation():
    torch.manual_seed(12)
    x, ours = spikes(), layer()
    weights = dict(ours.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(ours, weights, x).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(weights, x)
    one = torch.func.grad(loss)(weights, x[:, 2])
    torch.testing.assert_close(found["weight"][2], one["weight"])
    names = []

    class Noted(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.append(func)
            return func(*args, **(kwargs or {}))

    with Noted():
        ours(x)
    assert F.linear in names


def test_a_default_device_does_not_count_as_a_mode(by_events):
    with torch.device("cpu"):
        layer()(spikes())
    assert by_events


@pytest.mark.slow
def test_it_compiles_in_one_graph_and_exports():
    torch.manual_seed(13)
    ours, x = layer(), spikes()
    compiled = torch.compile(ours, fullgraph=True)
    gy = torch.randn(T, BATCH, OUTPUTS)
    given = x.clone().requires_grad_()
    found = torch.autograd.grad(compiled(given), (given, *ours.parameters()), gy)
    expected = torch.autograd.grad(ours(given), (given, *ours.parameters()), gy)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    exported = torch.export.export(ours, (x,)).module()
    torch.testing.assert_close(exported(x), ours(x))


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=3)))
def test_the_compiled_operator_differentiates_as_the_layer(wanted):
    torch.manual_seed(14)
    ours = layer()
    tensors = (spikes(), ours.weight, ours.bias)
    for tensor, want in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(want)
    arguments = (*tensors, 1.0)
    torch.library.opcheck(torch.ops.spikeloom.spike_linear, arguments)
    learned = [tensor for tensor in tensors if tensor.requires_grad]
    if learned:
        found = torch.autograd.grad(torch.ops.spikeloom.spike_linear(*arguments).sum(), learned)
        expected = torch.autograd.grad(F.linear(*tensors).sum(), learned)
        torch.testing.assert_close(found, expected)


def test_it_learns_where_data_are_distributed(tmp_path):
    torch.manual_seed(18)
    alone, x = layer(), spikes()
    expected = torch.autograd.grad(alone(x).square().sum(), alone.weight)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/all", rank=0, world_size=1)
    try:
        ours = nn.parallel.DistributedDataParallel(copy.deepcopy(alone))
        ours(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close((ours.module.weight.grad,), expected)


def test_it_may_be_recomputed_in_the_backward_pass():
    torch.manual_seed(19)
    ours, x = layer(), spikes().requires_grad_()
    expected = torch.autograd.grad(ours(x).square().sum(), (x, ours.weight))
    for reentrant in (False, True):
        y = torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=reentrant)
        x.grad = ours.weight.grad = None
        y.square().sum().backward()
        torch.testing.assert_close((x.grad, ours.weight.grad), expected)


def test_a_default_device_elsewhere_changes_nothing():
    torch.manual_seed(20)
    ours, x = layer(), spikes().requires_grad_()
    expected = torch.autograd.grad(ours(x).sum(), (x, ours.weight))
    with torch.device("meta"):
        found = torch.autograd.grad(ours(x).sum(), (x, ours.weight))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_a_break_even_is_measured_on_the_cpu_whatever_the_default_device():
    size = break_even.size_of(product.LINEAR, torch.zeros(64, 70), torch.zeros(33, 70), learns=True)
    with torch.device("meta"):
        assert 0.0 <= break_even._between(*break_even._times(size)) <= 0.5


@pytest.mark.parametrize("shape", ((1,), (BATCH, OUTPUTS), ()))
def test_a_bias_that_torch_broadcasts_is_broadcast(shape, by_events):
    torch.manual_seed(21)
    ours, x = layer(), spikes()
    ours.bias = nn.Parameter(torch.randn(shape))
    assert torch.equal(ours(x), F.linear(x, ours.weight, ours.bias))
    assert not by_events


def test_a_bias_of_another_width_is_refused_as_by_torch():
    ours = layer()
    ours.bias = nn.Parameter(torch.randn(OUTPUTS - 1))
    with pytest.raises(RuntimeError):
        ours(spikes())


def test_a_gradient_that_is_negated_where_it_is_read_counts_with_its_sign():
    torch.manual_seed(22)
    ours, gy = layer(), torch.randn(T, BATCH, OUTPUTS)
    y = ours(spikes().requires_grad_())
    expected = torch.autograd.grad(y, (ours.weight, ours.bias), -gy, retain_graph=True)
    found = torch.autograd.grad(y, (ours.weight, ours.bias), torch._neg_view(gy))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


CHANGES = {
    "relu": lambda y: F.relu(y, inplace=True),
    "dropout": lambda y: F.dropout(y, 1.0, inplace=True),
    "sum": lambda y: y.add_(1.0),
    "a row": lambda y: y[0].zero_(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_output_may_be_changed_in_place(change, by_events):
    torch.manual_seed(23)
    ours, x = layer(), spikes()
    found = []

    def compiled(x):
        return torch.ops.spikeloom.spike_linear(x, ours.weight, ours.bias, 1.0)

    for linear in (ours, compiled, lambda x: F.linear(x, ours.weight, ours.bias)):
        y = linear(x)
        CHANGES[change](y)
        found.append((y, *torch.autograd.grad(y.square().sum(), (ours.weight, ours.bias))))
    for *ours_, theirs in zip(*found, strict=True):
        for each in ours_:
            torch.testing.assert_close(each, theirs)
    assert len(by_events) > 1


def test_a_second_derivative_of_the_compiled_operator_is_refused_too():
    torch.manual_seed(24)
    x, ours = spikes().requires_grad_(), layer()
    y = torch.ops.spikeloom.spike_linear(x, ours.weight, ours.bias, 1.0)
    (gx,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="threshold=0"):
        (gx.sum() + x.square().sum()).backward()


def test_the_input_may_be_named_as_torch_names_it():
    torch.manual_seed(25)
    ours, x = layer(), spikes()
    assert torch.equal(ours(input=x), ours(x))


def test_a_traced_layer_is_torchs_own():
    torch.manual_seed(26)
    ours, x = nn.Sequential(layer(threshold=None), nn.ReLU()), spikes()
    traced = torch.fx.symbolic_trace(ours)
    assert torch.equal(traced(x), ours(x))
    assert F.linear in [node.target for node in traced.graph.nodes]


@pytest.mark.parametrize("strict", (False, True))
def test_an_exported_layer_is_torchs_own_for_any_batch(strict):
    torch.manual_seed(27)
    ours, x = layer(), spikes(9, INPUTS)
    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(ours, (x,), dynamic_shapes=({0: batch},), strict=strict)
    assert "spikeloom" not in str(exported.graph)
    for rows in (3, 50):
        x = spikes(rows, INPUTS)
        torch.testing.assert_close(exported.module()(x), ours(x))


@pytest.mark.parametrize("threshold", (2, float("nan"), -1, True, "a"))
def test_a_threshold_that_is_set_later_is_checked_too(threshold):
    ours = layer()
    with pytest.raises((TypeError, ValueError), match="threshold"):
        ours.threshold = threshold
    assert ours.threshold == 1.0


# --- The break-even ---


def test_a_break_even_is_measured_once_and_leaves_random_numbers_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(product, "FEWEST", 1)
    measure = break_even._seconds
    monkeypatch.setattr(
        break_even, "_seconds", lambda *f, alone: asked.append(f) or measure(*f, alone=alone)
    )
    break_even._found.clear()
    ours = SpikeLinear(INPUTS, OUTPUTS)
    torch.manual_seed(15)
    x = spikes()
    state = torch.get_rng_state()
    for grad in (True, False, True):
        with torch.set_grad_enabled(grad):
            ours(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(asked) == 1
    break_even._found.clear()


TIMES = {
    # looking, dense, events at 5 % and at 50 % -> break-even
    (0.0, 1.0, 0.1, 0.55): 0.5,
    (0.0, 1.0, 0.5, 5.0): 0.095,
    (0.0, 1.0, 1.5, 5.0): 0.0,
    (0.5, 1.0, 0.1, 0.55): 0.0,
    (0.1, 1.0, 0.1, 0.55): 0.4,
    (0.0, 1.0, 0.9, 0.9): 0.5,
}


@pytest.mark.parametrize("seconds, expected", TIMES.items())
def test_a_break_even_is_where_two_times_meet(seconds, expected):
    assert break_even._between(*seconds) == pytest.approx(expected)


def test_a_break_even_does_not_jump_with_what_a_look_costs():
    found = [break_even._between(look / 1000, 1.0, 0.1, 0.55) for look in range(200)]
    assert found[0] == 0.5 and found[-1] == 0.0
    assert max(a - b for a, b in itertools.pairwise(found)) < 0.01


def test_only_an_input_of_spikes_has_the_break_even_measured(monkeypatch):
    monkeypatch.setattr(product, "FEWEST", 1)
    monkeypatch.setattr(break_even, "_times", lambda size: pytest.fail("measures"))
    break_even._found.clear()
    torch.manual_seed(28)
    ours, x = SpikeLinear(INPUTS, OUTPUTS), torch.randn(T, BATCH, INPUTS)
    assert torch.equal(ours(x), F.linear(x, ours.weight, ours.bias))


def size(rows, inputs, outputs):
    x, weight = torch.empty(rows, inputs, device="meta"), (outputs, inputs)
    return break_even.size_of(product.LINEAR, x, torch.empty(weight, device="meta"), learns=False)


@pytest.mark.parametrize(
    "sizes", ((1 << 12, 4096, 32000), (1 << 24, 1, 64), (1 << 24, 64, 1), (9, 1 << 26, 8))
)
def test_what_is_measured_is_bounded(sizes):
    measured = break_even._shrunk(size(*sizes))
    (inputs,), (outputs, _) = measured.row, measured.weight
    assert measured.rows * inputs * outputs <= 1 << 30
    assert max(measured.rows * inputs, measured.rows * outputs, inputs * outputs) <= 1 << 26
    assert break_even._shrunk(size(1024, 700, 256)) == size(1024, 700, 256)


def test_for_a_few_rows_nothing_is_measured(monkeypatch):
    """Laying out the weight takes longer than the dense product."""
    monkeypatch.setattr(break_even, "_times", lambda size: pytest.fail("measures"))
    assert break_even.break_even(size(1, 4096, 32000)) == 0.0


def test_what_was_measured_is_kept_for_so_many_sizes(monkeypatch):
    monkeypatch.setattr(break_even, "_times", lambda size: (0.0, 1.0, 1.5, 5.0))
    monkeypatch.setattr(break_even, "SIZES", 3)
    break_even._found.clear()
    for inputs in range(1, 9):
        break_even.break_even(size(64, inputs, 5))
    assert len(break_even._found) == 3
    break_even._found.clear()


def test_a_size_for_which_events_are_never_quicker_is_not_looked_at_again(monkeypatch, by_events):
    monkeypatch.setattr(product, "FEWEST", 1)
    monkeypatch.setattr(break_even, "_times", lambda size: (0.0, 1.0, 1.5, 5.0))
    break_even._found.clear()
    torch.manual_seed(17)
    ours, x = SpikeLinear(INPUTS, OUTPUTS), spikes()
    ours(x)
    monkeypatch.setattr(product, "_spikes_of", lambda *_, **__: pytest.fail("looks"))
    assert torch.equal(ours(x), F.linear(x, ours.weight, ours.bias))
    assert not by_events
    break_even._found.clear()


def test_deterministic_algorithms_take_no_clock(monkeypatch):
    monkeypatch.setattr(break_even, "_times", lambda size: pytest.fail("measures"))
    torch.use_deterministic_algorithms(True)
    try:
        size = break_even.size_of(product.LINEAR, torch.zeros(9, 8), torch.zeros(7, 8), learns=True)
        found = break_even.break_even(size)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == break_even.FIXED


def test_without_llvm_it_is_a_dense_layer(monkeypatch, by_events):
    monkeypatch.setitem(product.MISSING, "llvm", "llvmlite is not installed")
    torch.manual_seed(16)
    x, ours = spikes(), layer()
    assert torch.equal(ours(x), F.linear(x, ours.weight, ours.bias))
    assert not by_events


def test_it_is_found_where_its_users_look():
    assert spikeloom.nn.SpikeLinear is SpikeLinear
