"""Which model types of transformers LAS converts: each is built small and at random, and tried.

    python examples/las_architectures.py                # every type; about an hour
    python examples/las_architectures.py llama swin     # these
    python examples/las_architectures.py --markdown docs/las_architectures.md

Every type runs in a process of its own. A type that cannot be built from a configuration made small
by the usual names of its sizes, or whose forward takes other inputs than the usual ones, is "not
built": nothing is said of it.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers.models.auto import configuration_auto, modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from spikeloom.convert import LAS
from spikeloom.files import whole_file

STEPS = 8
LIMIT = 90  # seconds for a type
SIZES = {
    97: "vocab_size src_vocab_size tgt_vocab_size decoder_vocab_size entity_vocab_size",
    32: """
        hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim emb_dim
        decoder_hidden_size encoder_hidden_size projection_dim hidden_dim
        cross_attention_hidden_size entity_emb_size projection_size text_hidden_size model_dim
        """,
    2: """
        num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers
        num_encoder_layers num_decoder_layers num_encoder_blocks decoder_num_hidden_layers
        num_key_value_heads num_experts_per_tok decoder_num_layers encoder_num_hidden_layers
        """,
    4: """
        num_attention_heads n_head n_heads num_heads encoder_attention_heads
        decoder_attention_heads num_local_experts num_experts n_routed_experts
        encoder_num_attention_heads decoder_num_attention_heads decoder_num_heads
        """,
    8: "head_dim d_kv patch_size rotary_dim num_mel_bins kv_lora_rank q_lora_rank",
    64: """
        intermediate_size ffn_dim d_ff n_inner d_inner encoder_ffn_dim decoder_ffn_dim
        moe_intermediate_size shared_expert_intermediate_size max_position_embeddings n_positions
        hidden_dim mlp_dim decoder_intermediate_size expert_ffn_hidden_size
        """,
}
KNOWN = {name: size for size, names in SIZES.items() for name in names.split()}
KNOWN |= {"image_size": 32, "max_source_positions": 20, "max_target_positions": 64}
TASKS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
ANSWERS = ("logits", "last_hidden_state", "logits_per_image", "prediction_logits")


def main() -> None:
    """Try the types, one process after another."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*")
    parser.add_argument("--markdown", type=Path)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[str, ...]] = []
    for kind in wanted.types or sorted(CONFIG_MAPPING_NAMES):
        rows.append((kind, *in_own_process(kind)))
        print(" | ".join(rows[-1]), flush=True)
        counts = {state: sum(row[1] == state for row in rows) for state in STATES}
        if wanted.markdown:
            with whole_file(wanted.markdown) as temporary:  # each time: an hour is long
                temporary.write_text(page(rows, counts))
    print(", ".join(f"{count} {state}" for state, count in counts.items()))


STATES = ("converted", "refused", "WRONG", "not built")


def in_own_process(kind: str) -> tuple[str, str, str]:
    """State, model and detail of a type."""
    context = multiprocessing.get_context("fork")  # what is imported already stays imported
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(tried(kind)))
    process.start()
    there.close()
    try:
        found: tuple[str, str, str] = (
            here.recv() if here.poll(LIMIT) else ("not built", "", f"no answer in {LIMIT} s")
        )
    except EOFError:
        found = "not built", "", "the process ended"
    process.kill()
    process.join()
    return found


def tried(kind: str) -> tuple[str, str, str]:
    """State, model and detail of a type, in this process."""
    torch.manual_seed(0)
    try:
        model = built(kind)
    except Exception as error:
        return "not built", "", first_line(error)
    name = type(model).__name__
    try:
        with torch.no_grad():
            batch, unseen = batch_for(model, 0), batch_for(model, 1)
            wanted = answer(model(**unseen))
    except Exception as error:
        return "not built", name, first_line(error)
    if not bool(wanted.isfinite().all()) or float(wanted.std()) == 0:
        return "not built", name, "its output is constant or not finite"
    try:
        network = LAS(steps=STEPS, progress=False).apply(model, [batch, batch_for(model, 2)])
    except (TypeError, ValueError) as error:
        return "refused", name, first_line(error)
    except Exception as error:
        return "WRONG", name, f"{type(error).__name__}: {first_line(error)}"
    with torch.no_grad():
        try:
            found = answer(network(**unseen))
        except ValueError as error:
            return "refused", name, first_line(error)
    error = float((found - wanted).norm() / wanted.norm())
    return "converted" if error < 0.1 else "WRONG", name, f"{error:.4f}"


