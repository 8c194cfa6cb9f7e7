"""CUDA texts of many neurons, for tests that read or compile them."""

import torch

from spikeloom import Gated
from spikeloom.kernel import emit_cuda
from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.cuda_shape import Shape, backward_shape, widest
from spikeloom.kernel.trace import Program
from spikeloom.neurons import IF, LIF, Leaky, LIFBox, Trace
from tests.kernel.families import CASES

NEURONS = {
    "LIF": LIF(2.0),
    "LIF soft learned": LIF(torch.tensor(2.0, requires_grad=True), v_reset=None),
    "IF": IF(),
    "Leaky": Leaky(torch.full((3,), 0.5, requires_grad=True)),
    "LIFBox": LIFBox(),
    "Trace": Trace(0.5, 0.25),
    **{case.name: case.make(4, 8, torch.float32)[0] for case in CASES},
}


def texts(neuron, dtype, sizes=((16, True),)):
    """A neuron's kernels, by name."""
    program = Program.parse(neuron.program)
    leaves = {("x", i) for i in range(program.inputs)} | {("p", n) for n, _ in program.tensors}
    gradient = adjoint(program, frozenset(leaves))
    tables = {n: p.values for n, p in neuron.params.items() if isinstance(p, Gated)}
    rows = tuple((name, table.shape[0]) for name, table in tables.items())
    for steps, wide in sizes:
        vec = widest(dtype) if wide else 1
        yield emit_cuda.forward(program, Shape(dtype, vec))
        shape = backward_shape(program, gradient, steps, dtype, vec, rows=rows)
        yield emit_cuda.backward(program, gradient, shape)
