r"""The best values for the weights that stay, for many rows at once.

For a row of weights w, from which some are removed, the others minimise the quadratic form of
:math:`w_0 - w` with the damped Hessian. The method of conjugate gradients needs one product with
the Hessian a step, and the rows share it: a step is one matrix product for all of them.

How many steps it needs is a matter of a few directions in which the inputs vary most, such as their
common rate. They too are shared. With its diagonal scaled to one, the Hessian is close to

.. math:: A \approx \tau I + U E U^T

with a few columns in U. The inverse of the part of it that belongs to the kept weights of a row
takes no more than the inverse of a small matrix (Woodbury's identity), and preconditions the steps.

Source: Hestenes, Stiefel 1952; U by subspace iteration, as in Halko, Martinsson, Tropp, arXiv
0909.4061.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Descent"]

# How many directions precondition a step, at most; a narrow layer has one for 8 inputs.
DIRECTIONS = 32
# Further ones that are followed only to find these.
MORE = 8
# Least curvature of the rest as a share of a direction's own: beyond, float32 cannot divide.
LEAST = 1e-5
# Squared gradient at which a row has arrived, in units of weights and Hessian that are about 1.
ARRIVED = 1e-30


class Descent:
    """Steps towards the best weights for one Hessian.

    Args:
        H: The damped Hessian, ``[d, d]``, its numbers about 1.
    """

    def __init__(self, H: Tensor) -> None:
        self.H = H
        self.scale = H.diagonal().rsqrt()
        width = len(H)
        count = min(DIRECTIONS, width // 8)
        values, vectors = self._leading(min(count + MORE, width))
        values, self.basis = values[len(values) - count :], vectors[:, vectors.shape[1] - count :]
        self.rest = (width - values.sum()) / max(width - count, 1)
        share = self.rest / (values - self.rest).clamp(min=LEAST * self.rest)
        self.inner = share.clamp(min=LEAST).diag()
        # Symmetric: the lower triangle is enough.
        self.one, self.other = torch.tril_indices(count, count, device=H.device)
        self.products = self.basis[:, self.one] * self.basis[:, self.other]

    def _leading(self, count: int) -> tuple[Tensor, Tensor]:
        """The largest eigenvalues of the scaled Hessian, rising, and their vectors, nearly."""
        start = torch.Generator().manual_seed(0)
        vectors = torch.randn(len(self.H), count, generator=start, dtype=self.H.dtype)
        vectors = vectors.to(self.H.device)
        for _ in range(2):
            vectors = torch.linalg.qr(self._scaled(vectors))[0]
        values, turn = torch.linalg.eigh(vectors.mT @ self._scaled(vectors))
        return values, vectors @ turn

    def _scaled(self, vectors: Tensor) -> Tensor:
        return self.scale[:, None] * (self.H @ (self.scale[:, None] * vectors))

    def descend(
        self,
        weights: Tensor,
        residual: Tensor,
        removed: Tensor,
        steps: int,
        limit: Tensor | None = None,
    ) -> None:
        r"""Improve the weights that stay, in place.

        Args:
            weights: Shape ``[rows, d]``, in units in which they are about 1; changed.
            residual: :math:`(w_0 - w)\,H`, shape ``[rows, d]``; changed.
            removed: True where a weight stays as it is, shape ``[rows, d]``.
            steps: How many steps are taken at most.
            limit: Stop once what there is left to gain (as the preconditioner has it) is at most
                this in each row, shape ``[rows, 1]``; None takes all steps.
        """
        factor = self._factor(removed)
        direction, before = torch.zeros_like(weights), weights.new_ones(len(weights), 1)
        pushed = torch.empty_like(weights)
        for _ in range(steps):
            steepest = self._preconditioned(residual, removed, factor)
            slope = (steepest * residual).sum(1, keepdim=True)
            if limit is not None and bool((slope <= limit).all()):
                return
            direction.mul_(slope / before).add_(steepest)
            torch.mm(direction, self.H, out=pushed)
            length = slope / (direction * pushed).sum(1, keepdim=True)
            arrived = slope <= ARRIVED
            length.masked_fill_(arrived, 0.0)
            weights.addcmul_(direction, length)
            residual.addcmul_(pushed, length, value=-1)
            before = slope.masked_fill(arrived, 1.0)

    def _factor(self, removed: Tensor) -> Tensor:
        """The small matrix of each row, factored, ``[rows, directions, directions]``."""
        kept = (~removed).to(self.H.dtype)
        small = self.inner.repeat(len(kept), 1, 1)
        small[:, self.one, self.other] += kept @ self.products
        return torch.linalg.cholesky(small)

    def _preconditioned(self, residual: Tensor, removed: Tensor, factor: Tensor) -> Tensor:
        """The gradient times nearly the inverse Hessian of what stays in each row."""
        found = (residual * self.scale).masked_fill_(removed, 0.0)
        along = torch.cholesky_solve((found @ self.basis)[:, :, None], factor)[:, :, 0]
        found.addmm_(along, self.basis.mT, alpha=-1).masked_fill_(removed, 0.0)
        return found.mul_(self.scale / self.rest)
