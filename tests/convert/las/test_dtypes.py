"""Converted networks in float64, float16, bfloat16 and under autocast."""

import copy
import os

import pytest
import torch
from torch import nn

from spikeloom.convert import LAS, set_form
from spikeloom.convert.las.attention import Softmax
from spikeloom.convert.las.norms import LayerNorm, RMSNorm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

from tests.convert.las.families import build, inputs, relative  # needs transformers

# dtype -> the relative error allowed for K = 10; bfloat16 has eight significant bits.
ALLOWED = {torch.float64: 0.003, torch.float16: 0.004, torch.bfloat16: 0.015}
DTYPES = pytest.mark.parametrize("dtype", ALLOWED)


@torch.no_grad()
@DTYPES
@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_converted_network_is_moved_to_a_dtype(family, form, dtype, converted):
    model, network = converted(family)
    moved = copy.deepcopy(network).to(dtype)
    set_form(moved, form)
    found = moved(**inputs(family))[0]
    assert found.dtype == dtype
    assert relative(found.double(), model(**inputs(family))[0].double()) < ALLOWED[dtype]


@torch.no_grad()
@DTYPES
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_model_is_converted_in_its_dtype(family, dtype):
    model = build(family)
    network = LAS(steps=10, progress=False).apply(copy.deepcopy(model).to(dtype), [inputs(family)])
    assert network.dtype == dtype
    found = network(**inputs(family))[0]
    assert relative(found.double(), model(**inputs(family))[0].double()) < ALLOWED[dtype]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["decoded", "spikes"])
def test_autocast_is_as_exact_as_its_dtype(dtype, form, converted):
    model, network = converted("gpt2")
    network = copy.deepcopy(network)
    set_form(network, form)
    expected = model(**inputs("gpt2"))[0]
    with torch.autocast("cpu", dtype=dtype):
        found = network(**inputs("gpt2"))[0]
    assert found.dtype == dtype
    assert relative(found.float(), expected) < ALLOWED[dtype]


def test_a_conversion_under_autocast_is_the_same_as_without(converted):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network = LAS(steps=10, progress=False).apply(build("bert"), [inputs("bert")])
    ours, theirs = (n.state_dict() for n in (network, converted("bert")[1]))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@torch.no_grad()
def test_ranges_stay_float32_so_that_outliers_stay_finite():
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
    model[0].weight.copy_(torch.eye(2) * 2**-4)
    x = torch.tensor([[6e4, 0.01], [-3e4, 1e-4]])
    network = LAS(steps=10, progress=False).apply(model, [x]).half()
    # The outermost range, twice the largest value, is infinite in float16.
    assert network[0].site.outlier.dtype == torch.float32 and network[0].site.outlier > 65504
    found = network(x.half())
    torch.testing.assert_close(found.float()[:, 0], x[:, 0] / 16, rtol=2e-3, atol=0)
    assert network.double()[0].site.outlier.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize(
    "original, kind", [(nn.LayerNorm, LayerNorm), (nn.RMSNorm, RMSNorm)], ids=["layer", "rms"]
)
def test_squares_do_not_overflow_in_half_precision(original, kind, form, dtype):
    torch.manual_seed(0)
    x = (torch.randn(64, 16) * 2000).to(dtype)
    norm = original(16, eps=1e-5).to(dtype)
    model = nn.Sequential(norm).eval()
    network = LAS(steps=10, progress=False).apply(model, [x])
    set_form(network, form)
    assert isinstance(network[0], kind) and network(x).dtype == dtype
    assert relative(network(x).float(), model(x).float()) < ALLOWED[dtype]


@torch.no_grad()
def test_a_softmax_over_many_keys_adds_up_to_one_in_half_precision():
    softmax = Softmax()
    p = softmax.decoded(torch.zeros(1, 4096, dtype=torch.bfloat16))
    assert p.dtype == torch.bfloat16
    assert float(p.double().sum()) == pytest.approx(1, abs=0.005)
    assert float(softmax.spikes(torch.zeros(1, 4096).half()).sum()) == pytest.approx(1, abs=0.005)
