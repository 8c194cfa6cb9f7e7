"""Conversions that several tests look at, made once."""

import pytest

from spikeloom.convert import LAS


@pytest.fixture(scope="session")
def converted():
    """Family -> the model and its conversion with 10 steps, which tests leave as they are."""
    pytest.importorskip("transformers")
    from tests.convert.las.families import build, inputs

    made = {}

    def get(family):
        if family not in made:
            model = build(family)
            recipe = LAS(steps=10, progress=False)
            made[family] = model, recipe.apply(model, [inputs(family)])
        return made[family]

    return get
