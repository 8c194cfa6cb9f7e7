"""What a conversion is worth at each number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.calibrate import arguments_of
from spikeloom.sweep import Sweep

__all__ = ["sweep_steps"]


def sweep_steps(
    recipe: Callable[[int], Any],
    model: nn.Module,
    calibration: Any,
    sample: Any,
    steps: Sequence[int] = (4, 8, 16, 32),
) -> Sweep:
    r"""Convert a network with several numbers of steps, and measure the error of each.

    .. math:: \mathrm{error} = \frac{\lVert y_\mathrm{SNN} - y_\mathrm{ANN} \rVert}
        {\lVert y_\mathrm{ANN} \rVert}

    over all tensors of floating point that the model returns.

    Args:
        recipe: From a number of steps to a recipe: :class:`~spikeloom.convert.LAS`,
            :class:`~spikeloom.convert.SignGD`, or a function for other settings, such as
            ``lambda steps: convert.LAS(steps, ranges=6)``.
        model: The trained network.
        calibration: As for the recipe's ``apply``.
        sample: A batch that was not calibrated on, as :func:`spikeloom.calibrate.arguments_of`
            takes it.
        steps: The numbers of steps.

    Returns:
        A report with a row for each number of steps; ``plot()`` draws the error against them.

    Raises:
        ValueError: If the model returns no tensor of floating point.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom import convert
        >>> _ = torch.manual_seed(0)
        >>> ann = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)).eval()
        >>> x, y = torch.randn(2, 64, 8)
        >>> found = convert.sweep_steps(convert.SignGD, ann, x, y, steps=(4, 16))
        >>> early, late = found.column("error")
        >>> early > 10 * late
        True
    """
    call = arguments_of(model, sample, name="sample")
    report = Sweep("Error against steps", ("method", "steps", "error"))
    with torch.no_grad():
        expected = _values(model(*call.args, **call.kwargs))
        for count in steps:
            made = recipe(count)
            network = made.apply(model, calibration)
            found = _values(network(*call.args, **call.kwargs))
            error = (found - expected).norm() / expected.norm().clamp(min=1e-30)
            report.add(type(made).__name__, count, float(error))
    return report


def _values(output: Any) -> Tensor:
    """Everything of floating point that a model returns, as one vector."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    found = [leaf.double().flatten() for leaf in leaves if leaf.is_floating_point()]
    if not found:
        raise ValueError("model: returns no tensor of floating point, so no error can be measured")
    return torch.cat(found)
