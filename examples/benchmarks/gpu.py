"""LIF on a GPU: checked against the eager loop, then timed beside other ways to run it.

Every implementation and dtype must first equal the eager loop: spikes bit for bit, gradients to
rounding. Then all candidates of a table take turns, round after round, timed by CUDA events; the
best round counts, the median and the worst show the spread, and a copy of a sequence on the same
device (which reads and writes every byte of it once) is the yardstick.

    python examples/benchmarks/gpu.py            # prints, and writes results/gpu.json and gpu.md
    python examples/benchmarks/gpu.py --quick    # smaller sizes, fewer rounds
    python examples/benchmarks/gpu.py --tune     # segment lengths and registers of the backward
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

import spikeloom
from spikeloom.files import write_text
from spikeloom.neurons import LIF, surrogate

Candidates = dict[str, Callable[[], object]]
Forward = Callable[[torch.Tensor], torch.Tensor]
Times = dict[str, dict[str, float] | str]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What a call should take at least, so that the events' own resolution does not matter.
LEAST_MS = 0.5
# The compiled loop is unrolled: beyond so many steps its compilation takes minutes.
COMPILED_STEPS = 16


def neuron(tau: float | torch.Tensor = 2.0, v_reset: float | None = 0.0) -> LIF:
    """SpikingJelly's LIF, with its ATan surrogate."""
    return LIF(tau, v_reset=v_reset, surrogate=surrogate.ATan())


# --- Is it right? ---


def gradients(
    described: Callable[[torch.Tensor], LIF], x: torch.Tensor, implementation: str
) -> list[torch.Tensor]:
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    tau = torch.tensor(2.3, dtype=real, device=x.device, requires_grad=True)
    leaf = x.detach().requires_grad_()
    y, (v,) = spikeloom.run(described(tau), leaf, implementation=implementation)
    weight = torch.linspace(-1, 1, y.numel(), device=x.device).view(y.shape).to(y.dtype)
    return [y, v, *torch.autograd.grad((y * weight).sum() + v.sum(), [leaf, tau])]


def check() -> list[str]:
    """A line for each comparison with the eager loop; raises if spikes or states differ."""
    lines = ["| reset | dtype | T | N | spikes | largest gradient difference |", "|" + "---|" * 6]
    for v_reset in (0.0, None):
        for dtype in DTYPES:
            for steps, neurons in ((1, 8), (4, 10_007), (16, 16_384), (17, 10_007), (64, 16_384)):
                x = (torch.randn(steps, neurons, device="cuda") * 1.5 + 0.6).to(dtype)
                ours, eager = (
                    gradients(partial(neuron, v_reset=v_reset), x, name)
                    for name in ("cupy", "eager")
                )
                where = f"v_reset={v_reset}, {dtype}, T={steps}, N={neurons}"
                if not (torch.equal(ours[0], eager[0]) and torch.equal(ours[1], eager[1])):
                    raise SystemExit(f"spikes or states differ from the eager loop: {where}")
                tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 2e-2)
                worst = 0.0
                for a, b in zip(ours[2:], eager[2:], strict=True):
                    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=where)
                    worst = max(worst, (a - b).abs().max().item())
                name = str(dtype).removeprefix("torch.")
                reset = "soft" if v_reset is None else "hard"
                lines.append(f"| {reset} | {name} | {steps} | {neurons} | equal | {worst:.1e} |")
    return [*lines, ""]


# --- The candidates ---


def forwards(steps: int) -> dict[str, Forward]:
    """Functions from an input to spikes, each of the same neuron."""
    described = neuron()

    def loop(x: torch.Tensor) -> torch.Tensor:
        return spikeloom.run(described, x, implementation="eager")[0]

    found: dict[str, Forward] = {
        "spikeloom": lambda x: spikeloom.run(described, x, implementation="cupy")[0],
        "torch loop": loop,
    }
    if steps <= COMPILED_STEPS:
        found["torch.compile'd loop"] = torch.compile(loop, dynamic=False)
    if find_spec("spikingjelly"):
        found["SpikingJelly LIFNode"] = spikingjelly_forward()
    return found


