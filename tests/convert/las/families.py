"""Small random transformers of every family that LAS converts, and inputs for them."""

import torch
import transformers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
SMALL_DISTIL = {
    "vocab_size": 97, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64,
    "max_position_embeddings": 64,
}  # fmt: skip
SMALL_GPT = {
    "vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
SMALL_OPT = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip
SMALL_VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 16, "patch_size": 4, "num_labels": 5,
}  # fmt: skip
CLIP_TOKENS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GROUPED = {**SIZES, "num_key_value_heads": 2}
FAMILIES = {
    "albert": ("AlbertModel", "AlbertConfig", {**SIZES, "embedding_size": 16}),
    "bert": ("BertModel", "BertConfig", SIZES),
    "camembert": ("CamembertModel", "CamembertConfig", SIZES),
    "clip_text_model": ("CLIPTextModel", "CLIPTextConfig", {**SIZES, **CLIP_TOKENS}),
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionConfig", SMALL_VIT),
    "deit": ("DeiTModel", "DeiTConfig", SMALL_VIT),
    "electra": ("ElectraModel", "ElectraConfig", {**SIZES, "embedding_size": 16}),
    "roberta": ("RobertaModel", "RobertaConfig", SIZES),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaConfig", SIZES),
    "distilbert": ("DistilBertModel", "DistilBertConfig", SMALL_DISTIL),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", SMALL_GPT),
    "opt": ("OPTForCausalLM", "OPTConfig", SMALL_OPT),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "phi": ("PhiForCausalLM", "PhiConfig", {**SIZES, **NO_TOKENS}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 8}),
    "vit": ("ViTForImageClassification", "ViTConfig", SMALL_VIT),
}
GENERATING = ["gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3"]
PIXELS = ("clip_vision_model", "deit", "vit")


def build(family):
    torch.manual_seed(0)
    model, config, sizes = FAMILIES[family]
    made = getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
    # Larger than at initialisation, so that attention attends and tables are used.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)
    return made


def inputs(family, seed=0):
    draw = torch.Generator().manual_seed(seed)
    if family in PIXELS:
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=draw)}
    return {"input_ids": torch.randint(5, 90, (4, 12), generator=draw)}


def relative(a, b):
    return float((a - b).norm() / b.norm())
