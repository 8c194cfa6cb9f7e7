"""Counts and events as input."""

import pytest
import torch

import spikeloom
from spikeloom import Neuron, PerStep
from spikeloom.neurons import IF, LIF

COUNTS = torch.randint(0, 4, (9, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("implementation", ["llvm", "eager"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64])
def test_counts_run_as_the_same_numbers_in_float32(dtype, implementation):
    x = COUNTS.to(dtype)
    y, (v,) = spikeloom.run(LIF(tau=4.0), x, implementation=implementation)
    expected, (last,) = spikeloom.run(LIF(tau=4.0), x.float(), implementation=implementation)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected) and torch.equal(v, last)


@pytest.mark.parametrize(
    "tau",
    [torch.tensor(4.0), torch.full((5,), 4.0), PerStep(torch.full((9,), 4.0))],
    ids=["shared", "neuron", "step"],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_counts_take_the_dtype_that_torch_gives_them_beside_the_parameters(tau, dtype):
    def step(x, state, p):
        return x / p.tau, state

    values = tau.values if isinstance(tau, PerStep) else tau
    values = values.to(dtype)
    tau = PerStep(values) if isinstance(tau, PerStep) else values
    y, _ = spikeloom.run(Neuron(step, params={"tau": tau}), COUNTS)
    assert y.dtype == torch.result_type(COUNTS, values) == dtype


def test_without_tensors_counts_take_the_default_dtype():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert spikeloom.run(IF(), COUNTS)[0].dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_counts_beside_another_input_take_its_dtype():
    def step(x, state, p):
        return x[0] + x[1], state

    neuron = Neuron(step, inputs=2)
    y, _ = spikeloom.run(neuron, (COUNTS, COUNTS.double() / 2))
    assert torch.equal(y, COUNTS * 1.5)
    assert y.dtype == torch.float64


def test_parameters_of_the_call_decide_as_the_neurons_own_do():
    neuron = LIF(tau=torch.tensor(4.0))
    y, _ = spikeloom.run(neuron, COUNTS, params={"tau": torch.tensor(4.0, dtype=torch.float64)})
    assert y.dtype == torch.float64


def test_a_layer_counts_events_also_when_it_is_compiled():
    torch._dynamo.reset()
    layer = spikeloom.SpikingLayer(LIF(tau=torch.tensor(4.0)))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(COUNTS), layer(COUNTS.float()))
