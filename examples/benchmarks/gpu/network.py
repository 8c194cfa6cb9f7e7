"""Whole networks on a GPU: training steps and conversions, each on its own.

python examples/benchmarks/gpu/network.py OUT.json --seconds 70
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from measure import Notes, problem
from torch import Tensor, nn

import spikeloom

STEPS = 20


def step_ms(
    net: nn.Module, x: Tensor, target: Tensor, reset: Callable[[nn.Module], object]
) -> dict[str, float]:
    """Milliseconds of a training step, its loss, and the most memory that was taken."""
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)

    def step() -> Tensor:
        reset(net)
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(x).float().mean(0), target)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(5):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(STEPS):
        loss = step()
    torch.cuda.synchronize()
    ms = 1e3 * (time.perf_counter() - start) / STEPS
    return {"ms": ms, "loss": loss.item(), "GB": torch.cuda.max_memory_allocated() / 1e9}


def convolutions(small: bool) -> dict[str, Any]:
    """A convolutional network of SpikingJelly with its own neurons, and with ours."""
    from spikingjelly.activation_based import functional, layer, neuron

    from spikeloom.plugins import spikingjelly as loom

    batch, side = (4, 8) if small else (128, 32)
    x = torch.rand(8, batch, 3, side, side, device="cuda")
    target = torch.randint(0, 10, (batch,), device="cuda")
    found = {}
    for name, kind in (("spikeloom", loom.LIFNode), ("SpikingJelly", neuron.LIFNode)):
        torch.manual_seed(0)

        def block(wide: int, out: int, kind: type = kind) -> list[nn.Module]:
            return [
                layer.Conv2d(wide, out, 3, padding=1, bias=False),
                layer.BatchNorm2d(out),
                kind(),
            ]

        net = nn.Sequential(
            *block(3, 64),
            *block(64, 64),
            layer.MaxPool2d(2),
            *block(64, 128),
            layer.AdaptiveAvgPool2d(1),
            layer.Flatten(),
            layer.Linear(128, 10),
        ).cuda()
        functional.set_step_mode(net, "m")
        found[name] = step_ms(net, x, target, functional.reset_net)
    return found


def spiking_mlp(small: bool) -> dict[str, Any]:
    """A training step of the spiking MLP."""
    from spikeloom.models import SpikingMLP

    torch.manual_seed(0)
    side, patch, dim, batch = (8, 2, 24, 2) if small else (32, 4, 96, 64)
    net = SpikingMLP(
        image_size=side,
        patch_size=patch,
        in_channels=3,
        num_classes=10,
        dim=dim,
        depths=(1, 1),
    ).cuda()
    x = torch.rand(batch, 3, side, side, device="cuda")
    target = torch.randint(0, 10, (batch,), device="cuda")
    return step_ms(net, x, target, lambda net: None)


def signgd(small: bool) -> dict[str, Any]:
    """A converted GELU network, and how far its output is from the original's."""
    from spikeloom import convert

    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 10)).cuda().eval()
    x = torch.randn(64, 64, device="cuda")
    snn = convert.SignGD(steps=32).apply(ann, x)
    with torch.no_grad():
        expected, found = ann(x), snn(x)
    return {
        "largest_error": (expected - found).abs().max().item(),
        "largest": expected.abs().max().item(),
    }


def las(small: bool) -> dict[str, Any]:
    """A converted BERT: its error, and the seconds of converting and of two calls."""
    from transformers import BertConfig, BertModel

    from spikeloom import convert

    torch.manual_seed(0)
    width = 64 if small else 384
    config = BertConfig(
        vocab_size=500,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
    )
    model = BertModel(config).eval().cuda()
    batch = {
        "input_ids": torch.randint(0, 500, (4, 16), device="cuda"),
        "attention_mask": torch.ones(4, 16, dtype=torch.long, device="cuda"),
    }
    times = [time.perf_counter()]
    snn = convert.LAS(steps=8).apply(model, [batch])
    times.append(time.perf_counter())
    with torch.no_grad():
        expected = model(**batch).last_hidden_state.cpu()
        for _ in range(2):
            found = snn(**batch).last_hidden_state.cpu()
            times.append(time.perf_counter())
    seconds = [later - earlier for earlier, later in pairwise(times)]
    return {
        "relative_error": ((found - expected).norm() / expected.norm()).item(),
        **dict(zip(("convert_s", "first_s", "second_s"), seconds, strict=True)),
    }


PARTS = (convolutions, spiking_mlp, signgd, las)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=70.0)
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    notes = Notes(options.output, options.seconds)
    notes.add(what="device", name=torch.cuda.get_device_name(), spikeloom=spikeloom.__version__)
    for part in PARTS:
        if notes.left() < 0:
            notes.add(what="out of time", name=part.__name__)
            return
        try:
            notes.add(what=part.__name__, **part(options.small))
        except Exception as error:
            notes.add(what=part.__name__, problem=problem(error))
    notes.add(what="done")


if __name__ == "__main__":
    main()
