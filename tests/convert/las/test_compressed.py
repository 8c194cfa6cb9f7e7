"""Networks that were compressed before their conversion keep their zeros and codes."""

import os

import pytest
import torch
from torch import nn

from spikeloom import compress, convert
from spikeloom.convert import LAS
from spikeloom.grid import BUFFERS, bits_of
from spikeloom.rows import is_weight_layer

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def compressed(model, batch, sparsity=0.25, bits=4):
    """The model, pruned and quantised in place."""
    # A head's weight is the embedding's, and torch's attention does not call its projection.
    kept = ("lm_head", "out_proj")
    named = model.named_modules()
    layers = [name for name, layer in named if is_weight_layer(layer) and not name.endswith(kept)]
    statistics = compress.calibrate(model, [batch], layers=layers)
    compress.prune(model, statistics, sparsity, layers=layers)
    compress.quantize(model, statistics, bits, layers=layers)
    return model


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()


def encoder():
    torch.manual_seed(0)
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        1, enable_nested_tensor=False,
    ).eval()  # fmt: skip


def check_marks(network, finished):
    """Whether every compressed layer of a finished network is so in its conversion."""
    names = [name for name, layer in finished.named_modules() if "weight_codes" in layer._buffers]
    assert names
    for name in names:
        layer, own = finished.get_submodule(name), network.get_submodule(name)
        assert torch.equal(own.weight, layer.weight)
        assert not own.weight.requires_grad
        assert own.weight_mask.any() and not own.weight[own.weight_mask].any()
        assert all(torch.equal(getattr(own, key), getattr(layer, key)) for key in BUFFERS)
        assert bits_of(own) == bits_of(layer) <= 4


@torch.no_grad()
@pytest.mark.parametrize("build, shape", [(perceptron, (64, 8)), (encoder, (8, 6, 8))])
def test_finished_layers_keep_their_zeros_and_codes(build, shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    finished = compress.finish(compressed(build(), x))
    network = LAS(steps=12, progress=False).apply(finished, [x])
    check_marks(network, finished)
    distance = (network(x) - finished(x)).norm() / finished(x).norm()
    assert distance < 0.01


def test_a_network_that_is_still_being_compressed_is_refused_with_the_remedy():
    x = torch.randn(64, 8)
    with pytest.raises(ValueError, match=r"compressed in 0 \(Linear\), 2 .*compress\.finish"):
        LAS(progress=False).apply(compressed(perceptron(), x), [x])


def test_codes_that_are_no_longer_those_of_the_weight_are_refused():
    x = torch.randn(64, 8)
    finished = compress.finish(compressed(perceptron(), x))
    finished[2].weight.data.mul_(1.5)
    with pytest.raises(ValueError, match=r"no longer scale times code, in 2 \(Linear\)"):
        LAS(progress=False).apply(finished, [x])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Family -> a finished model of transformers, a batch, and the folder of its conversion."""
    pytest.importorskip("transformers")
    from tests.convert.las.families import build, inputs

    def get(family):
        batch = inputs(family)
        finished = compress.finish(compressed(build(family), batch))
        network = LAS(steps=8, progress=False).apply(finished, [batch])
        folder = tmp_path_factory.mktemp(family)
        network.save_pretrained(folder)
        return finished, network, batch, folder

    return get


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_loaded_network_has_the_zeros_and_codes_of_the_saved_one(family, saved):
    finished, network, batch, folder = saved(family)
    check_marks(network, finished)
    loaded = convert.load_las(folder)
    check_marks(loaded, finished)
    assert torch.equal(loaded(**batch)[0], network(**batch)[0])


@torch.no_grad()
def test_a_compressed_folder_is_converted_with_its_zeros_and_codes(tmp_path, saved):
    finished, network, batch, _ = saved("bert")
    finished.save_pretrained(tmp_path / "float")
    recipe = LAS(steps=8, progress=False)
    convert.las_folder(tmp_path / "float", tmp_path / "spiking", [batch], recipe)
    loaded = convert.load_las(tmp_path / "spiking")
    check_marks(loaded, finished)
    assert torch.equal(loaded(**batch)[0], network(**batch)[0])
