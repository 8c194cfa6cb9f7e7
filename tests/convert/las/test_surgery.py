"""What is done to a converted model afterwards: heads resized, adapters added, layers asked for."""

import copy
import os

import pytest
import torch
from torch import nn

from spikeloom import convert
from spikeloom.convert import LAS, set_form
from spikeloom.convert.las.layers import Linear, Spiking, WeightLayer
from spikeloom.convert.las.norms import LayerNorm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from tests.convert.las.families import (  # noqa: E402  # needs transformers
    FAMILIES,
    build,
    inputs,
    relative,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_spiking_layer_is_the_layer_that_it_replaces(family, converted):
    model, network = converted(family)
    kinds = (nn.Linear, nn.LayerNorm, nn.Embedding, transformers.pytorch_utils.Conv1D)
    for name, original in model.named_modules():
        for kind in kinds:
            if isinstance(original, kind):
                layer = network.get_submodule(name)
                assert isinstance(layer, kind), name
                assert torch.equal(layer.weight, original.weight), name
                for size in ("in_features", "out_features", "nx", "nf", "normalized_shape", "eps"):
                    assert getattr(layer, size, None) == getattr(original, size, None), (name, size)


@torch.no_grad()
def test_a_layer_of_ones_own_that_is_written_like_conv1d_is_converted():
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 8))
            self.bias = nn.Parameter(torch.randn(8))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight)

    torch.manual_seed(0)
    model, x = nn.Sequential(Conv1D()).eval(), torch.randn(32, 4)
    network = LAS(steps=12, progress=False).apply(model, [x])
    assert isinstance(network[0], Linear)
    assert relative(network(x), model(x)) < 0.01


def masked_bert():
    torch.manual_seed(0)
    _, config, sizes = FAMILIES["bert"]
    made = transformers.BertForMaskedLM(getattr(transformers, config)(**sizes))
    return made.eval()


RESIZED = ["gpt2", "llama", "opt", "gpt_neox", "phi", "bert"]


@torch.no_grad()
@pytest.mark.parametrize("size", [101, 90])
@pytest.mark.parametrize("family", RESIZED)
def test_resized_embeddings_keep_a_spiking_head(family, size, tmp_path):
    model = masked_bert() if family == "bert" else build(family)
    batch = inputs(family)
    network = LAS(steps=10, progress=False).apply(model, [batch])
    head, words = network.get_output_embeddings(), min(size, 97)
    assert isinstance(head, Linear)
    before = network(**batch).logits
    torch.manual_seed(1)
    embeddings = network.resize_token_embeddings(size)
    assert embeddings is network.get_input_embeddings()
    assert network.get_output_embeddings() is head
    assert (head.out_features, *head.weight.shape) == (size, size, 32)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (head.weight is embeddings.weight) == tied
    for form in ("spikes", "decoded"):
        set_form(network, form)
        after = network(**batch).logits
        assert after.shape[-1] == size
        assert relative(after[..., :words], before[..., :words]) < 1e-3
    assert {type(module) for module in network.modules()} == {
        type(module) for module in LAS(steps=10, progress=False).apply(model, [batch]).modules()
    }
    network.save_pretrained(tmp_path, save_original_format=False)
    again = convert.load_las(tmp_path)
    assert torch.equal(again(**batch).logits, after)
    again.resize_token_embeddings(120)
    assert isinstance(again.get_output_embeddings(), Linear)


@torch.no_grad()
def test_a_copy_and_a_pickle_of_a_network_resize_themselves(tmp_path):
    network = LAS(steps=8, progress=False).apply(build("llama"), [inputs("llama")])
    torch.save(network, tmp_path / "network.pt")
    for other in (copy.deepcopy(network), torch.load(tmp_path / "network.pt", weights_only=False)):
        other.resize_token_embeddings(101)
        assert isinstance(other.get_output_embeddings(), Linear)
        assert len(other.get_output_embeddings().weight) == 101
        assert len(network.get_output_embeddings().weight) == 97


@pytest.mark.parametrize(
    "family, targets", [("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn", "c_fc"])]
)
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_lora_adapters_are_trained_and_merged_into_spiking_layers(family, targets):
    peft = pytest.importorskip("peft")
    batch = inputs(family)
    network = LAS(steps=10, progress=False).apply(build(family), [batch])
    before = network(**batch).logits.detach()
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=2, target_modules=targets, fan_in_fan_out=family == "gpt2", lora_dropout=0.0
    )
    adapted = peft.get_peft_model(network, settings)
    assert torch.equal(adapted(**batch).logits, before)  # adapters begin at zero
    optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=1.0)
    adapted(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    with torch.no_grad():
        trained = adapted(**batch).logits
        assert relative(trained, before) > 1e-3
        merged = adapted.merge_and_unload()
        assert relative(merged(**batch).logits, trained) < 0.02
    for name, module in merged.named_modules():
        if name.rpartition(".")[2] in targets:
            assert isinstance(module, WeightLayer), name


def test_norms_of_a_converted_model_are_known_to_those_who_ask_for_layer_norms(converted):
    _, network = converted("bert")
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    spiking = [module for module in norms if isinstance(module, Spiking)]
    assert len(norms) == 5 and len(spiking) == 4
    assert all(isinstance(module, LayerNorm) for module in spiking)
