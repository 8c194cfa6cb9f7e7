"""Values that a forward takes out of torch: no proof and no count may pass over them."""

import copy
import ctypes
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.verify import check_mfi, count_energy


class Net(nn.Module):
    """``then`` stands between the spikes and the layer that reads them."""

    def __init__(self, then) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.spike = nn.Linear(6, 8), spikeloom.SpikingLayer(neurons.LIF())
        self.then, self.last = Then(then), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.then(self.spike(self.stem(x))))


class Then(nn.Module):
    def __init__(self, then) -> None:
        super().__init__()
        self.then = then
        self.memory = nn.Buffer(torch.zeros(6, 3, 8))
        self.weight = nn.Parameter(torch.full((8,), 0.5))
        self.gain = torch.full((8,), 2.0)

    def forward(self, y):
        return self.then(self, y)


def net(then) -> nn.Module:
    return Net(then).eval()


def sample() -> torch.Tensor:
    return (torch.rand(6, 3, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def write_behind(self, y):
    """Scales a tensor through an array on its memory."""
    z = y.clone()
    z.numpy()[...] *= 0.3
    return z


def array_made_before(self, y):
    """An array on a tensor that only later holds what depends on the sample."""
    z = torch.zeros_like(y)
    array = z.numpy()
    z.copy_(y)
    return torch.from_numpy(array * 0.3)


def array_underneath(self, y):
    """Memory of NumPy's that torch writes to."""
    array = np.zeros(y.shape)
    torch.from_numpy(array).copy_(y)
    return torch.from_numpy(array * 0.3)


def array_of_a_parameter(self, y):
    with torch.no_grad():
        self.weight.copy_(y.sum((0, 1)))
    return y + torch.from_numpy(self.weight.detach().numpy() * 0.3)


def array_of_a_buffer(self, y):
    self.memory.copy_(y)
    return torch.from_numpy(self.memory.numpy() * 0.3)


def through_an_address(self, y):
    y = y.contiguous()
    values = (ctypes.c_double * y.numel()).from_address(y.data_ptr())
    return torch.tensor([value * 0.3 for value in values], dtype=y.dtype).view(y.shape)


def through_a_storage(self, y):
    y = y.contiguous()
    return torch.tensor([v * 0.3 for v in y.storage().tolist()], dtype=y.dtype).view(y.shape)


def through_set(self, y):
    return torch.empty(0, dtype=y.dtype).set_(y.untyped_storage(), 0, y.shape).numpy()


def in_another_thread(self, y):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: y * 0.3).result()


def behind_the_watch(self, y):
    with torch.utils._python_dispatch._disable_current_modes():
        return y * 0.3


def only_if_it_works(self, y):
    """What is refused here would not be without the proof."""
    try:
        return torch.from_numpy(y.numpy() * 0.3)
    except (RuntimeError, ValueError):
        return y


def other_data(self, y):
    """A tensor of zeros that becomes another."""
    z = torch.zeros_like(y)
    z.data = y + 0.3
    return z


def numbers(y):
    return [[[value * 0.3 for value in row] for row in step] for step in y.tolist()]


LEAVING = {
    "numpy": lambda self, y: torch.from_numpy(y.numpy() * 0.3),
    "numpy by force": lambda self, y: torch.from_numpy(y.numpy(force=True) * 0.3),
    "detached numpy": lambda self, y: torch.from_numpy(y.detach().cpu().numpy() * 0.3),
    "asarray": lambda self, y: torch.from_numpy(np.asarray(y) * 0.3),
    "a function of numpy": lambda self, y: torch.from_numpy(np.multiply(y, 0.3)),
    "as_tensor": lambda self, y: torch.as_tensor(y.numpy() * 0.3),
    "frombuffer": lambda self, y: torch.frombuffer(
        bytearray((y.numpy() * 0.3).tobytes()), dtype=y.dtype
    ).view(y.shape),
    "tolist": lambda self, y: torch.tensor(numbers(y), dtype=y.dtype),
    "new_tensor": lambda self, y: y.new_tensor(numbers(y)),
    "dlpack": lambda self, y: torch.from_dlpack(np.from_dlpack(y) * 0.3),
    "dlpack of torch": lambda self, y: torch.from_numpy(
        torch.from_dlpack(torch.utils.dlpack.to_dlpack(y)).numpy() * 0.3
    ),
    "pickle": lambda self, y: torch.from_numpy(pickle.loads(pickle.dumps(y)).numpy() * 0.3),
    "shared memory": lambda self, y: y.share_memory_() * 0.3,
    "an address": through_an_address,
    "a storage": through_a_storage,
    "set_": through_set,
    "writing behind a tensor": write_behind,
    "an array made before": array_made_before,
    "an array underneath": array_underneath,
    "an array of a parameter": array_of_a_parameter,
    "an array of a buffer": array_of_a_buffer,
    "a function for every element": lambda self, y: y.clone().apply_(lambda value: 0.3 * value),
    "a function of two": lambda self, y: y.clone().map_(y, lambda a, b: 0.3 * a),
    "another thread": in_another_thread,
    "behind the watch": behind_the_watch,
    "an attempt": only_if_it_works,
    "setting data": other_data,
    "a number in a fill": lambda self, y: torch.full_like(y, 0.3 * sum(y.flatten().tolist())),
}


@pytest.mark.parametrize("then", LEAVING.values(), ids=LEAVING)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_model_that_takes_values_out_of_torch_is_not_proved(then):
    report = check_mfi(net(then), sample())
    assert not report.ok
    assert report.violations == ["then"]
    assert report.proofs == {"static": False, "guarded": False, "equal": False}
    assert "out of torch" in str(report)


@pytest.mark.parametrize("then", LEAVING.values(), ids=LEAVING)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_what_is_computed_outside_of_torch_is_not_counted_silently(then):
    with pytest.raises(ValueError, match=r"model: 'then' .*out of torch"):
        count_energy(net(then), sample())


def double_branch(self, y):
    return y if y.mean() >= 0 else y * 0.3


READING = {
    "item": lambda self, y: y + 0.3 * y.mean().item(),
    "float": lambda self, y: torch.full_like(y, 0.3 * float(y.mean())),
    "a branch": double_branch,
    "a count": lambda self, y: torch.full_like(y, 0.3 * y[y > 0].numel()),
    "a comparison": lambda self, y: y if torch.equal(y, y.abs()) else y * 0.3,
    "a selection": lambda self, y: y + 0.3 * torch.masked_select(y, y > 0).numel(),
    "a count by nonzero": lambda self, y: torch.full_like(y, 0.3 * len(y.nonzero())),
}


@pytest.mark.parametrize("then", READING.values(), ids=READING)
def test_a_value_that_is_read_is_found_and_noted(then):
    report = check_mfi(net(then), sample())
    assert not report.ok
    assert report.violations[0] == "then"
    energy = count_energy(net(then), sample())
    assert "Values are read in then: what Python computes from them is not counted" in str(energy)


IN_TORCH = {
    "autograd function": lambda self, y: Scaled.apply(y),
    "without overrides": lambda self, y: without_overrides(y),
    "out=": lambda self, y: torch.mul(y, 0.3, out=torch.empty_like(y)),
    "data": lambda self, y: y.data.mul_(0.3),
    "complex": lambda self, y: torch.view_as_real(torch.complex(y, y) * 0.3)[..., 0],
    "fft": lambda self, y: torch.fft.irfft(torch.fft.rfft(y), 8),
    "vmap": lambda self, y: torch.vmap(lambda row: row * 0.3)(y),
    "checkpoint": lambda self, y: torch.utils.checkpoint.checkpoint(
        lambda z: z * 0.3, y, use_reentrant=False
    ),
    "a table": lambda self, y: torch.tensor([0.0, 0.3], dtype=y.dtype)[y.long()],
    "an embedding": lambda self, y: nn.functional.embedding(
        y.long(), torch.tensor([[0.0], [0.3]], dtype=y.dtype)
    ).squeeze(-1),
    "a deep copy": lambda self, y: copy.deepcopy(y) * 0.3,
    "an operator of one's own": lambda self, y: torch.ops.spikeloom_tests.third(y),
    "one with the name of torch's": lambda self, y: torch.ops.spikeloom_tests.clone(y),
    "a scripted function": lambda self, y: torch.jit.script(third)(y),
    "a parameter made of it": lambda self, y: nn.Parameter(y * 0.3),
    "other bits": lambda self, y: (y.view(BITS[y.dtype]) + 1).view(y.dtype),
}
BITS = {torch.float64: torch.int64, torch.float32: torch.int32}
LIBRARY = torch.library.Library("spikeloom_tests", "DEF")
for _name in ("third", "clone"):
    LIBRARY.define(f"{_name}(Tensor x) -> Tensor")
    LIBRARY.impl(_name, lambda x: x * 0.3, "CPU")


def third(y: torch.Tensor):
    return y * 0.3


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y * 0.3

    @staticmethod
    def backward(ctx, grad):
        return grad


def without_overrides(y):
    with torch._C.DisableTorchFunction():
        return y * 0.3


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("then", IN_TORCH.values(), ids=IN_TORCH)
def test_what_is_computed_by_torch_in_any_manner_is_followed(then):
    report = check_mfi(net(then), sample())
    assert not report.ok
    assert set(report.violations) <= {"then", "last"}
    assert count_energy(net(then), sample()).macs > 6 * 6 * 8  # the last layer reads real values


def test_a_sparse_copy_is_refused():
    sparse = net(lambda self, y: torch.sparse.mm(y[0].to_sparse(), torch.eye(8, dtype=y.dtype)))
    assert check_mfi(sparse, sample()).violations == ["then"]
    with pytest.raises(ValueError, match=r"model: 'then' makes a sparse tensor.*to_dense"):
        count_energy(sparse, sample())


def in_place(self, y):
    z = torch.zeros(y.shape, dtype=y.dtype)
    z[:] = y
    return z.transpose_(0, 1).unsqueeze_(0).squeeze_(0).transpose(0, 1)


ALLOWED = {
    "nothing": lambda self, y: y,
    "zeros": lambda self, y: y + torch.zeros(8, dtype=y.dtype),
    "ones, full and arange": lambda self, y: (
        y - torch.ones(8) + torch.full((8,), 3.0) + torch.arange(8) + torch.eye(8)[0]
    ),
    "a list of numbers": lambda self, y: y + torch.tensor([1.0] * 8, dtype=y.dtype),
    "an array": lambda self, y: y + torch.from_numpy(np.arange(8, dtype="float32")),
    "a parameter read by numpy": lambda self, y: (
        y + torch.from_numpy(np.rint(self.weight.detach().numpy()))
    ),
    "a plain attribute": lambda self, y: y + self.gain,
    "a buffer": lambda self, y: y + self.memory,
    "a buffer written to": lambda self, y: self.memory.copy_(y),
    "writing in place": in_place,
    "a deep copy": lambda self, y: copy.deepcopy(y),
}


@pytest.mark.parametrize("then", ALLOWED.values(), ids=ALLOWED)
def test_constants_and_whole_numbers_are_no_detour(then):
    report = check_mfi(net(then), sample())
    assert report.ok, report
    energy = count_energy(net(then), sample())
    assert energy.macs == 6 * 6 * 8  # the stem's alone
    assert "not counted" not in str(energy)


def test_an_array_of_the_sample_itself_is_a_detour():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, 3)

        def forward(self, x):
            return self.last(torch.from_numpy(np.rint(x.numpy())))

    report = check_mfi(Encoder().eval(), sample(), exempt=())
    assert report.violations == ["(model)"]
    assert not report.ok


