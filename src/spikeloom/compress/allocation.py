"""How many weights each layer gives up so that the whole network reaches its sparsity."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["allocate", "lamps_scores"]


def lamps_scores(W: Tensor, power: float = 2.0) -> Tensor:
    r"""What share each weight has in what would be left of its layer.

    .. math:: \mathrm{score}_i = \frac{v_i}{\sum_{j \ge i} v_j},\qquad v = \mathrm{sort}(|w|^p)

    Args:
        W: Weights of one layer.
        power: p.

    Returns:
        The scores in ascending order, float64, shape ``[weights]``.

    Source: LAMPS (Lee et al., arXiv 2010.07611), with the exponent of arXiv 2506.03996.
    """
    values = W.detach().flatten().abs().double().pow(power).sort().values
    tails = values.flip(0).cumsum(0).flip(0)
    # A layer of zeros has nothing to lose.
    return torch.where(tails > 0, values / tails, 0.0)


def allocate(
    weights: Mapping[str, Tensor],
    sparsity: float | None = None,
    allocation: str | Mapping[str, float] = "lamps",
    power: float = 2.0,
) -> dict[str, int]:
    """How many weights each layer gives up.

    Args:
        weights: Layer name -> weights.
        sparsity: Share of all their weights to remove, in [0, 1); not with a mapping.
        allocation: ``"lamps"`` compares scores across layers; ``"uniform"`` takes the same share
            of each; a mapping gives each layer its own share.
        power: Exponent of the LAMPS scores.

    Returns:
        Layer name -> number of weights.

    Raises:
        TypeError: If the sparsity or the allocation has the wrong type.
        ValueError: If a share lies outside [0, 1), the power is not positive, the mapping names
            other layers, or there are both a mapping and a sparsity, or neither.

    Example:
        >>> import torch
        >>> allocate({"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([0.1, 9.0])}, 0.25)
        {'a': 0, 'b': 1}
    """
    if isinstance(allocation, Mapping):
        if sparsity is not None:
            raise ValueError(
                f"sparsity: allocation gives each layer's share; leave sparsity={sparsity!r} out"
            )
        if set(allocation) != set(weights):
            raise ValueError(
                f"allocation: must give a share for each of {', '.join(weights)}; "
                f"got {', '.join(map(str, allocation)) or 'none'}"
            )
        shares = {name: _share(f"allocation[{name!r}]", allocation[name]) for name in weights}
        return {name: _count(weights[name].numel(), share) for name, share in shares.items()}
    if sparsity is None:
        raise ValueError("sparsity: say which share of the weights goes, such as 0.9")
    sparsity = _share("sparsity", sparsity)
    if allocation == "uniform":
        return {name: _count(weight.numel(), sparsity) for name, weight in weights.items()}
    if allocation != "lamps":
        raise ValueError(
            f"allocation: must be 'lamps', 'uniform' or a mapping from layer to share, "
            f"got {allocation!r}"
        )
    if not power > 0:
        raise ValueError(f"power: must be positive, got {power}")
    scores = [lamps_scores(weight, power) for weight in weights.values()]
    joined = torch.cat(scores) if scores else torch.empty(0)
    removed = joined.argsort(stable=True)[: _count(len(joined), sparsity)]
    owner = torch.repeat_interleave(torch.tensor([len(part) for part in scores]))
    counts = torch.bincount(owner[removed.cpu()], minlength=len(scores)).tolist()
    return dict(zip(weights, counts, strict=True))


def _count(weights: int, share: float) -> int:
    """A share of so many weights, rounded down; in decimals, for 0.29 of 100 weights are 29."""
    return int(weights * Fraction(repr(share)))


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: must be a number, got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name}: must lie in [0, 1), got {value}")
    return float(value)
