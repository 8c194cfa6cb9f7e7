"""Speed and memory of LAS against the float model and plain torch, as ratios within one run.

python examples/benchmarks/las.py            # prints
python examples/benchmarks/las.py --lengths  # a decoder of GPT-2's shape at growing lengths
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
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


# --- A decoder of GPT-2's shape, its weights random ---

LENGTHS = (128, 256, 512, 1024, 2048)
# Tokens that are generated after each length; every one of them finds a longer cache.
TOKENS = 20


def decoders() -> dict[str, torch.nn.Module]:
    """The float model, whose attention is torch's fused one, and its conversion."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_positions=max(LENGTHS) + TOKENS)).eval()
    batch = {"input_ids": torch.randint(0, 50257, (2, 64))}
    return {"float": model, "las": convert.LAS(steps=8, progress=False).apply(model, [batch])}


def cpu_seconds(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The least CPU time of each call, measured in turns."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            start = time.process_time()
            call()
            best[i] = min(best[i], time.process_time() - start)
    return best


def peak(call: Callable[[], object]) -> float:
    """The most memory of a process that makes this call, in megabytes."""

    def child(sender: Connection) -> None:
        with torch.no_grad():
            call()
        sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(sender,))
    process.start()
    found: float = receiver.recv()
    process.join()
    return found


def lengths(report: Report) -> None:
    models = decoders()
    for length in LENGTHS:
        ids = torch.randint(0, 50257, (1, length))

        def prefill(model: torch.nn.Module, ids: Tensor = ids) -> object:
            return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

        def token(model: torch.nn.Module, cache: object, ids: Tensor = ids) -> None:
            model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)

        plain, las = cpu_seconds([partial(prefill, m) for m in models.values()], 2)
        report.add(f"prefill {length}", las * 1e3, "float", plain * 1e3, las / plain)
        calls = [partial(token, model, prefill(model)) for model in models.values()]
        plain, las = cpu_seconds(calls, TOKENS)
        report.add(f"a token after {length}", las * 1e3, "float", plain * 1e3, las / plain)
        # Both processes hold both models; one of them is what a user has.
        both, one = (held(list(models.values())), held([models["float"]]))
        plain, las = (peak(partial(prefill, m)) - both + one for m in models.values())
        report.add(f"peak MB, prefill {length}", las, "float", plain, las / plain)


def held(models: list[torch.nn.Module]) -> float:
    """Megabytes of the weights of models, shared ones once."""
    storages = {p.data_ptr(): p.nbytes for model in models for p in model.parameters()}
    return sum(storages.values()) / 2**20


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", action="store_true", help="a decoder at growing lengths")
    if parser.parse_args().lengths:
        torch.set_num_threads(1)
        report = Report(
            "LAS at length, GPT-2's shape, K = 8, decoded; CPU time on one thread, in turns",
            ("what", "LAS", "compared with", "its own", "ratio"),
        )
        lengths(report)
        print(report)
        return
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
