"""What NVRTC reports of every shipped neuron's kernels: registers, and memory in their place.

No GPU is needed. Each kernel is the one a call would take: the widest whose registers suffice.

    python examples/benchmarks/gpu/registers.py        # prints, and writes registers.md beside it
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import torch
from cupy.cuda import nvrtc

from spikeloom import Neuron, neurons
from spikeloom.files import write_text
from spikeloom.kernel import emit_cuda, run_cuda
from spikeloom.kernel.adjoint import Adjoint, adjoint
from spikeloom.kernel.cuda_device import Binary, compile_text
from spikeloom.kernel.cuda_shape import Shape, backward_shape, fitting, widest
from spikeloom.kernel.neuron import tensor_of
from spikeloom.kernel.source import numbers
from spikeloom.kernel.trace import Program

CAPABILITIES = (80, 90, 100)
DTYPES = ("float32", "bfloat16")
# Longer than a segment of the backward pass, so that states are noted. Few-spike neurons have a
# length of their own.
STEPS = 64


def learned(*shape: int) -> torch.Tensor:
    """A tensor that is learned."""
    return torch.ones(shape, requires_grad=True)


def gated(steps: int, ranges: int) -> Neuron:
    """An HG neuron whose tables are learned."""
    tables = [neurons.FewSpike(*(learned(steps) for _ in "thd")) for _ in range(ranges)]
    return neurons.HG([float(edge) for edge in range(1, ranges)], tables)


NEURONS = {
    "LIF": neurons.LIF(2.0),
    "LIF, soft reset, tau 2.7": neurons.LIF(2.7, v_reset=None),
    "LIF, learned tau": neurons.LIF(learned()),
    "ParametricLIF, learned": neurons.ParametricLIF(learned()),
    "IF": neurons.IF(),
    "ALIF": neurons.ALIF(),
    "AdEx": neurons.AdEx(),
    "Alpha": neurons.Alpha(0.9, 0.8),
    "CubaLI": neurons.CubaLI(),
    "CubaLIF": neurons.CubaLIF(),
    "CurrentLIF": neurons.CurrentLIF(),
    "EIF": neurons.EIF(),
    "IAF": neurons.IAF(),
    "Izhikevich": neurons.Izhikevich(),
    "KLIF": neurons.KLIF(),
    "LI": neurons.LI(),
    "LIAF": neurons.LIAF(),
    "Lapicque": neurons.Lapicque(5.0, 0.2),
    "Leaky": neurons.Leaky(0.9),
    "LIFBox": neurons.LIFBox(),
    "QIF": neurons.QIF(),
    "Synaptic": neurons.Synaptic(0.9, 0.8),
    "Trace": neurons.Trace(0.5, 0.25),
    "ElasticBiSpike": neurons.ElasticBiSpike(0.8),
    "AnalogEncoder": neurons.AnalogEncoder(),
    "SignGD": neurons.SignGD("gelu"),
    "SignGDBits": neurons.SignGDBits(0.0, 1.0, function="gelu"),
    "SignTracker": neurons.SignTracker([0.5] * 16, steps=16),
    "FewSpike, learned": neurons.FewSpike(*(learned(16) for _ in "thd")),
    "OAT": neurons.OAT(16, 1.0, 8.0),
    "LinearHG of 2 pieces": neurons.LinearHG([-1.0, 0.0, 1.0], [1.0, 2.0], [0.0, 1.0], 16),
    "OAT, learned ranges": neurons.OAT(16, learned(), 8.0 * learned()),
    "HG of 2 ranges, learned tables": gated(16, 2),
    "HG of 8 ranges, learned tables": gated(16, 8),
}


def values_of(neuron: Neuron, program: Program) -> list[torch.Tensor]:
    """The tensors among a neuron's parameters, in the order of its program."""
    return [tensor_of(neuron.params[name]) for name, _ in program.tensors]


def differentiated(neuron: Neuron) -> tuple[Program, Adjoint]:
    """A neuron's program, and its adjoint for the inputs and for what is learned."""
    assert neuron.program is not None, neuron.reason
    program = Program.parse(neuron.program)
    leaves = [("x", i) for i in range(program.inputs)]
    pairs = zip(program.tensors, values_of(neuron, program), strict=True)
    leaves += [("p", name) for (name, _), value in pairs if value.requires_grad]
    return program, adjoint(program, frozenset(leaves))


def kernels(
    neuron: Neuron, dtype: str, steps: int, capability: int
) -> list[tuple[str, Binary, Shape]]:
    """Both directions of a training step."""
    program, gradient = differentiated(neuron)
    values = values_of(neuron, program)
    powers, wide = program.powers(numbers(neuron)), widest(dtype)
    noting = run_cuda.noting(program, gradient, steps, getattr(torch, dtype))
    rows = run_cuda.rows_of(program, values)

    def forward(shape: Shape) -> Binary:
        return compile_text(emit_cuda.forward(program, shape), capability)

    def backward(shape: Shape) -> Binary:
        return compile_text(emit_cuda.backward(program, gradient, shape), capability)

    there = Shape(dtype, wide, powers=powers, noting=noting)
    back = backward_shape(program, gradient, steps, dtype, wide, powers, rows)
    return [
        ("forward", *fitting(forward, there)),
        ("backward", *fitting(backward, back)),
    ]


def lines_of(name: str, dtype: str) -> list[str]:
    """The table's lines of one neuron, a direction each."""
    cells: dict[str, list[str]] = {}
    neuron = NEURONS[name]
    steps = neuron.steps or STEPS
    for capability in CAPABILITIES:
        for direction, binary, shape in kernels(neuron, dtype, steps, capability):
            local = f", {binary.local} B" if binary.local else ""
            cell = f"{binary.registers} ({shape.vec}{local})"
            cells.setdefault(direction, []).append(cell)
    return [
        f"| {name} | {dtype} | {steps} | {direction} | {' | '.join(found)} |"
        for direction, found in cells.items()
    ]


def wanted() -> list[tuple[str, str]]:
    """The neurons and dtypes of the table."""
    return list(product(NEURONS, DTYPES))


def page(jobs: int | None) -> str:
    """The table."""
    version = ".".join(map(str, nvrtc.getVersion()))
    lines = [
        f"Registers of a thread, by NVRTC {version}; in brackets the neurons that it carries, and",
        "the bytes of local memory that it needs, if any. Made by `registers.py`.",
        "",
        "| neuron | dtype | T | direction | " + " | ".join(f"sm_{c}" for c in CAPABILITIES) + " |",
        "|" + "---|" * (4 + len(CAPABILITIES)),
    ]
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(lines_of, *zip(*wanted(), strict=True)):
            print(*found, sep="\n", flush=True)
            lines += found
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "registers.md")
    parser.add_argument("--jobs", type=int, help="processes; all processors by default")
    options = parser.parse_args()
    write_text(options.output, page(options.jobs))


if __name__ == "__main__":
    main()
