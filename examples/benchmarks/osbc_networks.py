"""Whole spiking networks, calibrated and pruned from end to end.

    python examples/benchmarks/osbc_networks.py vgg11       # eight convolutions, 32 x 32 images
    python examples/benchmarks/osbc_networks.py resnet18    # widest layer: 4608 inputs
    python examples/benchmarks/osbc_networks.py nmnist      # 2312-256-10
    python examples/benchmarks/osbc_networks.py gesture --samples 32   # 128 x 128 events

The networks are SpikingJelly's layers and neurons with random weights, their normalisations adapted
to the data, and the data is synthetic: what is measured is time, not accuracy.
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import pairwise

import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based import layer as sj
from torch import Tensor, nn

from spikeloom import compress


def convolution(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> list[nn.Module]:
    """A convolution and its normalisation."""
    return [
        sj.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        sj.BatchNorm2d(outputs),
    ]


def vgg11(narrower: int) -> nn.Module:
    """The eight convolutions of VGG-11, and a linear layer."""
    modules: list[nn.Module] = []
    inputs = 3
    for width, pooled in zip((64, 128, 256, 256, 512, 512, 512, 512), "11010101", strict=True):
        modules += [*convolution(inputs, width // narrower), neuron.LIFNode()]
        modules += [sj.MaxPool2d(2)] * (pooled == "1")
        inputs = width // narrower
    return nn.Sequential(*modules, sj.Flatten(), sj.Linear(inputs, 10))


class Residual(nn.Module):
    """Two convolutions beside a way past them; what is added is spikes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *convolution(inputs, outputs, stride),
            neuron.LIFNode(),
            *convolution(outputs, outputs),
            neuron.LIFNode(),
        )
        same = inputs == outputs
        past = [] if same else [*convolution(inputs, outputs, stride, 1), neuron.LIFNode()]
        self.past = nn.Sequential(*past)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.past(x)


def resnet18(narrower: int) -> nn.Module:
    """Four stages of two residual blocks."""
    widths = [width // narrower for width in (64, 64, 128, 256, 512)]
    blocks: list[nn.Module] = []
    for at, (inputs, outputs) in enumerate(pairwise(widths)):
        blocks += [Residual(inputs, outputs, 1 + (at > 0)), Residual(outputs, outputs, 1)]
    head = [sj.AdaptiveAvgPool2d(1), sj.Flatten(), sj.Linear(widths[-1], 10)]
    return nn.Sequential(*convolution(3, widths[0]), neuron.LIFNode(), *blocks, *head)


def nmnist(narrower: int) -> nn.Module:
    """The perceptron of the paper's N-MNIST experiment."""
    return nn.Sequential(
        sj.Flatten(),
        sj.Linear(2312 // narrower, 256 // narrower, bias=False),
        neuron.LIFNode(),
        sj.Linear(256 // narrower, 10, bias=False),
        neuron.LIFNode(),
    )


def gesture(narrower: int) -> nn.Module:
    """A network as is usual for DVS-Gesture: five convolutions on both polarities of 128 x 128."""
    width = 128 // narrower
    modules: list[nn.Module] = []
    for inputs in (2, *[width] * 4):
        modules += [*convolution(inputs, width), neuron.LIFNode(), sj.MaxPool2d(2)]
    modules += [sj.Flatten(), sj.Linear(16 * width, 4 * width), neuron.LIFNode()]
    return nn.Sequential(*modules, sj.Linear(4 * width, 11), neuron.LIFNode())


# Each with T and the shape of a sample.
NETWORKS = {
    "vgg11": (vgg11, 4, (3, 32, 32)),
    "resnet18": (resnet18, 4, (3, 32, 32)),
    "nmnist": (nmnist, 100, (2312,)),
    "gesture": (gesture, 16, (2, 128, 128)),
}


def adapted(net: nn.Module, batch: Tensor) -> nn.Module:
    """Let normalisations learn what they see, so that every layer spikes."""
    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=4 * module.in_features**-0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 6.0)
    net.train()
    with torch.no_grad():
        for _ in range(10):
            functional.reset_net(net)
            net(batch)
    functional.reset_net(net)
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("net", choices=NETWORKS)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="an eighth of the width, 16 samples")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    make, steps, shape = NETWORKS[args.net]
    narrower, samples = (8, 16) if args.quick else (1, args.samples)
    if args.net == "nmnist":
        shape = (2312 // narrower,)
    at_once = 4 if args.net == "gesture" else 16
    batches = (torch.rand(steps, samples, *shape) < 0.2).float().split(at_once, 1)
    net = adapted(make(narrower), batches[0])
    marks = [(time.perf_counter(), time.process_time())]
    stats = compress.calibrate(net, batches)
    marks.append((time.perf_counter(), time.process_time()))
    report = compress.prune(net, stats, sparsity=0.9, effort=args.effort)
    marks.append((time.perf_counter(), time.process_time()))
    print(report)
    print(f"{args.net}, T={steps}, {samples} samples, {args.effort}, {args.threads} thread(s)")
    for what, (before, after) in zip(
        ("calibrated", "pruned to 90 %"), pairwise(marks), strict=True
    ):
        clock, computing = after[0] - before[0], after[1] - before[1]
        print(f"{what:15s} {clock:6.1f} s by the clock, {computing:6.1f} s of computing")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
