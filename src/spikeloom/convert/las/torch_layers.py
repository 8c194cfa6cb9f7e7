"""Spiking forms of torch's own attention and transformer encoder layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.convert.las.attention import Attention
from spikeloom.convert.las.layers import Activation, Linear
from spikeloom.convert.las.norms import LayerNorm

__all__ = ["EncoderLayer", "MultiheadAttention"]


class MultiheadAttention(nn.Module):
    """``nn.MultiheadAttention`` on spikes, with its arguments.

    Args:
        original: The attention.

    Raises:
        TypeError: If it has added key or value biases, or a zero attention.
    """

    in_proj_bias = None  # by which torch's encoder layer sees that its fused path is not for this

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        if original.bias_k is not None or original.add_zero_attn:
            raise TypeError("nn.MultiheadAttention with add_bias_kv or add_zero_attn has no rule")
        self.heads, self.batch_first = original.num_heads, original.batch_first
        weights, biases = _projections(original)
        self.q_proj, self.k_proj, self.v_proj = map(Linear, weights, biases)
        self.out_proj = Linear.of(original.out_proj)
        self.las = Attention()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The context and, if asked for, the attention weights.

        Raises:
            ValueError: If there is no axis for the batch, or no mask for causal attention.
        """
        if query.dim() != 3:
            axes = "[batch, length, features]" if self.batch_first else "[length, batch, features]"
            raise ValueError(f"query: must be {axes}, got shape {tuple(query.shape)}")
        if is_causal and attn_mask is None:
            raise ValueError("is_causal: give attn_mask as well; it alone says what is not seen")
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._split(self.q_proj(query)), self.k_proj(key), self.v_proj(value)
        mask = _additive(attn_mask, key_padding_mask, q)
        k, v = self._split(k), self._split(v)
        context, p = self.las.as_in_torch(q, k, v, mask, q.shape[-1] ** -0.5, need_weights)
        y = self.out_proj(context.transpose(1, 2).flatten(2))
        if not need_weights:
            p = None
        elif average_attn_weights:
            assert p is not None
            p = p.mean(1)
        return (y if self.batch_first else y.transpose(0, 1)), p

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _projections(original: nn.MultiheadAttention) -> tuple[Any, Any]:
    """The three weights and biases."""
    if original.in_proj_weight is None:
        weights = (original.q_proj_weight, original.k_proj_weight, original.v_proj_weight)
    else:
        weights = original.in_proj_weight.chunk(3)
    # No parameters yet, so that each layer makes its own of them: parts of one cannot be saved.
    return weights, [None] * 3 if original.in_proj_bias is None else original.in_proj_bias.chunk(3)


def _additive(mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """Both of torch's masks as one that is added: boolean ones are True where nothing is seen."""
    total = None
    for part, shape in ((mask, None), (padding, (-1, 1, 1))):
        if part is None:
            continue
        if part.dtype == torch.bool:
            part = torch.zeros_like(part, dtype=q.dtype).masked_fill(part, -torch.inf)
        if shape is not None:
            part = part[:, None, None, :]
        elif part.dim() == 3:
            part = part.unflatten(0, (len(q), -1))
        total = part if total is None else total + part
    return total


class EncoderLayer(nn.Module):
    """``nn.TransformerEncoderLayer`` on spikes, with its arguments.

    Args:
        original: The layer; its weights are shared, not copied, but for those of its attention.
        function: The name of its activation.
    """

    def __init__(self, original: nn.TransformerEncoderLayer, function: str) -> None:
        super().__init__()
        self.norm_first = original.norm_first
        self.self_attn = MultiheadAttention(original.self_attn)
        self.linear1, self.linear2 = map(Linear.of, (original.linear1, original.linear2))
        self.norm1, self.norm2 = (LayerNorm(norm) for norm in (original.norm1, original.norm2))
        self.activation = Activation(function)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The layer's output."""
        masks = {
            "attn_mask": src_mask,
            "key_padding_mask": src_key_padding_mask,
            "is_causal": is_causal,
        }
        if self.norm_first:
            x = src + self._attend(self.norm1(src), masks)
            return x + self._feed(self.norm2(x))
        x = self.norm1(src + self._attend(src, masks))
        return self.norm2(x + self._feed(x))

    def _attend(self, x: Tensor, masks: dict[str, Any]) -> Tensor:
        return self.self_attn(x, x, x, need_weights=False, **masks)[0]

    def _feed(self, x: Tensor) -> Tensor:
        return self.linear2(self.activation(self.linear1(x)))
