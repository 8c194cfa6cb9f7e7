"""What Python does around a launch: microseconds of a call whose kernels are left out.

A kernel that takes less time than this waits for Python. Beside spikeloom's calls stands an
autograd.Function that does nothing, to compare machines by.

    python examples/benchmarks/gpu/host.py                           # on a GPU
    python -m tests.gpu.rehearsal examples/benchmarks/gpu/host.py    # without one
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from spikeloom import neurons, run
from spikeloom.kernel import cuda_device

STEPS, NEURONS = 16, 64


class Nothing(torch.autograd.Function):
    """A function that keeps its input and returns it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (_,) = ctx.saved_tensors
        return grad.clone()


def calls() -> dict[str, Callable[[], Any]]:
    """Calls by name."""
    x = torch.randn(STEPS, NEURONS, device="cuda")
    learned = x.clone().requires_grad_()
    tau = torch.tensor(2.3, device="cuda", requires_grad=True)
    grad = torch.ones(STEPS, NEURONS, device="cuda")
    atan = neurons.surrogate.ATan()
    lif, learning = neurons.LIF(2.0, surrogate=atan), neurons.LIF(tau, surrogate=atan)

    def infer() -> None:
        with torch.no_grad():
            run(lif, x)

    def train(call: Callable[[], Tensor]) -> None:
        learned.grad = tau.grad = None
        call().backward(grad)

    return {
        "inference": infer,
        "forward and backward": lambda: train(lambda: run(lif, learned)[0]),
        "the same, learned tau": lambda: train(lambda: run(learning, learned)[0]),
        "an autograd.Function that does nothing": lambda: train(lambda: Nothing.apply(learned)),
    }


def best(timed: dict[str, Callable[[], Any]], rounds: int, each: int = 20) -> dict[str, float]:
    """Name -> CPU seconds of a call, the least of interleaved rounds."""
    found = dict.fromkeys(timed, float("inf"))
    for _ in range(rounds):
        for name, call in timed.items():
            start = time.process_time()
            for _ in range(each):
                call()
            found[name] = min(found[name], (time.process_time() - start) / each)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    options = parser.parse_args()
    timed = calls()
    for call in timed.values():
        call()  # whose kernels are compiled now
    torch.cuda.synchronize()
    cuda_device.driver = SimpleNamespace(launchKernel=lambda *arguments: None)
    for name, seconds in best(timed, rounds=3 if options.small else 100).items():
        print(f"{name:40} {1e6 * seconds:6.1f} us")


if __name__ == "__main__":
    main()
