"""Times of a layer; no test asserts a time."""

import pytest

from spikeloom import neurons
from spikeloom.timing import time_layer


def test_a_neuron_that_runs_eager_is_timed_once():
    class Own(neurons.LIF):
        def _step(self, x, state, p):
            return super()._step(x.clone(), state, p)

    neuron = Own()
    assert neuron.program is None
    report = time_layer(neuron, steps=2, neurons=3, rounds=2)
    assert report.column("what") == ["eager", "copy"]


@pytest.mark.parametrize("name", ["steps", "neurons", "rounds"])
def test_a_number_below_one_is_named(name):
    with pytest.raises(ValueError, match=name):
        time_layer(neurons.LIF(), **{name: 0})
