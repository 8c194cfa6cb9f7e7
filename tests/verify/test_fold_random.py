"""Folding in networks of any shape: exact, or left alone."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikeloom.verify import fold_norms
from tests.verify.graphs import graph

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


def check(rng: random.Random, length: int, gains: bool) -> list[str]:
    """Compare a random network with its folded copy; what the report says of each norm and pool."""
    model, x = graph(rng, length)
    with torch.no_grad():
        folded, expected = fold_norms(model, gains=gains), model(x)
        results = [str(result) for result in folded.report.column("result")]
        try:
            found = folded(x)
        except ValueError as error:
            # A one-dimensional norm that turns out to be of tokens says so.
            assert "name this norm in fold_norms(..., keep=[...])" in str(error)
            return results
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    return results


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.integers(2, 7), st.booleans())
def test_a_folded_network_equals_the_network(rng, length, gains):
    check(rng, length, gains)


def test_the_networks_hold_what_folds_and_what_does_not():
    results = [
        result for seed in range(80) for result in check(random.Random(seed), 6, seed % 2 > 0)
    ]
    assert all(results.count(kind) > 5 for kind in ("folded", "sum", "remains")), results
