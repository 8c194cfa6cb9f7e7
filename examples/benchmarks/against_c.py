"""The forward kernel of an LIF neuron beside the loop that one would write in C.

Both read and write buffers that are in the cache; gcc compiles the loop for this machine with -O3.
Our kernel is called twice, once with arguments that are prepared and once with tensors, as a plan
calls it. They take turns in one process, on one thread, and the CPU time of the best round counts.

    python examples/benchmarks/against_c.py          # prints, and writes results/against_c.md
"""

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cpu import processor
from torch import Tensor

from spikeloom.files import write_text
from spikeloom.kernel import run_cpu
from spikeloom.kernel.trace import Program
from spikeloom.neurons import LIF
from spikeloom.report import Report

# Values that fill no vector are among them.
SIZES = (1000, 1024, 2000, 3000, 5000, 7777, 10_000)
STEPS = 16
ROUNDS = 200

LOOP = """
void lif(const float *restrict x, float *restrict y, float *restrict v, long steps, long count) {
    for (long i = 0; i < count; i++) v[i] = 0;
    for (long t = 0; t < steps; t++)
        for (long i = 0; i < count; i++) {
            float h = v[i] + (x[t * count + i] - v[i]) * 0.5f;
            float s = h >= 1.0f ? 1.0f : 0.0f;
            y[t * count + i] = s;
            v[i] = (1.0f - s) * h;
        }
}
"""


def compiled(folder: Path) -> Callable[[Tensor, Tensor, Tensor], None]:
    """The loop in C, as a function of input, output and potentials."""
    gcc = shutil.which("gcc")
    if gcc is None:
        sys.exit("against_c.py compares with a loop that gcc compiles: install gcc")
    source, library = folder / "lif.c", folder / "lif.so"
    write_text(source, LOOP)
    flags = ["-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([gcc, *flags, "-o", library, source], check=True)
    function = ctypes.CDLL(str(library)).lif
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] * 2

    def call(x: Tensor, y: Tensor, v: Tensor) -> None:
        function(x.data_ptr(), y.data_ptr(), v.data_ptr(), *x.shape)

    return call


def plan(count: int) -> run_cpu.Forward:
    """Our kernel, for tensors of one size."""
    neuron = LIF(tau=2.0)
    numbers = [*neuron.params.values(), *neuron.surrogate_numbers.values()]
    return run_cpu.Forward(Program.parse(str(neuron.program)), STEPS, numbers, torch.float32, count)


def prepared(forward: run_cpu.Forward, x: Tensor, y: Tensor, v: Tensor) -> Callable[[], None]:
    """The same with arguments that are made once."""
    tiles, (steps, count) = forward.tiles_for([y]), x.shape
    kept = torch.empty(tiles.scratch), torch.zeros(1, dtype=torch.int64), x, y, v, torch.zeros(64)
    scratch, note, first, written, last, rest = (tensor.data_ptr() for tensor in kept)
    sizes = steps, count, 0, count, tiles.size, scratch
    words = (*sizes, note, first, count, written, last, rest, 0)

    def call() -> None:
        assert kept  # in memory as long as the call
        tiles.kernel(words, tiles.numbers)

    return call


def measured(loop: Callable[[Tensor, Tensor, Tensor], None], count: int) -> list[float]:
    """Microseconds of the kernel, of its call and of the loop, once all have given the same."""
    x, rest = torch.randn(STEPS, count) + 0.6, torch.zeros(())
    outputs = [(torch.empty_like(x), torch.empty(count)) for _ in range(3)]
    (y0, v0), (y1, v1), (y2, v2) = outputs
    forward = plan(count)
    calls = [
        prepared(forward, x, y0, v0),
        lambda: forward([x], [rest], [], [y1], [v1]),
        lambda: loop(x, y2, v2),
    ]
    for call in calls:
        call()
    assert all(torch.equal(y, y2) and torch.equal(v, v2) for y, v in outputs)
    best = [float("inf")] * 3
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            start = time.process_time_ns()
            for _ in range(10):
                call()
            best[i] = min(best[i], (time.process_time_ns() - start) / 1e4)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    report = Report(
        f"LIF forward over {STEPS} steps, microseconds on one thread",
        ("neurons", "kernel", "with its call", "gcc -O3", "kernel / gcc", "call / gcc"),
    )
    with tempfile.TemporaryDirectory() as folder:
        loop = compiled(Path(folder))
        for count in SIZES:
            kernel, call, own = measured(loop, count)
            report.add(count, kernel, call, own, kernel / own, call / own)
    print(report)
    options.output.mkdir(exist_ok=True)
    write_text(options.output / "against_c.md", f"{processor()}\n\n```text\n{report}\n```\n")


if __name__ == "__main__":
    main()
