"""Keys and values are encoded when they enter a cache, and never again."""

import copy

import pytest
import torch

transformers = pytest.importorskip("transformers")

from spikeloom.convert import LAS  # noqa: E402
from spikeloom.kernel.plan import _plan  # noqa: E402
from tests.convert.las.families import GENERATING, build, inputs  # noqa: E402

DynamicCache = transformers.DynamicCache


def prompt(length=10):
    return inputs("gpt2")["input_ids"][:2, :length]


def values_encoded(network):
    """How many values the sites of keys and values have encoded."""
    sites = [m for name, m in network.named_modules() if name.endswith(("las.k", "las.v"))]
    assert sites
    return sum(site.watch.values for site in sites)


def logits(network, tokens, cache=None):
    return network(input_ids=tokens, past_key_values=cache, use_cache=cache is not None).logits


@pytest.mark.parametrize("family", GENERATING)
@torch.no_grad()
def test_a_token_encodes_its_own_key_and_value_only(family, converted):
    _, network = converted(family)
    cache, tokens = DynamicCache(config=network.config), prompt()
    before = values_encoded(network)
    logits(network, tokens, cache)
    whole = values_encoded(network) - before
    for count, token in enumerate(tokens.T, start=11):
        before = values_encoded(network)
        found = logits(network, token[:, None], cache)
        if type(cache.layers[0]) is transformers.cache_utils.DynamicLayer:
            assert values_encoded(network) - before == whole // 10
        again = torch.cat([tokens, tokens[:, : count - 10]], 1)
        torch.testing.assert_close(
            found[:, -1], logits(network, again)[:, -1], rtol=0.02, atol=0.02
        )


@torch.no_grad()
def test_a_cache_holds_what_encoding_all_of_it_at_once_gives(converted, monkeypatch):
    _, network = converted("llama")
    site, entered = network.model.layers[0].self_attn.las.k, []
    decoded = site.decoded
    monkeypatch.setattr(site, "decoded", lambda x: decoded(entered.append(x.clone()) or x))
    cache, tokens = DynamicCache(config=network.config), prompt()
    for part in (tokens[:, :6], tokens[:, 6:7], tokens[:, 7:]):
        logits(network, part, cache)
    keys = torch.cat(entered, -2)
    assert keys.shape == cache.layers[0].keys.shape
    assert torch.equal(cache.layers[0].keys, decoded(keys))
    assert not torch.equal(cache.layers[0].keys, keys)


CHANGES = {
    "cropped": lambda cache: cache.crop(-4),
    "reordered": lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
    "repeated": lambda cache: cache.batch_repeat_interleave(2),
    "selected": lambda cache: cache.batch_select_indices(torch.tensor([1])),
    "emptied": lambda cache: cache.reset(),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_cache_that_is_changed_holds_encoded_tokens_still(change, converted):
    _, network = converted("gpt2")
    cache = DynamicCache(config=network.config)
    logits(network, prompt(), cache)
    CHANGES[change](cache)
    left = cache.get_seq_length()
    rows = {"repeated": 4, "selected": 1}.get(change, 2)
    before = values_encoded(network)
    logits(network, torch.ones(rows, 3, dtype=torch.long), cache)
    assert cache.get_seq_length() == left + 3
    assert values_encoded(network) - before == 2 * 2 * rows * 3 * 32  # layers, keys and values


@torch.no_grad()
def test_a_copy_of_a_cache_goes_on_alike(converted):
    _, network = converted("gpt2")
    cache = DynamicCache(config=network.config)
    logits(network, prompt(), cache)
    copied, token = copy.deepcopy(cache), torch.ones(2, 1, dtype=torch.long)
    before = values_encoded(network)
    assert torch.equal(logits(network, token, cache), logits(network, token, copied))
    assert values_encoded(network) - before == 2 * 2 * 2 * 2 * 32  # both, layers, k and v, batch


@torch.no_grad()
def test_a_cache_that_another_network_filled_is_encoded_as_a_whole(converted):
    model, network = converted("gpt2")
    others = {
        "the float model": model,
        "a conversion of fewer steps": LAS(steps=6, progress=False).apply(
            build("gpt2"), [inputs("gpt2")]
        ),
    }
    for name, other in others.items():
        cache = DynamicCache(config=network.config)
        logits(other, prompt(), cache)
        keys = cache.layers[0].keys.clone()
        before = values_encoded(network)
        logits(network, torch.ones(2, 1, dtype=torch.long), cache)
        assert values_encoded(network) - before == 2 * 2 * 2 * 11 * 32
        found, las = cache.layers[0].keys[..., :10, :], network.transformer.h[0].attn.las
        assert torch.equal(found, las.k.decoded(keys))
        # What fewer steps write may be exact in more.
        assert name != "the float model" or not torch.equal(found, keys)


@torch.no_grad()
def test_a_decoder_with_an_encoder_encodes_the_keys_of_both_once():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 97}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    feed = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    config = transformers.BartConfig(**sizes, **heads, **feed)
    model = transformers.BartForConditionalGeneration(config).eval()
    batch = {"input_ids": prompt(), "decoder_input_ids": prompt(4)}
    network = LAS(steps=8, progress=False).apply(model, [batch])
    first = network(**batch, use_cache=True)
    before = values_encoded(network.model.decoder)
    network(
        encoder_outputs=(first.encoder_last_hidden_state,),
        decoder_input_ids=torch.ones(2, 1, dtype=torch.long),
        past_key_values=first.past_key_values,
    )
    assert values_encoded(network.model.decoder) - before == 2 * 2 * 32


