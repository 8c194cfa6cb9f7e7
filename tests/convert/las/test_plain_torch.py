"""Transformers in plain torch convert, whatever of torch they are written with."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from spikeloom.convert import LAS, set_form
from tests.convert.las.families import relative
from tests.convert.las.plain import HandWrittenRMSNorm, PlainDecoder, ids

WAYS = {
    "torch's attention": {},
    "a causal softmax by hand": {"by_hand": True},
    "its own RMSNorm": {"norm": HandWrittenRMSNorm},
    "rotary positions": {"rotary": True},
    "all by hand": {"norm": HandWrittenRMSNorm, "by_hand": True, "rotary": True},
}


def decoder(way):
    torch.manual_seed(0)
    return PlainDecoder(**WAYS[way]).eval()


def converted(model, steps=8):
    return LAS(steps=steps, progress=False).apply(model, [ids(0), ids(1)])


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_a_decoder_in_plain_torch_is_converted_however_it_is_written(way):
    model = decoder(way)
    network = converted(model)
    wanted, found = model(ids(7)), network(ids(7))
    assert 0 < relative(found, wanted) < 0.02
    set_form(network, "spikes")
    assert relative(network(ids(7)), found) < 0.01


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_a_decoder_in_plain_torch_comes_nearer_with_more_steps(way):
    model = decoder(way)
    assert relative(converted(model, 12)(ids(7)), model(ids(7))) < 0.002


def masked(kind, *sizes):
    torch.manual_seed(0)
    return kind(*sizes, dim_feedforward=64, batch_first=True).eval()


class Decoding(nn.Module):
    """torch's decoder, which takes a mask."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.decoder = nn.TransformerDecoder(layer, 2, nn.LayerNorm(32))

    def forward(self, target, memory):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.decoder(target, memory, tgt_mask=mask, tgt_is_causal=True)


PAIRED = {
    "nn.Transformer": lambda: masked(nn.Transformer, 32, 4, 2, 2),
    "nn.TransformerDecoder": Decoding,
}


def pair(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(3, 9, 32, generator=draw), torch.randn(3, 7, 32, generator=draw)


@torch.no_grad()
@pytest.mark.parametrize("name", PAIRED)
def test_torch_s_own_decoder_is_converted(name):
    model = PAIRED[name]().eval()
    network = LAS(steps=8, progress=False).apply(model, [pair(0), pair(1)])
    wanted, found = model(*pair(7)), network(*pair(7))
    assert 0 < relative(found, wanted) < 0.02
    set_form(network, "spikes")
    assert relative(network(*pair(7)), found) < 0.01


def test_tied_weights_stay_tied():
    network = converted(decoder("torch's attention"))
    assert network.head.weight is network.tokens.weight
    assert isinstance(network.head, nn.Linear) and hasattr(network.head, "site")


@torch.no_grad()
def test_a_model_with_calls_of_its_own_is_converted_in_bfloat16():
    exact = decoder("all by hand")(ids(7))
    model = decoder("all by hand").bfloat16()
    network = LAS(steps=8, progress=False).apply(model, [ids(0), ids(1)])
    found = network(ids(7))
    assert found.dtype == torch.bfloat16
    # bfloat16 alone is about as far away.
    rounded = relative(model(ids(7)).float(), exact)
    assert relative(found.float(), exact) < 0.02 + rounded < 0.05


@torch.no_grad()
def test_a_model_with_calls_of_its_own_computes_the_same_in_a_new_process(tmp_path):
    network = converted(decoder("all by hand"))
    torch.save(network, tmp_path / "network.pt")
    torch.save(network(ids(7)), tmp_path / "wanted.pt")
    script = (
        "import sys, torch; from tests.convert.las.plain import ids; torch.set_num_threads(1)\n"
        "network = torch.load(sys.argv[1] + '/network.pt', weights_only=False)\n"
        "wanted = torch.load(sys.argv[1] + '/wanted.pt')\n"
        "with torch.no_grad(): found = network(ids(7))\n"
        "assert float((found - wanted).norm() / wanted.norm()) < 1e-6"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


@torch.no_grad()
def test_a_model_with_calls_of_its_own_is_exported_and_then_compiled():
    torch.compiler.reset()
    network = converted(decoder("all by hand"))
    exported = torch.export.export(network, (ids(7),)).module()
    assert relative(exported(ids(7)), network(ids(7))) < 1e-6
    compiled = torch.compile(exported, fullgraph=True, backend="aot_eager")
    assert relative(compiled(ids(7)), network(ids(7))) < 1e-6
    torch.compiler.reset()
