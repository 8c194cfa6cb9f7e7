"""Speed and memory of LAS against the float model and plain torch, as ratios within one run.

python examples/benchmarks/las.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spikeloom import convert, run
from spikeloom.convert.las.layers import Linear
from spikeloom.neurons import OAT
from spikeloom.report import Report

sys.path.insert(0, str(Path(__file__).parents[1]))
import las_minilm

ROUNDS = 7


def interleaved(*calls: Callable[[], object]) -> list[float]:
    """The least time of each call in seconds, measured in turns so that load hits all alike."""
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def oat_in_plain_torch(x: Tensor, steps: int, normal: float, outlier: float) -> Tensor:
    """The spikes of an outlier-aware neuron, a vectorised torch loop."""
    reach = torch.where(x.abs() < normal, normal, outlier)
    sign, v, theta = x.sign(), x.abs().clamp(max=outlier), reach / 2
    spikes = []
    for _ in range(steps):
        z = (v > theta).to(x.dtype)
        spikes.append(sign * theta * z)
        v = v - theta * z
        theta = theta / 2
    return torch.stack(spikes)


def encoding() -> tuple[float, float, float]:
    """Seconds of the torch loop, of our spikes, and of their decoded sum."""
    torch.manual_seed(0)
    x = torch.randn(512, 768)
    neuron = OAT(16, 3.0, 30.0)
    assert torch.equal(run(neuron, x[None])[0], oat_in_plain_torch(x, 16, 3.0, 30.0))
    return tuple(
        interleaved(
            lambda: oat_in_plain_torch(x, 16, 3.0, 30.0),
            lambda: run(neuron, x[None]),
            lambda: run(neuron.decoder(), x),
        )
    )


def linear_layer(steps: int = 8) -> tuple[float, float]:
    """Seconds of K float passes of a linear layer, and of its step-by-step spike form."""
    torch.manual_seed(0)
    layer = Linear(*torch.nn.Linear(384, 1536).parameters())
    x = torch.randn(1472, 384)
    layer.site(x)
    layer.site.fit(steps, 1, "nearest", 1.25)
    layer.observing = False
    y = torch.randn(steps, *x.shape)

    def passes() -> None:
        for part in y:
            torch.nn.functional.linear(part, layer.weight, layer.bias)

    return tuple(interleaved(passes, lambda: layer.spikes(x).sum(0)))


def inference(steps: int = 8) -> tuple[float, float]:
    """Seconds of the float encoder and of its converted form, decoded, on one batch."""
    model, tokenizer = las_minilm.load()
    texts = las_minilm.sentences()
    network = convert.LAS(steps=steps).apply(model, las_minilm.batches(texts[:128], tokenizer))
    (batch,) = las_minilm.batches(texts[128:192], tokenizer)
    return tuple(interleaved(lambda: model(**batch), lambda: network(**batch)))


@torch.no_grad()
def main() -> None:
    report = Report(
        f"LAS on the CPU, {torch.get_num_threads()} threads, best of {ROUNDS} interleaved rounds",
        ("what", "ms", "compared with", "ms ", "ratio"),
    )
    loop, spikes, decoded = encoding()
    report.add("OAT, 16 spikes a value", spikes * 1e3, "torch loop", loop * 1e3, spikes / loop)
    report.add("OAT decoded, K = 16", decoded * 1e3, "torch loop", loop * 1e3, decoded / loop)
    passes, form = linear_layer()
    report.add("linear by spikes, K = 8", form * 1e3, "8 passes", passes * 1e3, form / passes)
    original, converted = inference()
    report.add(
        "MiniLM decoded, K = 8", converted * 1e3, "float", original * 1e3, converted / original
    )
    print(report)


if __name__ == "__main__":
    main()