def test_the_sample_is_left_as_it_is():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(6, 3)

        def forward(self, x):
            return self.stem(x.add_(1.0))

    x = sample().double()
    before = x.clone()
    check_mfi(InPlace().eval(), x)
    count_energy(InPlace().double().eval(), x, steps=6, batch=3)
    assert torch.equal(x, before)


def test_numpy_works_again_after_a_proof():
    model = net(lambda self, y: torch.from_numpy(y.numpy() * 0.3))
    check_mfi(model, sample())
    with torch.no_grad():
        y = model(sample())
    assert y.shape == (6, 3, 3)


@pytest.mark.parametrize("check", [check_mfi, lambda *args: count_energy(*args, steps=6, batch=3)])
def test_a_parameter_may_be_set_from_constants(check):
    def masked(self, y):
        self.weight.data.masked_fill_(self.memory[0, 0] == 0, 0.25)
        return y

    assert str(check(net(masked), sample())) == str(check(net(lambda self, y: y), sample()))


@pytest.mark.parametrize("read", [torch.sum, lambda z: z[0, 0]], ids=["values", "a view"])
def test_a_parameter_may_not_be_set_from_the_sample_through_a_buffer(read):
    def hidden(self, y):
        self.memory.copy_(y)
        self.weight.data.add_(read(self.memory))
        return y * torch.from_numpy(self.weight.detach().numpy() * 0.3)

    found = check_mfi(net(hidden), sample())
    assert not found.ok and "then" in found.violations
    with pytest.raises(ValueError, match="'then' takes values out of torch by writing them"):
        count_energy(net(hidden), sample())


@pytest.mark.parametrize("text", ["{:.2f}", "{}"])
def test_a_value_that_is_written_as_text_is_read(text):
    def logging(self, y):
        assert text.format(y.sum()) == text.format(float(y.sum()))
        return y

    found = check_mfi(net(logging), sample())
    assert found.violations == ["then"] and "reads a value" in str(found)


@pytest.mark.parametrize("check", [check_mfi, count_energy])
def test_inference_mode_changes_no_verdict_and_no_count(check):
    model = net(lambda self, y: y)
    with torch.inference_mode():
        found = str(check(model, sample()))
        made_inside = str(check(net(lambda self, y: y), sample() + 0))
    assert found == made_inside == str(check(model, sample()))
