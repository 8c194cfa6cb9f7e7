"""Converted networks are saved, pickled and copied, and compute the same afterwards."""

import copy
import io
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from spikeloom import convert
from spikeloom.convert import LAS, set_form

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

from tests.convert.las.families import build, inputs  # needs transformers


@torch.no_grad()
@pytest.mark.parametrize("family", ["albert", "bert", "gpt2", "qwen2", "vit"])
def test_a_network_is_saved_and_loaded(family, converted, tmp_path):
    model, network = converted(family)
    network.save_pretrained(tmp_path, save_original_format=family != "vit")
    again = convert.load_las(tmp_path)
    assert torch.equal(again(**inputs(family))[0], network(**inputs(family))[0])
    model.save_pretrained(tmp_path / "original")
    with pytest.raises(ValueError, match="holds no model converted by LAS"):
        convert.load_las(tmp_path / "original")


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_is_loaded_in_the_dtype_it_was_saved_in(dtype, converted, tmp_path):
    network = copy.deepcopy(converted("bert")[1]).to(dtype)
    network.save_pretrained(tmp_path)
    again = convert.load_las(tmp_path)
    assert again.dtype == dtype
    assert torch.equal(again(**inputs("bert"))[0], network(**inputs("bert"))[0])


@torch.no_grad()
def test_weights_in_several_files_are_loaded(converted, tmp_path):
    _, network = converted("bert")
    network.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = convert.load_las(tmp_path)
    assert torch.equal(again(**inputs("bert"))[0], network(**inputs("bert"))[0])


@torch.no_grad()
def test_a_network_can_be_copied(converted):
    _, network = converted("bert")
    batch = inputs("bert")
    assert torch.equal(copy.deepcopy(network)(**batch)[0], network(**batch)[0])


@torch.no_grad()
def test_a_saved_module_computes_the_same_in_a_new_process(converted, tmp_path):
    _, network = converted("gpt2")
    batch = inputs("gpt2")
    # Masked, as a mask that is not applied would be a wrong number.
    batch["attention_mask"] = (torch.arange(12) >= torch.tensor([[0], [3], [5], [0]])).long()
    torch.save((network, batch, network(**batch)[0]), tmp_path / "network.pt")
    script = (
        "import sys, torch\n"
        "network, batch, expected = torch.load(sys.argv[1], weights_only=False)\n"
        "assert torch.equal(network(**batch)[0], expected)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "network.pt")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@torch.no_grad()
def test_a_network_that_was_interrupted_can_still_be_saved(converted):
    network = copy.deepcopy(converted("bert")[1])
    attention = network.encoder.layer[0].attention.self
    x = torch.randn(4, 12, 32)
    # The first of three readers has its spikes, the others have not come.
    attention.query(x)
    torch.save(network, io.BytesIO())
    assert torch.equal(attention.key(x), copy.deepcopy(attention).key(x))


@torch.no_grad()
def test_a_state_dict_carries_the_ranges(converted):
    network = converted("bert")[1]
    other = LAS(steps=10, progress=False).apply(build("bert"), [inputs("bert", seed=5)])
    assert not torch.equal(other(**inputs("bert"))[0], network(**inputs("bert"))[0])
    other.load_state_dict(network.state_dict())
    set_form(other, "decoded")
    sites = [name for name in network.state_dict() if name.endswith("normal")]
    assert sites and all(torch.equal(other.state_dict()[n], network.state_dict()[n]) for n in sites)


@torch.no_grad()
def test_a_plain_network_is_pickled():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8)).eval()
    x = torch.randn(16, 4)
    network = LAS(progress=False).apply(model, [x])
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), network(x))