@torch.no_grad()
def test_probabilities_are_returned_to_those_who_ask(converted):
    _, network = copy.deepcopy(converted("gpt2"))
    seen = []
    hook = network.transformer.h[0].attn.register_forward_hook(
        lambda module, args, y: seen.append(y[1])
    )
    network(input_ids=prompt())
    found = network(input_ids=prompt(), output_attentions=True).attentions
    hook.remove()
    assert seen[0] is None
    assert len(found) == 2 and torch.equal(found[0], seen[1])
    assert torch.allclose(found[0].sum(-1), torch.ones(2, 4, 10), atol=5e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_a_further_token_needs_no_further_plan(family, converted):
    _, network = converted(family)
    cache, tokens = DynamicCache(config=network.config), prompt()
    logits(network, tokens, cache)
    logits(network, tokens[:, :1], cache)  # the first token alone
    made = _plan.cache_info().misses
    for token in tokens.T[1:5]:
        logits(network, token[:, None], cache)
    assert _plan.cache_info().misses == made


SMALL = {"vocab_size": 97, "num_hidden_layers": 2, "num_attention_heads": 4}
WHISPER = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 97,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "num_mel_bins": 8, "max_source_positions": 20,
    "max_target_positions": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip


@torch.no_grad()
def test_a_cache_is_encoded_in_any_shape_that_calibration_has_not_seen():
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER))

    def batch(rows, length):
        tokens = torch.randint(3, 90, (rows, length))
        return {"input_features": torch.randn(rows, 8, 40), "decoder_input_ids": tokens}

    network = LAS(steps=8, progress=False).apply(model.eval(), [batch(4, 9)])
    for rows, length in ((4, 9), (2, 9), (2, 12), (2, 1)):
        _plan.cache_clear()
        given = batch(rows, length)
        found = network(**given, use_cache=True).logits
        torch.testing.assert_close(found, network(**given, use_cache=False).logits)


@pytest.fixture(scope="module")
def sliding():
    """A network of layers with and without a window, whose attention has calls of its own."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        **SMALL, hidden_size=32, intermediate_size=64, head_dim=8, num_key_value_heads=2,
        sliding_window=8, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.Gemma2ForCausalLM(config).eval()
    batch = {"input_ids": torch.randint(3, 90, (4, 24))}
    return LAS(steps=8, progress=False).apply(model, [batch])


@pytest.mark.parametrize(
    "settings", [{"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}]
)
@torch.no_grad()
def test_windows_generate_alike_with_every_kind_of_cache(settings, sliding):
    tokens = prompt(12)[:1]
    length = {"max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0}
    wanted = sliding.generate(input_ids=tokens, **length)
    _plan.cache_clear()
    assert torch.equal(sliding.generate(input_ids=tokens, **length, **settings), wanted)
