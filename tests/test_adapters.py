"""Adapters beside a layer's weight: refused until they are merged into it."""

import pytest
import torch
from torch import nn

from spikeloom import compress, convert

# transformers warns of a property that PEFT reads.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


class Adapted(nn.Module):
    """A linear layer with a product of two small ones added, as PEFT has it."""

    __module__ = "peft.tuners.lora.layer"

    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(6, 6)
        self.lora_A, self.lora_B = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


REMEDY = r"'?1'? \(Adapted\) adds an adapter .* model = model\.merge_and_unload\(\)"


def test_compression_of_a_model_with_adapters_is_refused_with_the_remedy():
    net = nn.Sequential(nn.Linear(6, 6), Adapted()).eval()
    with pytest.raises(ValueError, match=REMEDY):
        compress.calibrate(net, [torch.randn(8, 6)])


def test_spikelm_of_a_model_with_adapters_is_refused_with_the_remedy():
    net = nn.Sequential(nn.Linear(6, 6), Adapted()).eval()
    with pytest.raises(ValueError, match=REMEDY):
        convert.SpikeLM().apply(net)


def adapted_bert():
    """A BERT of transformers with LoRA on its queries and values, and a batch."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 30}
    config = transformers.BertConfig(**size, num_hidden_layers=1, attn_implementation="eager")
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    settings = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    return peft.get_peft_model(model, settings).eval(), {"input_ids": torch.randint(30, (3, 6))}


def test_a_merged_model_is_compressed_and_then_converted():
    model, batch = adapted_bert()
    with pytest.raises(ValueError, match="merge_and_unload"):
        compress.calibrate(model, [batch])
    expected = model(**batch)[0]
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**batch)[0], expected)
    stats = compress.calibrate(merged, [batch])
    compress.prune(merged, stats, 0.3)
    snn = convert.LAS(progress=False).apply(compress.finish(merged), [batch])
    found, pruned = snn(**batch)[0], merged(**batch)[0]
    assert (found - pruned).norm() < 0.05 * pruned.norm()
    query = "encoder.layer.0.attention.self.query"
    mask = merged.get_submodule(query).weight_mask
    assert mask.any() and not snn.get_submodule(query).weight[mask].any()


def test_a_model_with_adapters_is_converted_by_las_as_it_is():
    model, batch = adapted_bert()
    snn = convert.LAS(progress=False).apply(model, [batch])
    expected = model(**batch)[0]
    assert (snn(**batch)[0] - expected).norm() < 0.05 * expected.norm()
