"""What a step costs in machine code: instructions of a neuron, and how far ahead it loads.

No GPU is needed, but NVRTC, and nvdisasm on the PATH (``pip install nvidia-cuda-nvdisasm`` puts it
into ``nvidia/cu13/bin`` of the environment). Counted is the loop through time as it stands, or one
segment of it: rare branches that lie within it included, those behind it not.

    python examples/benchmarks/gpu/instructions.py    # prints, and writes instructions.md beside it
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cupy.cuda import nvrtc
from registers import DTYPES, NEURONS, STEPS, differentiated, kernels

from spikeloom.files import write_text
from spikeloom.kernel.cuda_prelude import BYTES
from spikeloom.kernel.cuda_shape import history

CAPABILITY = 90

_LABEL = re.compile(r"(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\S+\s+)?(\S+)\s*(.*?)\s*;")
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


class Instruction(NamedTuple):
    """One instruction, such as ``LDG.E.64.CONSTANT`` and ``R4, desc[UR4][R2.64]``."""

    name: str
    operands: str

    @property
    def bytes(self) -> int:
        """What an access to memory moves."""
        return next((_WIDTHS[p] for p in self.name.split(".")[1:] if p in _WIDTHS), 4)

    @property
    def registers(self) -> set[int]:
        """The registers that it names."""
        return {int(number) for number in re.findall(r"\bR(\d+)\b", self.operands)}


def disassembled(code: bytes) -> str:
    """The text of a cubin.

    Args:
        code: The cubin.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = ["nvdisasm", "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def time_loop(text: str) -> list[Instruction]:
    """The longest loop that has no other in it.

    Args:
        text: Of a disassembled kernel.
    """
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        elif instruction := _INSTRUCTION.match(line):
            found.append(Instruction(*instruction.groups()))
    loops = []
    for end, instruction in enumerate(found):
        target = re.search(r"\.L_x_\d+", instruction.operands)
        if instruction.name.startswith("BRA") and target and labels[target[0]] < end:
            loops.append(range(labels[target[0]], end + 1))
    innermost = (a for a in loops if not any(b != a and b[0] in a and b[-1] in a for b in loops))
    return [found[i] for i in max(innermost, key=len)]


def ahead(loop: Sequence[Instruction]) -> list[int]:
    """For each load, the instructions until something waits for it.

    Args:
        loop: The instructions of a loop, which run in turn.
    """
    distances = []
    for at, load in enumerate(loop):
        if not load.name.startswith("LDG"):
            continue
        first = int(re.findall(r"\bR(\d+)\b", load.operands)[0])
        loaded = set(range(first, first + max(1, load.bytes // 4)))
        waits = (d for d, later in enumerate(loop[at + 1 :], 1) if loaded & later.registers)
        distances.append(next(waits, len(loop) - at))
    return distances


def lines_of(name: str, dtype: str, steps: int) -> Iterator[str]:
    """The table's lines of one neuron, a direction each."""
    neuron = NEURONS[name]
    program, gradient = differentiated(neuron)
    sequences = {"forward": len(program.outputs), "backward": program.inputs}
    for direction, binary, shape in kernels(neuron, dtype, steps, CAPABILITY):
        loop = time_loop(disassembled(binary.code))
        if direction == "backward" and history(program, gradient):
            passed = shape.segment
        else:
            written = sum(i.bytes for i in loop if i.name.startswith("STG"))
            passed = max(1, written // (sequences[direction] * shape.vec * BYTES[dtype]))
        every, loads = len(loop) / (passed * shape.vec), ahead(loop)
        shown = f"{median(loads):.0f}" if loads else "-"
        yield f"| {name} | {dtype} | {steps} | {direction} | {every:.1f} | {shown} |"


def page() -> str:
    """The table."""
    version = ".".join(map(str, nvrtc.getVersion()))
    lines = [
        "Instructions that a neuron takes at each step, and the median of how many pass between a",
        f"load and what waits for it. By NVRTC {version} for sm_{CAPABILITY}, made by",
        "`instructions.py`.",
        "",
        "While 3.0 TB/s move what a step of LIF reads and writes, an H100 at 1.755 GHz issues 79",
        "instructions forward and 119 backward in float32 (8 and 12 bytes), 40 and 59 in bfloat16.",
        "",
        "| neuron | dtype | T | direction | instructions | a load ahead |",
        "|---|---|---|---|---|---|",
    ]
    for (name, neuron), dtype in product(NEURONS.items(), DTYPES):
        for found in lines_of(name, dtype, neuron.steps or STEPS):
            print(found, flush=True)
            lines.append(found)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "instructions.md")
    options = parser.parse_args()
    write_text(options.output, page())


if __name__ == "__main__":
    main()
