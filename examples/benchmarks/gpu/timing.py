"""Times of layers on a GPU: through autograd as a user calls them, and on the device alone.

Every row is written as soon as it is known. Rows whose tensors fit in the GPU's L2 cache say so: a
copy of these is no measure of memory.

    python examples/benchmarks/gpu/timing.py OUT.json --seconds 150
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import layers
import torch
from measure import Calls, Notes, interleaved, on_device, problem

SIZES = ((16, 10**7), (16, 10**6), (16, 10**5), (4, 10**6), (4, 10**4), (64, 10**6))
# Beyond so many neuron-steps the frameworks' loops take memory and time without need.
LOOPS = 2 * 10**7
# Seconds without which no further table is begun, and those that the compiled loop may take.
TABLE, COMPILING = 20.0, 60.0


def candidates(notes: Notes, frameworks: list[str]) -> dict[str, layers.Forward]:
    """All layers; a framework that cannot be had is noted."""
    found = layers.ours()
    for name in frameworks:
        try:
            found |= layers.FRAMEWORKS[name]()
        except Exception as error:
            notes.add(what="framework", name=name, problem=problem(error))
    return found


def modes(x: torch.Tensor, functions: dict[str, layers.Forward]) -> Iterator[tuple[str, Calls]]:
    """The two ways to call a layer: without gradients, and forward and backward."""
    grad = torch.ones_like(x)

    def infer(function: layers.Forward) -> Callable[[], object]:
        def call() -> None:
            with torch.no_grad():
                function(x)

        return call

    def train(function: layers.Forward) -> Callable[[], object]:
        return lambda: function(x.detach().requires_grad_()).backward(grad)

    yield "inference", {name: infer(function) for name, function in functions.items()}
    yield "forward and backward", {name: train(function) for name, function in functions.items()}


def in_cache(x: torch.Tensor) -> bool:
    """Whether an input and an output fit in the L2 cache together."""
    cache = torch.cuda.get_device_properties(x.device).L2_cache_size
    return 2 * x.numel() * x.element_size() <= cache


def table(notes: Notes, x: torch.Tensor, functions: dict[str, layers.Forward]) -> None:
    """The rows of one size and dtype."""
    steps, neurons = x.shape
    dtype = str(x.dtype).removeprefix("torch.")
    where: dict[str, Any] = {"T": steps, "N": neurons, "dtype": dtype, "in_cache": in_cache(x)}
    y = torch.empty_like(x)
    copy = {"copy": lambda: y.copy_(x)}
    if steps * neurons > LOOPS:
        functions = {name: f for name, f in functions.items() if "loop" not in name}
    for mode, calls in modes(x, functions):
        interleaved(notes, copy | calls, what=mode, **where)
        for name, call in (copy | calls).items():
            if "loop" in name or " in " in name:
                continue
            try:
                ms = on_device(call)
            except Exception as error:
                notes.add(what=f"{mode}, device only", name=name, problem=problem(error), **where)
            else:
                notes.add(what=f"{mode}, device only", name=name, best=ms, **where)


def against_compiled(notes: Notes, steps: int, neurons: int, backend: str) -> None:
    """One table beside torch.compile, if it compiles the loop at all."""
    x = torch.randn(steps, neurons, device="cuda") * 1.5 + 0.6
    where = {"what": "forward and backward", "T": steps, "N": neurons, "dtype": "float32"}
    try:
        loop = layers.compiled(x, backend)
    except Exception as error:
        notes.add(name="torch.compile, hand-written loop", problem=problem(error), **where)
        return
    functions = {"torch.compile, hand-written loop": loop, "spikeloom": layers.ours()["spikeloom"]}
    calls = dict(modes(x, functions))["forward and backward"]
    interleaved(notes, calls, in_cache=in_cache(x), **where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--frameworks", nargs="*", default=list(layers.FRAMEWORKS))
    parser.add_argument("--small", action="store_true", help="one small size, to see that it runs")
    parser.add_argument("--no-compile", action="store_true", help="without the compiled loop")
    options = parser.parse_args()
    notes = Notes(options.output, options.seconds)
    notes.add(what="device", name=torch.cuda.get_device_name(), torch=torch.__version__)
    functions = candidates(notes, options.frameworks)
    for steps, neurons in ((4, 64),) if options.small else SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            if notes.left() < TABLE:
                notes.add(what="out of time", T=steps, N=neurons, dtype=str(dtype))
                return
            x = (torch.randn(steps, neurons, device="cuda") * 1.5 + 0.6).to(dtype)
            table(notes, x, functions)
            del x
            gc.collect()
            torch.cuda.empty_cache()
    if not options.no_compile and notes.left() > COMPILING:
        size = (4, 64, "aot_eager") if options.small else (16, 10**6, "inductor")
        against_compiled(notes, *size)
    notes.add(what="done", seconds_left=round(notes.left(), 1))


if __name__ == "__main__":
    main()
