"""Small random models of transformers beyond those of families.py, and batches for them."""

import torch
import transformers as t

TEXT = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
DECODER = {
    **TEXT, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WITH_HEADS = {**DECODER, "head_dim": 8}
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip
PAIR = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 97,
    "max_position_embeddings": 64, "pad_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
CLIP_TEXT = {**TEXT, "eos_token_id": 96, "bos_token_id": 1, "pad_token_id": 0}
T5 = {
    "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "vocab_size": 97,
    "decoder_start_token_id": 0,
}  # fmt: skip
GPT = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TOWER = {**{k: v for k, v in VISION.items() if k != "intermediate_size"}, "num_labels": 5}


def text(draw):
    ids = torch.randint(5, 90, (4, 12), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pair(draw):
    return {**text(draw), "decoder_input_ids": torch.randint(5, 90, (4, 9), generator=draw)}


def image(draw):
    return {"pixel_values": torch.randn(4, 3, 16, 16, generator=draw)}


def captioned(draw):
    batch = {**text(draw), **image(draw)}
    batch["input_ids"][:, -1] = 96
    return batch


def speech(draw):
    return {
        "input_features": torch.randn(4, 8, 40, generator=draw),
        "decoder_input_ids": torch.randint(5, 90, (4, 9), generator=draw),
    }


def sound(draw):
    return {"input_values": torch.randn(4, 400, generator=draw)}


def with_image(draw):
    ids = torch.randint(5, 90, (4, 24), generator=draw)
    ids[:, 1:17] = 95
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **image(draw)}


def prefixed(draw):
    batch = with_image(draw)
    return {**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])}


def decoded(draw):
    return {**image(draw), "decoder_input_ids": torch.randint(5, 90, (4, 9), generator=draw)}


def _experts(**sizes):
    return {**WITH_HEADS, "num_experts_per_tok": 2, **sizes}


def _llava():
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=t.LlamaConfig(**DECODER),
        image_token_index=95,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    return t.LlavaForConditionalGeneration(config)


def _paligemma():
    config = t.PaliGemmaConfig(
        vision_config=t.SiglipVisionConfig(**VISION, projection_dim=32).to_dict(),
        text_config=t.GemmaConfig(**WITH_HEADS).to_dict(),
        image_token_index=95,
        projection_dim=32,
    )
    return t.PaliGemmaForConditionalGeneration(config)


def _captioning():
    decoder = t.GPT2Config(**GPT, add_cross_attention=True, is_decoder=True)
    return t.VisionEncoderDecoderModel(
        encoder=t.ViTModel(t.ViTConfig(**VISION)), decoder=t.GPT2LMHeadModel(decoder)
    )


def _made(model, config, sizes):
    return lambda: getattr(t, model)(getattr(t, config)(**sizes))


def _pairs(config, **sizes):
    return {"text_config": CLIP_TEXT, "vision_config": VISION, **sizes}


