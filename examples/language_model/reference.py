"""Reference: what the float model says of the text, and how near a network comes to it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Nearness", "Reference"]


class Nearness(NamedTuple):
    """How near a network comes to the float model; shares are of all tokens."""

    tokens: int
    perplexity: float
    increase: float  # of the perplexity, relative
    uncertainty: float  # of the increase: its standard error over passages
    next_token: float  # most likely next tokens that are those of the float model
    greedy: float | None  # tokens of the continuations that are those of the float model


class Reference:
    """The float model's losses, next tokens and continuations.

    Args:
        model: The float model.
        texts: Passages of tokens, ``[1, length]``.
        prompts: Beginnings that are continued by 64 tokens, greedily.
    """

    def __init__(self, model: nn.Module, texts: list[Tensor], prompts: list[Tensor]) -> None:
        self.texts, self.prompts = texts, prompts
        self.losses, self.tokens = _predicted(model, texts)
        self.continued = [_continued(model, prompt) for prompt in prompts]

    @property
    def perplexity(self) -> float:
        """That of the float model on all passages."""
        return math.exp(float(self.losses.mean()))

    def nearness(self, network: nn.Module, texts: int | None = None) -> Nearness:
        """Compare a network with the float model.

        Args:
            network: A causal language model.
            texts: On so many of the passages, and without continuations; None: on all.
        """
        losses, tokens = _predicted(network, self.texts[:texts])
        known = slice(len(losses))
        more, greedy = losses - self.losses[known], None
        if texts is None and self.prompts:
            pairs = zip(self.prompts, self.continued, strict=True)
            same = [_continued(network, prompt) == expected for prompt, expected in pairs]
            greedy = float(torch.cat(same).float().mean())
        return Nearness(
            tokens=tokens.numel(),
            perplexity=math.exp(float(losses.mean())),
            increase=math.expm1(float(more.mean())),
            uncertainty=float(more.std() / len(more) ** 0.5),
            next_token=float((tokens == self.tokens[known]).float().mean()),
            greedy=greedy,
        )


@torch.no_grad()
def _predicted(model: nn.Module, texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Each passage's mean loss of a token, and its most likely next tokens."""
    losses, tokens = [], []
    for ids in texts:
        logits = model(input_ids=ids, use_cache=False).logits[0]
        losses.append(nn.functional.cross_entropy(logits[:-1], ids[0, 1:]).double())
        tokens.append(logits.argmax(-1))
    return torch.stack(losses), torch.stack(tokens)


@torch.no_grad()
def _continued(model: Any, prompt: Tensor) -> Tensor:
    """64 tokens, greedily."""
    mask = torch.ones_like(prompt)
    made = model.generate(
        prompt, attention_mask=mask, max_new_tokens=64, min_new_tokens=64, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    return made[0, prompt.shape[1] :]
