"""Golden layers, synthetic layers, and an independent float64 reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, Tensor]:
    """The arrays of one golden file."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def spikes(*shape: int, seed: int = 0, rate: float = 0.4) -> Tensor:
    """Random spikes of which neighbours are correlated."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    return (noise + 0.7 * noise.roll(1, -1) > 1.2 * (1 - rate)).float()


def layer_case(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 weights and an undamped Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    y = spikes(20 * width, width, seed=seed).double()
    W = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    return W, 2 * y.T @ y / len(y)


def correlated(rows, width, seed):
    """Weights whose losses rise and fall in turn, for their inputs are mixtures of a few."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(width, 2 + width // 4, dtype=torch.float64, generator=generator)
    W = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    return W, y @ y.T + 0.05 * torch.eye(width, dtype=torch.float64)


def reference_removals(W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """The order of removal and each loss by the definition, the inverse taken anew each time."""
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)
    index, losses = torch.empty(W.shape, dtype=torch.long), torch.empty_like(W)
    for row, dense in enumerate(W):
        left = list(range(len(dense)))
        for step in range(len(dense)):
            inverse = torch.linalg.inv(damped[left][:, left])
            w = torch.linalg.solve(damped[left][:, left], damped[left] @ dense)
            cost = w.square() / inverse.diagonal()
            losses[row, step] = cost.min()
            index[row, step] = left.pop(int(cost.argmin()))
    return index, losses


def is_prefix(mask: Tensor, index: Tensor) -> bool:
    """Whether each row has lost the first weights of its order, and no others."""
    gone = mask.gather(1, index)
    return bool((gone == gone.long().cummin(1).values).all())


def least_total(losses: Tensor, count: int) -> float:
    """The least sum of losses if each row gives up a prefix, by dynamic programming."""
    best = torch.full((count + 1,), torch.inf, dtype=torch.float64)
    best[0] = 0
    for row in losses:
        costs = [0.0, *row.cumsum(0).tolist()]
        after = torch.full_like(best, torch.inf)
        for taken, cost in enumerate(costs[: count + 1]):
            after[taken:] = torch.minimum(after[taken:], best[: count + 1 - taken] + cost)
        best = after
    return float(best[count])


def solved(W: Tensor, H: Tensor, mask: Tensor) -> Tensor:
    """The best weights for a mask, by the definition."""
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)
    result = torch.zeros_like(W)
    for row, kept in enumerate(~mask):
        result[row, kept] = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ W[row])
    return result


def error(W: Tensor, new: Tensor, H: Tensor) -> float:
    """Half the quadratic form of the change."""
    change = new.double() - W.double()
    return 0.5 * float(((change @ H) * change).sum())


def dense_filter(x: Tensor, decay: float) -> Tensor:
    """The trace of [T, ...] by a plain loop in float64."""
    y, total = torch.zeros_like(x[0], dtype=torch.float64), []
    for step in x.double():
        y = decay * y + step
        total.append(y)
    return torch.stack(total)