ARCHITECTURES = {
    # Encoders.
    "deberta-v2": (_made("DebertaV2Model", "DebertaV2Config", {
        **TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}), text),
    "mpnet": (_made("MPNetModel", "MPNetConfig", TEXT), text),
    "modernbert": (_made("ModernBertModel", "ModernBertConfig", {
        **TEXT, **ENDS, "cls_token_id": 1, "sep_token_id": 2}), text),
    "xlnet": (_made("XLNetModel", "XLNetConfig", {
        "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 97}), text),
    "esm": (_made("EsmForMaskedLM", "EsmConfig", {
        **TEXT, "pad_token_id": 0, "mask_token_id": 96,
        "position_embedding_type": "rotary"}), text),
    # Decoders.
    "gpt_neo": (_made("GPTNeoForCausalLM", "GPTNeoConfig", {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 97,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64}), text),
    "gptj": (_made("GPTJForCausalLM", "GPTJConfig", {**GPT, "rotary_dim": 4}), text),
    "bloom": (_made("BloomForCausalLM", "BloomConfig", {
        "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97}), text),
    "falcon": (_made("FalconForCausalLM", "FalconConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 97}), text),
    "mpt": (_made("MptForCausalLM", "MptConfig", {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 97}), text),
    "mixtral": (_made("MixtralForCausalLM", "MixtralConfig", {
        **DECODER, "num_local_experts": 4}), text),
    "qwen2_moe": (_made("Qwen2MoeForCausalLM", "Qwen2MoeConfig", {
        **DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32}), text),
    "qwen3_moe": (_made("Qwen3MoeForCausalLM", "Qwen3MoeConfig", _experts(
        num_experts=4, moe_intermediate_size=32)), text),
    "gemma": (_made("GemmaForCausalLM", "GemmaConfig", WITH_HEADS), text),
    "gemma2": (_made("Gemma2ForCausalLM", "Gemma2Config", WITH_HEADS), text),
    "gemma3": (_made("Gemma3ForCausalLM", "Gemma3TextConfig", WITH_HEADS), text),
    "phi3": (_made("Phi3ForCausalLM", "Phi3Config", DECODER), text),
    "stablelm": (_made("StableLmForCausalLM", "StableLmConfig", DECODER), text),
    "olmo2": (_made("Olmo2ForCausalLM", "Olmo2Config", DECODER), text),
    "granite": (_made("GraniteForCausalLM", "GraniteConfig", DECODER), text),
    "cohere": (_made("CohereForCausalLM", "CohereConfig", DECODER), text),
    "smollm3": (_made("SmolLM3ForCausalLM", "SmolLM3Config", DECODER), text),
    "starcoder2": (_made("Starcoder2ForCausalLM", "Starcoder2Config", DECODER), text),
    "mamba": (_made("MambaForCausalLM", "MambaConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 97, "state_size": 4}), text),
    # Encoders with decoders.
    "t5": (_made("T5ForConditionalGeneration", "T5Config", T5), pair),
    "bart": (_made("BartForConditionalGeneration", "BartConfig", PAIR), pair),
    "marian": (_made("MarianMTModel", "MarianConfig", PAIR), pair),
    "pegasus": (_made("PegasusForConditionalGeneration", "PegasusConfig", PAIR), pair),
    "whisper": (_made("WhisperForConditionalGeneration", "WhisperConfig", {
        **PAIR, "max_source_positions": 20, "max_target_positions": 32, "num_mel_bins": 8,
        "bos_token_id": 1, "eos_token_id": 2}), speech),
    # Sound and vision.
    "wav2vec2": (_made("Wav2Vec2Model", "Wav2Vec2Config", {
        **{key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                      "intermediate_size")},
        "conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (8, 8),
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}), sound),
    "beit": (_made("BeitModel", "BeitConfig", VISION), image),
    "swin": (_made("SwinForImageClassification", "SwinConfig", {
        "image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4, "num_labels": 5}), image),
    "dinov2": (_made("Dinov2Model", "Dinov2Config", TOWER), image),
    "convnext": (_made("ConvNextModel", "ConvNextConfig", {
        "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 16,
        "layer_scale_init_value": 0.5}), image),
    # Vision and language.
    "clip": (_made("CLIPModel", "CLIPConfig", _pairs("CLIPConfig", projection_dim=16)), captioned),
    "siglip": (_made("SiglipModel", "SiglipConfig", {
        "text_config": {**CLIP_TEXT, "projection_size": 32}, "vision_config": VISION}), captioned),
    "git": (_made("GitForCausalLM", "GitConfig", {"vision_config": VISION, **TEXT}), captioned),
    "llava": (_llava, with_image),
    "paligemma": (_paligemma, prefixed),
    "vision-encoder-decoder": (_captioning, decoded),
}  # fmt: skip


def build(name):
    """The model, its weights larger than at initialisation, so that attention attends."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)
    return model


def batch(name, seed=0):
    """A batch for the model."""
    return ARCHITECTURES[name][1](torch.Generator().manual_seed(seed))


def answer(output):
    """What of an output is compared."""
    for key in ("logits", "last_hidden_state", "logits_per_image"):
        value = getattr(output, key, None)
        if value is not None:
            return value
    return output[0]
