"""One training step of the spiking MLP on 8x8 images, beside the same network of SpikingJelly.

Both networks have the same layers and sizes; SpikingJelly's is made of its own layers and its own
multi-step LIFNode. A step is what an epoch consists of: forward, backward, optimiser, reset. They
take turns, one thread; the median of the ratios counts.

    python examples/benchmarks/spiking_mlp.py
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from spikingjelly.activation_based import functional

from spikeloom.models import SpikingMLP
from tests.models.spiking_mlp.spikingjelly_network import Network

STEPS, BATCH = 4, 96


def training_step(
    model: nn.Module, x: Tensor, y: Tensor, reset: Callable[[nn.Module], None]
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).mean(0), y).backward()
        optimizer.step()
        reset(model)

    return step


def milliseconds(function: Callable[[], None], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        function()
    return 1e3 * (time.process_time() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.rand(BATCH, 1, 8, 8), torch.randint(10, (BATCH,))
    sequence = x.expand(STEPS, *x.shape)
    sizes = {"dim": 24, "depths": (1, 1)}
    for axis in ("channel", "token"):
        ours = SpikingMLP(8, 2, 1, 10, bn_axis=axis, steps=STEPS, **sizes)
        theirs = Network((8, 8), 2, 1, 10, bn_axis=axis, **sizes)
        functional.set_step_mode(theirs, "m")
        candidates = (
            training_step(ours, x, y, lambda model: None),
            training_step(theirs, sequence, y, functional.reset_net),
        )
        for candidate in candidates:
            milliseconds(candidate, 5)
        rounds = [[milliseconds(c, 10) for c in candidates] for _ in range(options.rounds)]
        ratios = sorted(peer / own for own, peer in rounds)
        own, peer = (min(times) for times in zip(*rounds, strict=True))
        print(
            f"bn_axis={axis!r}: spikeloom {own:.1f} ms, SpikingJelly {peer:.1f} ms a step; "
            f"ratio median {statistics.median(ratios):.2f}, "
            f"from {ratios[0]:.2f} to {ratios[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
