"""What the tests of every host's export call share."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

T = 50


def weighted(net: nn.Module, grid: bool) -> nn.Module:
    """Weights that fire, on a grid of 1/4 if asked for."""
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        if parameter.dim():
            values = 2 * torch.randn(parameter.shape, generator=generator)
            parameter.data = (values * 4).round() / 4 if grid else values
    return net


def sample(*shape: int, grid: bool) -> Tensor:
    values = torch.rand(T, *shape, generator=torch.Generator().manual_seed(4)) * 3
    return (values * 4).round() / 4 if grid else values


def begins_like(ours: Callable[..., Any], theirs: Callable[..., Any]) -> bool:
    """Whether our call takes the host's arguments, in its order and with its defaults."""
    expected = inspect.signature(theirs).parameters.values()
    found = list(inspect.signature(ours).parameters.values())[: len(expected)]
    return [(p.name, p.kind, _default(p)) for p in found] == [
        (p.name, p.kind, _default(p)) for p in expected
    ]


def _default(parameter: inspect.Parameter) -> Any:
    # A host's empty list is our empty tuple.
    return tuple(parameter.default) if parameter.default == [] else parameter.default


def runs_without_nir(lines: str) -> subprocess.CompletedProcess[str]:
    """Run lines in a Python that has no nir."""
    program = f"import sys\nsys.modules['nir'] = None\n{lines}"
    command = [sys.executable, "-W", "ignore", "-c", program]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
