"""What NVRTC reports of every shipped neuron's kernels: registers, and memory in their place.

No GPU is needed. Each kernel is the one a call would take: the widest whose registers suffice.

    python examples/benchmarks/gpu/registers.py        # prints, and writes registers.md beside it
"""

import argparse
from itertools import product
from pathlib import Path

import torch
from cupy.cuda import nvrtc

from spikeloom import Neuron, neurons
from spikeloom.files import write_text
from spikeloom.kernel import emit_cuda
from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.cuda_device import Binary, compile_text
from spikeloom.kernel.cuda_scan import Shape
from spikeloom.kernel.source import numbers
from spikeloom.kernel.trace import Program

CAPABILITIES = (80, 90, 100)
DTYPES = ("float32", "bfloat16")
STEPS = (16, 64)
TAU = torch.tensor(2.0, requires_grad=True)
NEURONS = {
    "LIF": neurons.LIF(2.0),
    "LIF, soft reset, tau 2.7": neurons.LIF(2.7, v_reset=None),
    "LIF, learned tau": neurons.LIF(TAU),
    "IF": neurons.IF(),
    "Leaky": neurons.Leaky(0.9),
    "LIFBox": neurons.LIFBox(),
    "ElasticBiSpike": neurons.ElasticBiSpike(0.8),
    "SignGDBits": neurons.SignGDBits(0.0, 1.0, function="gelu"),
}


def kernels(
    neuron: Neuron, dtype: str, steps: int, capability: int
) -> list[tuple[str, Binary, Shape]]:
    """Both directions, for gradients of the inputs and of the parameters that are learned."""
    assert neuron.program is not None, neuron.reason
    program = Program.parse(neuron.program)
    powers = program.powers(numbers(neuron))
    leaves = [("x", i) for i in range(program.inputs)]
    leaves += [("p", name) for name, p in neuron.params.items() if p is TAU]
    gradient, wide = adjoint(program, frozenset(leaves)), emit_cuda.widest(dtype)

    def forward(shape: Shape) -> Binary:
        return compile_text(emit_cuda.forward(program, shape), capability)

    def backward(shape: Shape) -> Binary:
        return compile_text(emit_cuda.backward(program, gradient, shape), capability)

    there = Shape(dtype, wide, powers=powers)
    back = emit_cuda.backward_shape(program, gradient, steps, dtype, wide, powers)
    return [
        ("forward", *emit_cuda.fitting(forward, there)),
        ("backward", *emit_cuda.fitting(backward, back)),
    ]


def page() -> str:
    """The table."""
    version = ".".join(map(str, nvrtc.getVersion()))
    lines = [
        f"Registers of a thread, by NVRTC {version}; in brackets the neurons that it carries, and",
        "the bytes of local memory that it needs, if any. Made by `registers.py`.",
        "",
        "| neuron | dtype | T | direction | " + " | ".join(f"sm_{c}" for c in CAPABILITIES) + " |",
        "|" + "---|" * (4 + len(CAPABILITIES)),
    ]
    for (name, neuron), dtype, steps in product(NEURONS.items(), DTYPES, STEPS):
        cells: dict[str, list[str]] = {}
        for capability in CAPABILITIES:
            for direction, binary, shape in kernels(neuron, dtype, steps, capability):
                local = f", {binary.local} B" if binary.local else ""
                cell = f"{binary.registers} ({shape.vec}{local})"
                cells.setdefault(direction, []).append(cell)
        for direction, found in cells.items():
            if direction == "backward" or steps == STEPS[0]:  # forward is the same for every T
                lines.append(f"| {name} | {dtype} | {steps} | {direction} | {' | '.join(found)} |")
                print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "registers.md")
    options = parser.parse_args()
    write_text(options.output, page())


if __name__ == "__main__":
    main()
