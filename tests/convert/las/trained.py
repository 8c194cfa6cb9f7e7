"""Small decoders of transformers, trained on a fixed text, character by character."""

from functools import cache

import torch
import transformers as t

TEXT = (
    "A neuron waits. Currents come in from many sides, and each of them moves its potential a "
    "little up or a little down. Once the potential has reached the threshold the neuron fires, "
    "and the spike runs along the axon to other neurons, which wait as well. Between two spikes "
    "nothing is sent, and what sends nothing costs next to nothing. That is why a brain can live "
    "on twenty watts. A network of a computer, on the other hand, multiplies all the time, "
    "whether there is something new to say or not. "
)
CHARACTERS = sorted(set(TEXT))
# The first three numbers are those of padding, begin and end.
NUMBERS = {character: number + 3 for number, character in enumerate(CHARACTERS)}
SIZES = {
    "vocab_size": len(CHARACTERS) + 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LENGTH, STEPS = 48, 250
KINDS = {
    "llama": lambda: t.LlamaForCausalLM(
        t.LlamaConfig(
            **SIZES, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=128, max_position_embeddings=128)),
    # With calls of its own: no rule knows its attention.
    "gptj": lambda: t.GPTJForCausalLM(
        t.GPTJConfig(
            **SIZES, n_embd=64, n_layer=2, n_head=4, n_positions=128, rotary_dim=8,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)),
}  # fmt: skip


def encoded(text):
    return torch.tensor([[NUMBERS[character] for character in text]])


def passages(seed, rows=16, length=LENGTH):
    """Rows of the text, from anywhere in it."""
    numbers = encoded(TEXT)[0]
    starts = torch.randint(
        0, len(numbers) - length, (rows,), generator=torch.Generator().manual_seed(seed)
    )
    return torch.stack([numbers[start : start + length] for start in starts])


def loss(model, ids):
    """Mean loss of the next character."""
    return model(input_ids=ids, labels=ids).loss


def train(model, steps, rate=3e-3, first=1000):
    """Steps of AdamW, on passages from seed ``first`` on."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, passages(first + step)).backward()
        optimizer.step()
    return model


@cache
def trained(kind, steps=STEPS):
    """A decoder that knows the text; tests leave it as it is."""
    torch.manual_seed(0)
    with torch.enable_grad():  # whichever test asks first
        return train(KINDS[kind]().train(), steps).eval()
