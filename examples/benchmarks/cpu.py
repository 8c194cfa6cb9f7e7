"""LIF on a CPU, beside the three frameworks and beside a copy of the same bytes.

All candidates of a table take turns in one process, round after round; the best round of each
counts (of 15, or 300 for the smallest layers), and every figure is a ratio within that table. One
thread unless a table says otherwise. Through autograd, every candidate gets the same gradient: a
contiguous tensor of ones.

    python examples/benchmarks/cpu.py            # prints, and writes cpu.json and cpu.md beside it
    python examples/benchmarks/cpu.py --quick    # fewer rounds
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

import spikeloom
from spikeloom.files import write_text
from spikeloom.kernel import run_cpu
from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.huge_pages import advise_huge_pages
from spikeloom.kernel.trace import Program
from spikeloom.neurons import LIF, surrogate

Candidates = dict[str, Callable[[], object]]
Forward = Callable[[torch.Tensor], torch.Tensor]

# Steps and neurons of a layer.
SIZES = ((1, 64), (16, 64), (4, 10_000), (16, 100_000), (16, 1_000_000))


def interleaved(candidates: Candidates, rounds: int) -> dict[str, dict[str, float]]:
    """Best and median milliseconds of each candidate; they take turns in every round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for function in candidates.values():
        function()
    for _ in range(rounds):
        for name, function in candidates.items():
            start = time.perf_counter()
            function()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {"best": min(found), "median": sorted(found)[len(found) // 2]}
        for name, found in times.items()
    }


# --- Through autograd: what a training step sees ---


def train(x: torch.Tensor, forward: Forward) -> Callable[[], None]:
    grad = torch.ones_like(x)

    def step() -> None:
        leaf = x.detach().requires_grad_()
        forward(leaf).backward(grad)

    return step


def frameworks(steps: int, neurons: int) -> Candidates:
    """Forward and backward of a layer, as its user calls it: ours in each framework, and its own.

    Every call begins at rest. One step is called as a step, by every candidate; of more, a
    framework's own neurons take what they can at once, and ours the whole sequence.
    """
    import snntorch
    from norse.torch import LIFBoxCell, LIFBoxParameters
    from snntorch import surrogate as snn_surrogate
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based import surrogate as sj_surrogate

    from spikeloom.plugins import norse as our_norse
    from spikeloom.plugins import snntorch as our_snntorch
    from spikeloom.plugins import spikingjelly as our_spikingjelly

    x = torch.randn(steps, neurons) * 1.2 + 0.6
    mode = "s" if steps == 1 else "m"
    lif = {"tau": 2.0, "surrogate_function": sj_surrogate.ATan(), "step_mode": mode}
    leaky = {"beta": 0.5, "spike_grad": snn_surrogate.atan(alpha=2.0)}
    box = LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))

    def with_reset(node: torch.nn.Module) -> Forward:
        def forward(x: torch.Tensor) -> torch.Tensor:
            functional.reset_net(node)
            return node(x)

        return forward

    def by_mem(layer: torch.nn.Module) -> Forward:
        def forward(x: torch.Tensor) -> torch.Tensor:
            mem, spikes = layer.reset_mem(), []
            for now in x:
                spike, mem = layer(now, mem)
                spikes.append(spike)
            return torch.stack(spikes)

        return (lambda x: layer(x, layer.reset_mem())[0]) if steps == 1 else forward

    def by_state(cell: torch.nn.Module) -> Forward:
        def forward(x: torch.Tensor) -> torch.Tensor:
            state, spikes = None, []
            for now in x:
                spike, state = cell(now, state)
                spikes.append(spike)
            return torch.stack(spikes)

        return (lambda x: cell(x)[0]) if steps == 1 else forward

    our_leaky = our_snntorch.Leaky(**leaky)
    our_box = our_norse.LIFBoxCell(box) if steps == 1 else our_norse.LIFBox(box)
    forwards = {
        "spikeloom, as SpikingJelly": with_reset(our_spikingjelly.LIFNode(**lif)),
        "spikeloom, as snnTorch": by_mem(our_leaky)
        if steps == 1
        else lambda x: our_leaky.sequence(x)[0],
        "spikeloom, as Norse": lambda x: our_box(x)[0],
        "SpikingJelly": with_reset(neuron.LIFNode(**lif)),
        "snnTorch": by_mem(snntorch.Leaky(**leaky)),
        "Norse": by_state(LIFBoxCell(box)),
        "torch loop": with_reset(our_spikingjelly.LIFNode(**lif, implementation="eager")),
    }
    inputs = x[0] if steps == 1 else x
    return {name: train(inputs, forward) for name, forward in forwards.items()}


# --- The kernel alone, on buffers that exist already ---