def spikingjelly_forward() -> Forward:
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based import neuron as theirs
    from spikingjelly.activation_based import surrogate as their_surrogate

    node = theirs.LIFNode(tau=2.0, surrogate_function=their_surrogate.ATan(), step_mode="m").cuda()

    def forward(x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(node)
        return node(x)

    return forward


def modes(steps: int, x: torch.Tensor) -> Iterator[tuple[str, Candidates]]:
    """The three ways to call: keeping what a backward needs, with the backward, and neither."""
    functions = forwards(steps)
    y, grad = torch.empty_like(x), torch.ones_like(x)
    copy: Candidates = {"copy": lambda: y.copy_(x)}

    def forward(function: Forward) -> Callable[[], object]:
        return lambda: function(x.detach().requires_grad_())

    def train(function: Forward) -> Callable[[], object]:
        return lambda: function(x.detach().requires_grad_()).backward(grad)

    def infer(function: Forward) -> Callable[[], object]:
        def call() -> None:
            with torch.no_grad():
                function(x)

        return call

    yield "forward", copy | {name: forward(f) for name, f in functions.items()}
    yield "forward and backward", copy | {name: train(f) for name, f in functions.items()}
    described = neuron()
    functions["spikeloom, mean over T"] = lambda x: spikeloom.run(
        described, x, reduce="mean", implementation="cupy"
    )[0]
    yield "inference", copy | {name: infer(f) for name, f in functions.items()}


# --- How long does it take? ---


def elapsed(function: Callable[[], object], calls: int) -> float:
    """Milliseconds a call, over so many calls in a row."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / calls


def interleaved(candidates: Candidates, rounds: int) -> Times:
    """Best, median and worst of each candidate, or why there is none."""
    found: Times = {}
    calls: dict[str, int] = {}
    for name, function in candidates.items():
        try:
            elapsed(function, 3)
            calls[name] = max(1, round(LEAST_MS / elapsed(function, 3)))
        except torch.cuda.OutOfMemoryError:
            found[name] = "out of memory"
        except Exception as error:  # another project's failure is a result, not ours
            if name.startswith("spikeloom"):
                raise
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, count in calls.items():
            times[name].append(elapsed(candidates[name], count))
    for name, values in times.items():
        ordered = sorted(values)
        median = ordered[len(ordered) // 2]
        found[name] = {"best": ordered[0], "median": median, "worst": ordered[-1]}
    return {name: found[name] for name in candidates}


def table(title: str, times: Times) -> list[str]:
    copy = times["copy"]
    assert isinstance(copy, dict)
    width = max(map(len, times))
    lines = [
        title,
        "",
        f"| {'':{width}} | best ms | median ms | worst ms | best / copy |",
        "|" + "---|" * 5,
    ]
    for name, found in times.items():
        if isinstance(found, str):
            lines.append(f"| {name:{width}} | {found} | | | |")
            continue
        figures = " | ".join(f"{found[key]:.4f}" for key in ("best", "median", "worst"))
        lines.append(f"| {name:{width}} | {figures} | {found['best'] / copy['best']:.2f} |")
    return [*lines, ""]


def tuning(steps: int, x: torch.Tensor) -> Candidates:
    """Forward and backward with other segments and other limits on registers."""
    from spikeloom.kernel import emit_cuda, run_cuda

    described, grad = neuron(), torch.ones_like(x)

    def call(segment: int, history: int) -> None:
        if (segment, history) != (emit_cuda.SEGMENT, emit_cuda.HISTORY):
            emit_cuda.SEGMENT, emit_cuda.HISTORY = segment, history
            emit_cuda.backward_shape.cache_clear()
            run_cuda._backward_plan.cache_clear()
        leaf = x.detach().requires_grad_()
        spikeloom.run(described, leaf, implementation="cupy")[0].backward(grad)

    y = torch.empty_like(x)
    found: Candidates = {"copy": lambda: y.copy_(x)}
    for segment in (4, 8, 16, 32):
        for history in (16, 32, 64, 128):
            found[f"segment {segment}, history {history}"] = partial(call, segment, history)
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "CUDA of torch": str(torch.version.cuda)}
    for name in ("torch", "spikeloom", "cupy-cuda12x", "cupy-cuda13x", "triton", "spikingjelly"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--tune", action="store_true", help="time other shapes of the backward")
    parser.add_argument("--steps", type=int, nargs="+", default=None, metavar="T")
    parser.add_argument("--neurons", type=float, nargs="+", default=None, metavar="N")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no CUDA device, so there is nothing to measure")
    if not find_spec("cupy"):
        sys.exit('gpu.py: CuPy is not installed: pip install "spikeloom[cuda13]" (or cuda12)')
    all_steps = options.steps or ([4, 16] if options.quick else [4, 16, 64])
    sizes = options.neurons or ([1e5, 1e6] if options.quick else [1e5, 1e6, 1e7])
    rounds = 5 if options.quick else 15
    torch.manual_seed(0)
    device = torch.cuda.get_device_name()
    result: dict[str, object] = {"device": device, "versions": versions(), "rounds": rounds}
    lines = [f"{device}; " + ", ".join(f"{k} {v}" for k, v in versions().items()), ""]
    print(lines[0], flush=True)

    def note(new: list[str]) -> None:
        lines.extend(new)
        print("\n".join(new), flush=True)

    note(["Against the eager loop", "", *check()])
    for steps in all_steps:
        for neurons in map(int, sizes):
            for dtype in (torch.float32, torch.bfloat16):
                x = (torch.randn(steps, neurons, device="cuda") * 1.5 + 0.6).to(dtype)
                tables = modes(steps, x)
                if options.tune:
                    tables = iter([("forward and backward, tuned", tuning(steps, x))])
                name = str(dtype).removeprefix("torch.")
                for mode, candidates in tables:
                    times = interleaved(candidates, rounds)
                    result[f"{mode}, {name}, T={steps}, N={neurons}"] = times
                    note(table(f"LIF {mode}, {name}, T={steps}, N={neurons}", times))
                    torch.cuda.empty_cache()
    options.output.mkdir(exist_ok=True)
    stem = "gpu-tuning" if options.tune else "gpu"
    write_text(options.output / f"{stem}.json", json.dumps(result, indent=1) + "\n")
    write_text(options.output / f"{stem}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
