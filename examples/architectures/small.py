"""A small random model of a type of transformers, and batches for it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

__all__ = ["MOST_PARAMETERS", "NotBuilt", "answer", "batch_for", "built"]

MOST_PARAMETERS = 40_000_000  # a type that stays larger takes too long
VOCABULARY = 97
SIZES = {
    VOCABULARY: """
        vocab_size src_vocab_size tgt_vocab_size decoder_vocab_size entity_vocab_size
        vocab_size_per_layer_input
        """,
    32: """
        hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim emb_dim
        decoder_hidden_size encoder_hidden_size projection_dim hidden_dim text_hidden_size
        cross_attention_hidden_size entity_emb_size projection_size model_dim out_hidden_size
        lm_hidden_size embedding_dim projector_hidden_size output_hidden_size fpn_hidden_size
        encoder_hidden_dim mask_feature_size feature_size hidden_size_per_layer_input
        fusion_hidden_size latent_dim conv_dim qk_head_dim linear_d_model lru_width
        """,
    2: """
        num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth
        num_encoder_layers num_decoder_layers num_encoder_blocks decoder_num_hidden_layers
        num_key_value_heads num_experts_per_tok decoder_num_layers encoder_num_hidden_layers
        num_key_value_heads_per_layer moe_topk moe_top_k linear_num_key_heads num_local_layers
        resampler_depth max_window_layers num_shared_layers text_layers num_global_layers
        vision_layers num_conv_layers resampler_n_layers index_n_heads num_lstm_layers
        """,
    4: """
        num_attention_heads n_head n_heads num_heads encoder_attention_heads resampler_n_heads
        decoder_attention_heads num_local_experts num_experts n_routed_experts attention_heads
        encoder_num_attention_heads decoder_num_attention_heads decoder_num_heads moe_num_experts
        linear_num_value_heads mamba_n_heads num_queries num_query_tokens
        """,
    8: """
        head_dim d_kv patch_size rotary_dim kv_lora_rank q_lora_rank qk_nope_head_dim
        qk_rope_head_dim v_head_dim linear_key_head_dim linear_value_head_dim global_head_dim
        mamba_d_state mamba_d_head state_size index_head_dim num_mel_bins swa_head_dim
        """,
    64: """
        intermediate_size ffn_dim d_ff n_inner d_inner encoder_ffn_dim decoder_ffn_dim
        moe_intermediate_size shared_expert_intermediate_size max_position_embeddings n_positions
        mlp_dim decoder_intermediate_size expert_ffn_hidden_size dim_feedforward
        shared_intermediate_size ffn_hidden_size original_max_position_embeddings
        """,
}
KNOWN = {name: size for size, names in SIZES.items() for name in names.split()}
KNOWN |= {
    "first_k_dense_replace": 1,
    "image_size": 32,
    "max_source_positions": 20,
    "max_target_positions": 64,
    "mlp_ratio": 2,
    "n_group": 1,
    "topk_group": 1,
}
# Of each the first that a type has a model for.
TASKS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
ANSWERS = ("logits", "last_hidden_state", "logits_per_image", "prediction_logits")
IMAGES = ["pixel_values", "image_grid_thw", "mm_token_type_ids", "token_type_ids"]
IMAGE_TOKEN, OTHER_TOKEN = 91, 92  # above those that batches draw


class NotBuilt(Exception):
    """No small model of a type, or no batch that it takes."""


def built(kind: str) -> tuple[Any, bool]:
    """A small random model of a type that computes, and whether images are a part of its batches.

    Args:
        kind: A model type.

    Raises:
        NotBuilt: If there is none; with the first reason that was found.
    """
    reasons: list[str] = []
    for model in _models(kind, reasons):
        for with_images in (True, False):
            try:
                with torch.no_grad():
                    found = answer(model(**batch_for(model, 1, with_images)))
            except Exception as error:
                reasons.append(first_line(error))
                continue
            if bool(found.isfinite().all()) and float(found.std()) > 0:
                return model, with_images
            reasons.append("its output is constant or not finite")
    raise NotBuilt(reasons[0] if reasons else "no model of the usual tasks")


def _models(kind: str, reasons: list[str]) -> Iterator[Any]:
    configuration = getattr(transformers, CONFIG_MAPPING_NAMES[kind])
    for task in TASKS:
        name = getattr(modeling_auto, task).get(kind)
        for settings in _settings(configuration) if name is not None else ():
            name = name if isinstance(name, str) else name[0]
            try:
                torch.manual_seed(0)
                yield _random(getattr(transformers, name), configuration(**settings))
            except Exception as error:
                reasons.append(first_line(error))


def _settings(configuration: Any) -> Iterator[dict[str, Any]]:
    """Ways to make a configuration small, the smallest one first."""
    full = small(configuration)
    yield full
    yield {**full, "num_key_value_heads": KNOWN["num_attention_heads"]}  # a key for each query
    yield {name: value for name, value in full.items() if not isinstance(value, list)}
    layers = ("layers", "layer", "depth", "heads")
    yield {name: value for name, value in full.items() if name.endswith(layers)}
    yield {}


def _random(cls: Any, config: Any) -> Any:
    """A model with random weights.

    Raises:
        NotBuilt: If it is large.
    """
    try:
        with torch.device("meta"):
            count = sum(value.numel() for value in cls(config).parameters())
    except Exception:
        count = 0  # it computes with its weights while it is made
    if count > MOST_PARAMETERS:
        raise NotBuilt(f"{count // 1_000_000} million parameters at the sizes that are known")
    model = cls(config).eval()
    with torch.no_grad():
        # Larger than at initialisation, so that attention attends and functions bend.
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    return _with_statistics(model, norms) if norms else model


def _with_statistics(model: Any, norms: list[Any]) -> Any:
    """Let batch norms know the values of a batch: by those of initialisation they would vanish."""
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(**batch_for(model, 3))
    return model.eval()


def small(configuration: Any) -> dict[str, Any]:
    """Settings that make a configuration small.

    Args:
        configuration: Its class.
    """
    full = configuration().to_dict()
    settings = {name: size for name, size in KNOWN.items() if type(full.get(name)) is int}
    for name, value in full.items():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int):
            part = "image" in name and "start" not in name and "end" not in name
            large = OTHER_TOKEN if value > 3 else value
            special = name.split("_")[0] in ("eos", "bos", "pad", "sep", "cls", "decoder", "mask")
            settings[name] = IMAGE_TOKEN if part else min(value, 3) if special else large
        elif name in ("layer_types", "mlp_layer_types") and value:
            others = [other for other in value if other != value[0]]
            settings[name] = [value[0], *(others or value)[:1]]  # two kinds, if there are two
        elif name in ("num_heads", "num_attention_heads") and isinstance(value, list):
            settings[name] = [2] * len(value)
        elif name == "attention_types":
            settings[name] = [[["global", "local"], 1]]
        elif name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
            settings[name] = {**value, "mrope_section": [2, 1, 1]}  # half of a head
        elif name == "depths" and isinstance(value, list):
            stages = {"depths": [1] * len(value), "image_size": 64, "patch_size": 4}
            stages["window_size"] = 4
            settings |= {
                key: size for key, size in stages.items() if type(full.get(key)) is type(size)
            }
    if "expand" in full and "head_dim" in settings:
        settings["head_dim"] = 16  # twice the hidden size by heads
    for name, part in getattr(configuration, "sub_configs", {}).items():
        if isinstance(full.get(name), dict):
            kind = full[name].get("model_type")
            part = getattr(transformers, CONFIG_MAPPING_NAMES.get(kind, ""), part)
            if hasattr(part, "model_type"):
                settings[name] = {"model_type": kind or part.model_type, **small(part)}
    return settings


def batch_for(model: Any, seed: int, with_images: bool = True) -> dict[str, Any]:
    """A batch of what a model's forward usually takes.

    Args:
        model: The model.
        seed: Of its values.
        with_images: Whether a model of texts that may take images is given some.
    """
    draw = torch.Generator().manual_seed(seed)
    takes = inspect.signature(model.forward).parameters
    config = model.config
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 32)
    size = size if isinstance(size, int) else size[0]
    channels = getattr(vision, "num_channels", 3)
    ids = torch.randint(5, 90, (4, 16), generator=draw)
    bins = next(
        (getattr(config, n) for n in ("num_mel_bins", "input_dim") if hasattr(config, n)), 8
    )
    made: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "decoder_input_ids": torch.randint(5, 90, (4, 9), generator=draw),
        "pixel_values": torch.randn(4, channels, size, size, generator=draw),
        "pixel_values_videos": torch.randn(
            2, getattr(config, "num_frames", 4), channels, size, size, generator=draw
        ),
        "input_values": torch.randn(4, 1600, generator=draw),
        "input_features": torch.randn(4, bins, 40, generator=draw),
        "bbox": torch.randint(0, 10, (4, 16, 2), generator=draw).sort(-1).values.repeat(1, 1, 2),
    }
    main = model.main_input_name
    names = [main] if main in made else []
    names += [name for name in made if name in takes and takes[name].default is takes[name].empty]
    if main == "input_ids":
        names += ["attention_mask", "bbox"]
        names += IMAGES if with_images else []
        if with_images and "pixel_values" in takes:
            _place_images(model, made)
    names += ["decoder_input_ids"] if getattr(config, "is_encoder_decoder", False) else []
    return {name: made[name] for name in dict.fromkeys(names) if name in takes and name in made}


def _place_images(model: Any, made: dict[str, Any]) -> None:
    """Put as many image tokens before a text as an image has features."""
    base = getattr(model, "model", model)
    if not hasattr(base, "get_image_features"):
        return
    images = {"pixel_values": made["pixel_values"]}
    if "image_grid_thw" in inspect.signature(model.forward).parameters:
        # Patches in rows, whose number an image of its own size has.
        patch = base.visual.patch_embed.proj
        size = patch.weight[0].numel()
        draw = torch.Generator().manual_seed(len(made["input_ids"]) + int(made["input_ids"][0, 0]))
        images["pixel_values"] = torch.randn(4 * 16, size, generator=draw)
        images["image_grid_thw"] = torch.tensor([[1, 4, 4]] * 4)
        made |= images
    with torch.no_grad():
        found = base.get_image_features(**images)
    found = getattr(found, "pooler_output", found)
    found = torch.cat([part.flatten(0, -2) for part in found])
    tokens = torch.full((4, len(found) // 4), IMAGE_TOKEN)
    made["input_ids"] = torch.cat([tokens, made["input_ids"]], 1)
    made["mm_token_type_ids"] = (made["input_ids"] == IMAGE_TOKEN).long()
    made["token_type_ids"] = made["mm_token_type_ids"]
    made["attention_mask"] = torch.ones_like(made["input_ids"])


def answer(output: Any) -> Any:
    """What of an output is compared.

    Args:
        output: Of a model.
    """
    for name in ANSWERS:
        value = getattr(output, name, None)
        if value is not None:
            return value
    return output[0]


def first_line(error: Exception) -> str:
    """The beginning of an error, without bars, which are a table's own.

    Args:
        error: The error.
    """
    return " ".join(str(error).split()).replace("|", "/")[:200] or type(error).__name__
