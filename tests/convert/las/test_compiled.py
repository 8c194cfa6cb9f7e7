"""Converted networks under torch.compile and torch.export."""

import os

import pytest
import torch
from torch import nn

from spikeloom.convert import LAS

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

from tests.convert.las.families import inputs, relative  # needs transformers


class Calling(nn.Module):
    """Multiplies two functions of one layer's output in its own code."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.softmax(h, -1) * torch.tanh(h))


@pytest.fixture(autouse=True)
def from_a_clean_slate():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def block():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16)).eval()
    return LAS(steps=8, progress=False).apply(model, [torch.randn(8, 4)])


@torch.no_grad()
def test_an_attention_of_transformers_is_one_graph(converted):
    attention, x = converted("gpt2")[1].transformer.h[0].attn, torch.randn(2, 5, 32)
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], attention(x)[0], rtol=0, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_network_is_one_graph(family, converted):
    network = converted(family)[1]
    settings = {} if family == "bert" else {"use_cache": False}
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    wanted = network(**inputs(family), **settings)[0]
    assert torch.equal(compiled(**inputs(family), **settings)[0], wanted)


def test_a_compiled_block_and_its_gradient_are_those_of_the_block(block):
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x, grads = torch.randn(8, 4), []
    for layer in (block, compiled):
        block.zero_grad()
        y = layer(x)
        y.square().sum().backward()
        grads.append((y.detach(), block[0].weight.grad.clone()))
    assert torch.equal(grads[0][0], grads[1][0])
    torch.testing.assert_close(grads[0][1], grads[1][1])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_infinity_never_becomes_a_number(backend, bad, block):
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    compiled(torch.randn(2, 4))
    assert compiled(torch.full((2, 4), bad)).isnan().all()


@torch.no_grad()
def test_an_exported_block_is_saved_and_loaded(block, tmp_path):
    x = torch.randn(8, 4)
    torch.export.save(torch.export.export(block, (x,)), tmp_path / "block.pt2")
    again = torch.export.load(tmp_path / "block.pt2").module()
    assert torch.equal(again(x), block(x))


@pytest.fixture
def calling():
    torch.manual_seed(0)
    return LAS(steps=8, progress=False).apply(Calling().eval(), [torch.randn(32, 8)])


@torch.no_grad()
@pytest.mark.parametrize("part_of", [lambda network: network, nn.Sequential])
def test_one_graph_of_a_network_with_calls_of_its_own_is_refused_with_the_way_there(
    part_of, calling
):
    x = torch.randn(5, 8)
    wanted = calling(x)
    compiled = torch.compile(part_of(calling), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"torch\.compile\(torch\.export\.export\(network"):
        compiled(x)
    assert torch.equal(calling(x), wanted)  # the network itself computes on
    exported = torch.export.export(part_of(calling), (x,)).module()
    assert torch.equal(torch.compile(exported, fullgraph=True, backend="aot_eager")(x), wanted)


@torch.no_grad()
def test_compiled_in_parts_a_network_with_calls_of_its_own_computes_as_it_is(calling):
    x = torch.randn(5, 8)
    around = nn.Sequential(nn.Linear(8, 8), calling, nn.Tanh()).eval()
    wanted = around(x)
    compiled = torch.compile(around, backend="aot_eager")
    for _ in range(2):
        assert torch.equal(compiled(x), wanted)
    assert torch.equal(around(x), wanted)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family, settings", [("bert", {}), ("gpt2", {"use_cache": False})])
def test_a_network_is_exported(family, settings, converted):
    network, batch = converted(family)[1], {**inputs(family), **settings}
    exported = torch.export.export(network, (), batch).module()
    assert relative(exported(**batch)[0], network(**batch)[0]) < 1e-6
