"""How many tokens of a mixture of experts go to other experts once it is converted.

    python examples/benchmarks/las_routing.py

Three small mixtures with random weights. Their gates compute in float, as do the scores by which
they choose, but on the hidden values of the converted network: a token whose experts score almost
the same may go to another one. A row tells, for each number of steps, the share of tokens with
another choice in each layer, and the relative L2 error of the logits.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import transformers as t
from torch import Tensor, nn

from spikeloom.convert import LAS

__all__ = ["MIXTURES", "changed", "main"]

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "num_experts_per_tok": 2,
}  # fmt: skip
OF_QWEN = {"num_experts": 8, "moe_intermediate_size": 32}
MIXTURES = {
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**SIZES, num_local_experts=8)),
    "qwen2_moe": lambda: t.Qwen2MoeForCausalLM(
        t.Qwen2MoeConfig(**SIZES, **OF_QWEN, shared_expert_intermediate_size=32)
    ),
    "qwen3_moe": lambda: t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**SIZES, **OF_QWEN, head_dim=8)),
}


def tokens(seed: int) -> dict[str, Tensor]:
    """16 rows of 32 tokens."""
    draw = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(5, 97, (16, 32), generator=draw)}


def chosen(model: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """The experts of every token in each layer, and the logits."""
    scores: list[Tensor] = []

    def keep(gate: nn.Module, args: Any, output: Any) -> None:
        scores.append(output[0] if isinstance(output, tuple) else output)

    hooks = [
        module.register_forward_hook(keep)
        for name, module in model.named_modules()
        if name.endswith("mlp.gate")
    ]
    logits: Tensor = model(**batch).logits
    for hook in hooks:
        hook.remove()
    return [score.topk(2, -1).indices.sort(-1).values for score in scores], logits


def changed(model: nn.Module, steps: int) -> tuple[list[float], float]:
    """The share of tokens with other experts, by layer, and the error of the logits.

    Args:
        model: A mixture of experts.
        steps: K.
    """
    network = LAS(steps=steps, progress=False).apply(model, [tokens(0), tokens(1)])
    (own, expected), (others, found) = (chosen(each, tokens(9)) for each in (model, network))
    shares = [float((a != b).any(-1).float().mean()) for a, b in zip(own, others, strict=True)]
    return shares, float((found - expected).norm() / expected.norm())


@torch.no_grad()
def main() -> None:
    """Print a row for each mixture and number of steps."""
    warnings.filterwarnings("ignore")
    t.logging.set_verbosity_error()
    torch.set_num_threads(1)
    print("| mixture | K | tokens with other experts, by layer | logits, relative L2 |")
    print("|---|---|---|---|")
    for name, build in MIXTURES.items():
        torch.manual_seed(0)
        model = build().eval()
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)
        for steps in (6, 8, 12):
            shares, error = changed(model, steps)
            print(f"| {name} | {steps} | {', '.join(f'{s:.1%}' for s in shares)} | {error:.4f} |")


if __name__ == "__main__":
    main()
