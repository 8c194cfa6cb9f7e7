"""Batch normalisation for spiking layers: over channels or tokens, with or without time.

Every norm takes ``[T * B, ...]``, time in front, and its statistics cover all steps and positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["NORMS", "StepScale", "TokenBatchNorm", "make_norm"]

NORMS = ("bn", "tdbn", "tebn")


class TokenBatchNorm(nn.BatchNorm1d):
    r"""Batch normalisation with one mean, variance, gain and shift for each token position.

    .. math:: y_{mnc} = \gamma_n\,(u_{mnc} - \mu_n) / \sqrt{\sigma_n^2 + \epsilon} + \beta_n

    The features are positions n, not the channels c that a weight layer in front produces, so this
    norm does not fold into that layer's weights.

    Args:
        size: Height and width of the map; there are N = H * W features, row by row.

    Attributes:
        tokens: N.
        feature_shape: How a value for each feature broadcasts against a map ``[C, H, W]``.

    Shape:
        - Input and output: ``[M * N, C]``, the tokens of M maps one after the other

    Example:
        >>> import torch
        >>> y = TokenBatchNorm((2, 3))(torch.randn(8 * 6, 5))
        >>> bool(y.unflatten(0, (8, 6)).mean((0, 2)).abs().max() < 1e-6)
        True
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size[0] * size[1])
        self.tokens = size[0] * size[1]
        self.feature_shape = size

    def forward(self, input: Tensor) -> Tensor:
        """Normalise every position over maps and channels."""
        return super().forward(input.unflatten(0, (-1, self.tokens))).flatten(0, 1)


class StepScale(nn.Module):
    r"""A learned factor for each step: with a batch norm in front, TEBN.

    .. math:: y[t] = k[t]\,x[t]

    Args:
        steps: T.
        groups: How many equal groups of channels have factors of their own.

    Shape:
        - Input and output: ``[T * B, C, ...]``, time in front

    Raises:
        ValueError: If the input does not divide into T steps.

    Source: Duan et al., "Temporal Effective Batch Normalization in Spiking Neural Networks".
    """

    def __init__(self, steps: int, groups: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(steps, groups))

    def forward(self, x: Tensor) -> Tensor:
        """Scale every step by its factor."""
        steps, groups = self.scale.shape
        if x.shape[0] % steps:
            raise ValueError(
                f"StepScale: learned for steps={steps}, got a sequence of other length "
                f"({x.shape[0]} rows of steps x batch); tebn needs the T it was trained with"
            )
        # [T, B, groups, C / groups, ...]
        parts = x.unflatten(0, (steps, -1)).unflatten(2, (groups, -1))
        scale = self.scale.reshape(steps, 1, groups, *(1 for _ in parts.shape[3:]))
        return (parts * scale).flatten(2, 3).flatten(0, 1)


def make_norm(
    kind: str, norm: nn.BatchNorm1d | nn.BatchNorm2d, steps: int, groups: int = 1
) -> list[nn.Module]:
    """The modules of one normalisation.

    Args:
        kind: ``"bn"``; ``"tdbn"``, whose gain starts at the threshold 1, which is batch norm's own
            start; or ``"tebn"``, with a learned factor for each step behind it.
        norm: The batch norm itself.
        steps: T, for tebn.
        groups: Groups of channels with factors of their own, for tebn.
    """
    return [norm, StepScale(steps, groups)] if kind == "tebn" else [norm]