def first_line(error: Exception) -> str:
    """The beginning of an error, without bars, which are the table's own."""
    return " ".join(str(error).split()).replace("|", "/")[:200] or type(error).__name__


def built(kind: str) -> Any:
    """A small random model of a type."""
    configuration = getattr(transformers, configuration_auto.CONFIG_MAPPING_NAMES[kind])
    config = configuration(**small(configuration))
    for task in TASKS:
        name = getattr(modeling_auto, task).get(kind)
        if name is not None:
            name = name if isinstance(name, str) else name[0]
            model = getattr(transformers, name)(config).eval()
            break
    else:
        raise ValueError("no model of the usual tasks")
    with torch.no_grad():
        # Larger than at initialisation, so that attention attends and functions bend.
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)
    return model


def small(configuration: Any) -> dict[str, Any]:
    """Settings that make a configuration small."""
    full = configuration().to_dict()
    settings = {name: size for name, size in KNOWN.items() if isinstance(full.get(name), int)}
    for name in full:
        if name.endswith("token_id") and isinstance(full[name], int):
            settings[name] = min(full[name], 3)
        if name in ("layer_types", "mlp_layer_types") and full[name] is not None:
            settings[name] = list(full[name])[:2]
    for name, part in getattr(configuration, "sub_configs", {}).items():
        if isinstance(full.get(name), dict) and hasattr(part, "model_type"):
            settings[name] = small(part)
    return settings


def batch_for(model: Any, seed: int) -> dict[str, Any]:
    """A batch of what the model's forward usually takes."""
    draw = torch.Generator().manual_seed(seed)
    takes = inspect.signature(model.forward).parameters
    config = model.config
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 32)
    size = size if isinstance(size, int) else size[0]
    channels = getattr(vision, "num_channels", 3)
    ids = torch.randint(5, 90, (4, 12), generator=draw)
    made: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "decoder_input_ids": torch.randint(5, 90, (4, 9), generator=draw),
        "pixel_values": torch.randn(4, channels, size, size, generator=draw),
        "input_values": torch.randn(4, 1600, generator=draw),
        "input_features": torch.randn(4, getattr(config, "num_mel_bins", 8), 40, generator=draw),
    }
    main = model.main_input_name
    names = [main] if main in made else []
    names += ["attention_mask"] if main == "input_ids" and "attention_mask" in takes else []
    names += ["pixel_values"] if main == "input_ids" and _needs(takes, "pixel_values") else []
    names += ["decoder_input_ids"] if getattr(config, "is_encoder_decoder", False) else []
    return {name: made[name] for name in dict.fromkeys(names) if name in takes}


def _needs(takes: Any, name: str) -> bool:
    return name in takes and takes[name].default is inspect.Parameter.empty


def answer(output: Any) -> Any:
    """What of an output is compared."""
    for name in ANSWERS:
        value = getattr(output, name, None)
        if value is not None:
            return value
    return output[0]


def page(rows: list[tuple[str, ...]], counts: dict[str, int]) -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Which architectures LAS converts",
        "",
        f"Written by `python examples/las_architectures.py --markdown docs/las_architectures.md` "
        f"with transformers {transformers.__version__}, for {len(rows)} of its "
        f"{len(CONFIG_MAPPING_NAMES)} model types. Each model type is built small, with "
        f"random weights, converted with {STEPS} steps on two batches, and compared with the float "
        f"model on a third: the number is the relative L2 error. "
        f"{', '.join(f'{count} are {state}' for state, count in counts.items() if count)}. Of a "
        f"type that could not be built in this way nothing is said.",
        "",
        "| model type | model | result |",
        "|---|---|---|",
    ]
    lines += [
        f"| {kind} | {model} | {state if state != 'converted' else 'converted,'} {detail} |"
        for kind, state, model, detail in rows
        if state != "not built"
    ]
    missing = ", ".join(kind for kind, state, *_ in rows if state == "not built")
    return "\n".join([*lines, "", f"Not built: {missing}.", ""])


if __name__ == "__main__":
    main()
