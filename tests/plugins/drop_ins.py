"""A drop-in beside the framework's own class, over random settings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

STEPS, BATCH, WIDTH = 16, 3, 5
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class DropIn:
    """A class of ours and the framework's of the same name.

    Attributes:
        ours: Ours.
        theirs: The framework's.
        draw: From a random number generator and a dtype to positional and named arguments.
        learned: The names of parameters whose gradients are compared.
        margin: By how much results may differ, relative to their size; 0: not at all.
        limit: Inputs lie within it; potentials that charge themselves diverge beyond.
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    draw: Callable[[random.Random, torch.dtype], tuple[tuple[Any, ...], dict[str, Any]]]
    learned: tuple[str, ...] = ()
    margin: float = 0.0
    limit: float = math.inf


Run = Callable[[Any, Tensor], tuple[Tensor, Sequence[Tensor]]]


def drive(draw: random.Random, dtype: torch.dtype, strength: float = 2.0) -> Tensor:
    """Input in eighths, at which potentials meet thresholds, or with all its digits."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    x = torch.randn(STEPS, BATCH, WIDTH, generator=generator, dtype=torch.float64) + 0.25
    x = x * strength * 2.0 ** draw.randint(-1, 2)
    return ((x * 8).round() / 8 if draw.random() < 0.5 else x).to(dtype)


def compare(case: DropIn, run: Run, seed: int) -> float:
    """Assert that outputs, states and gradients agree for one draw of settings.

    Args:
        case: The classes.
        run: From a module and ``[T, batch, *]`` to its output over time and its last states.
        seed: Of the draw.

    Returns:
        The share of outputs that are not 0; NaN if spikes of a case with a margin differ.
    """
    draw = random.Random(seed)
    dtype = DTYPES[seed % 2]
    args, named = case.draw(draw, dtype)
    x = drive(draw, dtype).clamp(-case.limit, case.limit)
    results = []
    for make in (case.ours, case.theirs):
        module = make(*args, **named)
        given = x.clone().requires_grad_()
        y, states = run(module, given)
        weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
        wanted = [given, *(_learned(module, name) for name in case.learned)]
        found = torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True)
        gradients = [torch.zeros(()) if each is None else each for each in found]
        results.append((y.detach(), [state.detach() for state in states], gradients))
    (y, states, gradients), (expected, their_states, their_gradients) = results
    shown = f"seed {seed}: {args}, {named}"
    assert y.dtype == dtype, shown
    if (
        case.margin
        and not torch.equal(y, expected.to(dtype))
        and set(y.unique().tolist()) <= {0, 1}
    ):
        return math.nan  # a rounding has decided about a spike, after which the two go apart
    for found_one, expected_one in zip((y, *states), (expected, *their_states), strict=True):
        # Some frameworks give spikes of another precision.
        expected_one = expected_one.to(found_one.dtype).expand(found_one.shape)
        if case.margin:
            torch.testing.assert_close(found_one, expected_one, rtol=case.margin, atol=case.margin)
        else:
            assert torch.equal(found_one, expected_one), shown
    near = {torch.float32: 2e-3, torch.float64: 1e-6}[dtype]
    for found_one, expected_one in zip(gradients, their_gradients, strict=True):
        expected_one = expected_one.reshape(found_one.shape)
        # What is small beside the largest is what rounding leaves of it.
        least = near * max(1.0, float(expected_one.abs().max()))
        torch.testing.assert_close(found_one, expected_one, rtol=near, atol=least, msg=shown)
    return float((y != 0).float().mean())


def check(case: DropIn, run: Run, seeds: Sequence[int]) -> None:
    """:func:`compare` over draws, of which some must fire and some be silent."""
    found = [compare(case, run, seed) for seed in seeds]
    active = [share for share in found if not math.isnan(share)]
    assert 0.02 < sum(active) / len(active) <= 1.0
    assert len(active) >= 0.95 * len(found)


def cases_over(cases: dict[str, DropIn]) -> Any:
    """Parametrises a test by cases, and by how many settings are drawn of each."""
    few = [pytest.param(case, range(12), id=name) for name, case in cases.items()]
    many = [
        pytest.param(case, range(12, 200), id=f"{name}-200", marks=pytest.mark.slow)
        for name, case in cases.items()
    ]
    return pytest.mark.parametrize(("case", "seeds"), [*few, *many])


def _learned(module: nn.Module, name: str) -> Tensor:
    """A learned tensor, wherever the framework keeps it."""
    found = getattr(module, name, None)
    return found if isinstance(found, Tensor) else getattr(module.p, name)