def kernel(steps: int, neurons: int, described: LIF) -> Candidates:
    """Forward and backward beside a copy that reads and writes eight bytes an element."""
    program = Program.parse(str(described.program))
    gradient = adjoint(program, frozenset({("x", 0)}))
    x, gy = torch.randn(steps, neurons) + 0.5, torch.randn(steps, neurons)
    y, gx = torch.empty_like(x), torch.empty_like(x)
    v, w, gv = torch.zeros(()), torch.empty(neurons), torch.empty(neurons)
    numbers = [*described.params.values(), *described.surrogate_numbers.values()]
    size = steps, numbers, x.dtype, neurons
    forward = run_cpu.Forward(program, *size)
    backward = run_cpu.Backward(program, gradient, *size)
    advise_huge_pages([x, y, gx, gy])
    return {
        "copy": lambda: y.copy_(x),
        "forward": lambda: forward([x], [v], [], [y], [w]),
        "backward": lambda: backward([x], [v], [], [gy], [v], [gx], [gv]),
    }


# --- The rest of the bars ---


def kept_bytes(forward: Callable[[torch.Tensor], object], x: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass."""
    kept: list[torch.Tensor] = []

    def note(t: torch.Tensor) -> torch.Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        forward(x.requires_grad_())
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(storages.values())


def first_call() -> float:
    """CPU seconds of trace, compilation and first run, forward and backward, in a new process."""
    code = (
        "import time, torch, spikeloom; torch.set_num_threads(1); x = torch.randn(16, 1000, "
        "requires_grad=True); y = x * 2; y.sum().backward(); t = time.process_time(); "
        "spikeloom.run(spikeloom.neurons.LIF(), x)[0].sum().backward(); "
        "print(time.process_time() - t)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(3)]
    return min(float(run) for run in runs)


def import_time() -> float:
    """CPU seconds that ``import spikeloom`` adds to ``import torch``."""
    code = (
        "import time, torch; t = time.process_time(); import spikeloom; "
        "print(time.process_time() - t)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(3)]
    return min(float(run) for run in runs)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def table(title: str, times: dict[str, dict[str, float]], unit: str) -> list[str]:
    base = times[unit]["best"]
    width = max(map(len, times))
    lines = [title, f"| {'':{width}} | best ms | median ms | best / {unit} |", "|---|---|---|---|"]
    for name, found in times.items():
        ratio = found["best"] / base
        lines.append(
            f"| {name:{width}} | {found['best']:#.3g} | {found['median']:#.3g} | {ratio:.2f} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rounds = 5 if options.quick else 15
    torch.manual_seed(0)
    torch.set_num_threads(1)
    packages = ("torch", "llvmlite", "spikingjelly", "snntorch", "norse")
    versions = {name: version(name) for name in packages}
    result: dict[str, object] = {"processor": processor(), "versions": versions, "rounds": rounds}
    lines = [f"{processor()}; " + ", ".join(f"{k} {v}" for k, v in versions.items()), ""]

    def note(key: str, title: str, times: dict[str, dict[str, float]], unit: str) -> None:
        result[key] = times
        lines.extend(table(title, times, unit))
        print("\n".join(table(title, times, unit)), flush=True)

    for steps, neurons in SIZES:
        # Calls that are over soon are repeated more often.
        often = rounds * (20 if neurons < 1000 else 1)
        times = interleaved(frameworks(steps, neurons), often)
        title = f"LIF forward and backward through autograd, T={steps}, N={neurons}, one thread"
        note(f"autograd {steps} {neurons}", title, times, "spikeloom, as SpikingJelly")
    for tau in (2.0, 3.0):
        described = LIF(tau=tau, v_reset=None, surrogate=surrogate.ATan())
        for steps, neurons in ((4, 1_000_000), (16, 1_000_000), (64, 1_000_000)):
            times = interleaved(kernel(steps, neurons, described), rounds)
            title = f"The kernel alone, tau={tau}, T={steps}, N={neurons}, one thread"
            note(f"kernel {tau} {steps} {neurons}", title, times, "copy")
    scaling = {}
    candidates = kernel(16, 1_000_000, LIF(tau=2.0, v_reset=None))
    for _ in range(2):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for name, found in interleaved(candidates, rounds).items():
                key = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
                scaling[key] = min(found, scaling.get(key, found), key=lambda f: f["best"])
    torch.set_num_threads(1)
    title = "Threads, T=16, N=1000000"
    note("threads", title, dict(sorted(scaling.items())), "copy, 1 thread")
    x = torch.randn(16, 100_000)
    memory = kept_bytes(lambda x: spikeloom.run(LIF(), x), x) / x.nbytes
    result |= {"kept / input": memory, "first call s": first_call(), "import s": import_time()}
    last = (
        f"Kept for the backward pass: {memory:.2f} x the input. First call (trace, compile, run "
        f"forward and backward): {result['first call s']:.2f} s of CPU. import spikeloom after "
        f"torch: {result['import s']:.2f} s."
    )
    print(last)
    options.output.mkdir(exist_ok=True)
    write_text(options.output / "cpu.json", json.dumps(result, indent=1) + "\n")
    write_text(options.output / "cpu.md", "\n".join([*lines, last]) + "\n")


if __name__ == "__main__":
    main()
