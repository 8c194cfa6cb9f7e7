"""Where a converted language model's error comes from, and which single change buys most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikeloom import convert
from spikeloom.report import Report

__all__ = ["changes"]

# What is changed -> settings of LAS, for K steps elsewhere.
CHANGES: dict[str, Any] = {
    "nothing": lambda k: {},
    "a step more for down_proj": lambda k: {"site_steps": {"down_proj": k + 1}},
    "a step more for o_proj": lambda k: {"site_steps": {"o_proj": k + 1}},
    "a step more for q, k, v, gate and up": lambda k: {"site_steps": {"(q|gate)_proj": k + 1}},
    "a step more for queries and keys": lambda k: {"site_steps": {r"las\.[qk]$": k + 1}},
    "a step more for values": lambda k: {"site_steps": {r"las\.v$": k + 1}},
    "a step more for probabilities": lambda k: {"site_steps": {r"las\.p$": k + 1}},
    "a step more for softmax": lambda k: {"site_steps": {r"las\.softmax": k + 1}},
    "a step more inside norms": lambda k: {"site_steps": {"norm": k + 1}},
    "a step more inside gated products": lambda k: {"site_steps": {r"mlp\.(factor|act)": k + 1}},
    "a step more for lm_head": lambda k: {"site_steps": {"lm_head": k + 1}},
    "a step more in norms and feed-forward layers": lambda k: {"extra_steps": 1},
    "8 ranges": lambda k: {"ranges": 8},
    "2 ranges": lambda k: {"ranges": 2},
    "no head-room": lambda k: {"headroom": 1.0},
    "twice the pieces of tables": lambda k: {"segments": 64},
}


@torch.no_grad()
def changes(model: nn.Module, calibration: list[Tensor], texts: list[Tensor], steps: int) -> Report:
    """How far the next token's distribution is from the float model's after each change.

    The distance is Kullback and Leibler's divergence, in nats a token. Of few tokens it tells more
    than the perplexity, which chance moves up and down.

    Args:
        model: The float model.
        calibration: Passages to calibrate on.
        texts: Passages to compare on.
        steps: K.
    """
    batches = [{"input_ids": ids} for ids in calibration]
    wanted = [_log_probabilities(model, ids) for ids in texts]
    report = Report(f"Single changes at K = {steps}", ("change", "divergence", "spikes/value"))
    for what, settings in CHANGES.items():
        recipe = convert.LAS(steps=steps, progress=False, **settings(steps))
        network: Any = recipe.apply(model, batches)
        pairs = zip(wanted, texts, strict=True)
        each = [_divergence(known, _log_probabilities(network, ids)) for known, ids in pairs]
        report.add(what, sum(each) / len(each), network.report.spikes_per_value)
        if what == "nothing":
            for name, error in network.report.layers.rows:
                if name.rpartition(".")[0] == "model.layers":
                    report.notes.append(f"{name}: relative error {error:.4f}")
        print(report, flush=True)
    return report


def _log_probabilities(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)


def _divergence(wanted: Tensor, found: Tensor) -> float:
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())
