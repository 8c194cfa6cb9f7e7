"""Experts are chosen in float, by the scores of the converted network."""

import os

import pytest
import torch

from spikeloom.convert import LAS
from tests.convert.las.fitting import relative

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64,
}  # fmt: skip


def chosen(model, ids):
    """The experts of each token, in each layer, and the logits."""
    scores = []
    gates = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
    hooks = [gate.register_forward_hook(lambda *call: scores.append(call[-1][0])) for gate in gates]
    logits = model(input_ids=ids).logits
    for hook in hooks:
        hook.remove()
    return torch.stack([score.topk(2, -1).indices.sort(-1).values for score in scores]), logits


@torch.no_grad()
def test_few_tokens_go_to_other_experts():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SIZES, num_local_experts=8, num_experts_per_tok=2)
    model = transformers.MixtralForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.mul_(2 if parameter.dim() > 1 else 1)
    batches = [{"input_ids": torch.randint(5, 97, (16, 32))} for _ in range(2)]
    network = LAS(progress=False).apply(model, batches)
    gates = [module for name, module in network.named_modules() if name.endswith("mlp.gate")]
    assert len(gates) == 2
    for gate in gates:  # the weights of the chosen experts are normalised by spikes
        computed = {name.partition("_")[0] for name, _ in gate.las_calls.named_children()}
        assert computed == {"mul", "reciprocal"}
    ids = torch.randint(5, 97, (16, 32))
    (own, expected), (others, found) = chosen(model, ids), chosen(network, ids)
    assert float((own != others).any(-1).float().mean()) < 0.01
    assert 0 < relative(found, expected) < 0.02
