"""What readers see of the generated kernels."""

import re

import pytest
import torch

from spikeloom import Neuron
from spikeloom.kernel.source import source
from spikeloom.neurons import LIF, Trace


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("target", ["cuda", "llvm"])
def test_there_is_a_text_for_every_choice(target, direction, dtype):
    text = source(LIF(), target, direction, dtype)
    head = {
        "cuda": rf'extern "C" __global__ void __launch_bounds__\(128(, \d+)?\) {direction}\(',
        "llvm": rf"define void @{direction}\(",
    }
    assert re.search(head[target], text)


def test_the_cuda_text_speaks_of_this_neuron():
    text = source(Trace(0.5, 0.25), direction="backward")
    assert text.startswith("// Trace: gradients, backward through time.\n")
    assert "g_z_last" in text and "g_i_last" in text and "real synaptic_decay" in text


def test_the_cuda_text_names_what_a_neuron_computes():
    text = source(LIF(2.5, v_reset=None))
    assert "    const real h = v + (x - v) / tau;\n" in text
    assert "    v_next = h - s * v_threshold;\n" in text


def test_division_by_a_power_of_two_is_a_multiplication():
    assert "(x - v) * (1.0f / tau)" in source(LIF(2.0))


def test_only_learned_parameters_have_gradients():
    learned, fixed = torch.tensor(2.0, requires_grad=True), torch.tensor(2.0)
    assert "tau_sums" in source(LIF(learned), direction="backward")
    assert "tau_sums" not in source(LIF(fixed), direction="backward")


@pytest.mark.parametrize("argument", ["target", "direction", "dtype"])
def test_an_unknown_choice_names_the_known_ones(argument):
    with pytest.raises(ValueError, match=f"{argument}: must be one of '.*', got 'metal'"):
        source(LIF(), **{argument: "metal"})


def test_a_neuron_without_a_kernel_says_why():
    def step(x, state, p):
        return torch.relu(x), state

    with pytest.raises(ValueError, match="no kernel to show, because the step of step cannot"):
        source(Neuron(step))
