"""Networks without neurons that attend, multiply signals, or are written in unusual ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.matrix.model import analog
from tests.matrix.models.analog import MLP, N, features, tokens

# Multiply-adds of one attention over 3 tokens of 8 features: four projections, scores, values.
ATTENTION = 4.0 * 3 * 8 * 8 + 2 * 3 * 3 * 8


@analog(
    "A block of a transformer, norms in front, torch's own attention.",
    tokens,
    layers=("mlp.0", "mlp.2"),
    multiplies=("one", "attend", "two", "mlp.0", "mlp.1", "mlp.2"),
    synapses=lambda s: (0.0, N * (ATTENTION + 2 * 3 * 8 * 16.0)),
    refused={"to_nir": "one (LayerNorm)"},
    warned={"calibrate, prune": "'attend.out_proj' is not called"},
)
class TransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        y = self.one(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.two(x))


@analog(
    "torch's TransformerEncoderLayer.",
    tokens,
    layers=("linear1", "linear2"),
    multiplies=("self_attn", "norm1", "linear1", "linear2", "norm2"),
    synapses=lambda s: (0.0, N * (ATTENTION + 2 * 3 * 8 * 16.0)),
    refused={"to_nir": "self_attn (MultiheadAttention)"},
    warned={"calibrate, prune": "'self_attn.out_proj' is not called"},
)
def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)


@analog(
    "scaled_dot_product_attention as a function.",
    tokens,
    layers=("qkv", "out"),
    multiplies=("(model)", "out"),
    synapses=lambda s: (0.0, N * ATTENTION),
    refused={
        "to_nir": "FusedAttention (FusedAttention)",
    },
)
class FusedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v))


@analog(
    "Attention written with einsum and softmax.",
    tokens,
    layers=("q", "k", "v", "out"),
    multiplies=("k", "v", "(model)", "out"),
    synapses=lambda s: (0.0, N * ATTENTION),
    refused={
        "to_nir": "EinsumAttention (EinsumAttention)",
    },
)
class EinsumAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        scores = torch.einsum("bqd,bkd->bqk", self.q(x), self.k(x)) / 8**0.5
        return self.out(torch.einsum("bqk,bkd->bqd", scores.softmax(-1), self.v(x)))


@analog(
    "A gate: one projection multiplies another.",
    features,
    layers=("gate", "up", "down"),
    multiplies=("(model)", "up", "down"),
)
class GatedUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


@analog(
    "A product of two branches written in place.",
    features,
    layers=("a", "b"),
    multiplies=("(model)", "b"),
    time={"": "none", "a": "repeated"},
)
class InPlaceProduct(MLP):
    def forward(self, x):
        y = self.act(self.a(x))
        y.mul_(self.a(x))
        return self.b(y)


@analog(
    "Clamps, and selects with where.",
    features,
    layers=("a", "b"),
    multiplies=("(model)", "b"),
    refused={
        "calibrate, prune": "layer 'a': its output meets the operation 'gt'",
        "to_nir": "sample: must",
        "SignGD": "gt at the forward of",
    },
)
class ClampAndWhere(MLP):
    def forward(self, x):
        y = self.a(x).clamp(-1, 1)
        return self.b(torch.where(y > 0, y, 0.1 * y))


@analog(
    "Takes powers and roots.",
    features,
    layers=("a", "b"),
    multiplies=("(model)", "b"),
)
class PowersAndRoots(MLP):
    def forward(self, x):
        y = self.a(x)
        return self.b(y.pow(2) + (y.abs() + 1).sqrt())


@analog(
    "Divides by its own norm.",
    features,
    layers=("a", "b"),
    multiplies=("(model)", "b"),
)
class Normalised(MLP):
    def forward(self, x):
        y = self.act(self.a(x))
        return self.b(y / (y.norm(dim=-1, keepdim=True) + 1))


@analog(
    "The larger of two branches.",
    features,
    layers=("a", "b"),
    multiplies=("b",),
)
class LargerOfTwo(MLP):
    def forward(self, x):
        y = self.a(x)
        return self.b(torch.maximum(y, -0.5 * y.flip(-1)))


@analog(
    "An activation with a constant of its own.",
    features,
    layers=("a", "b"),
    multiplies=("act", "b"),
)
def soft_shrink() -> nn.Module:
    net = MLP()
    net.act = nn.Softshrink(0.3)
    return net


@analog(
    "An embedding whose weight is the output layer's.",
    lambda: torch.arange(N * 3).view(N, 3) % 7,
    multiplies=("embed", "mid", "(model)", "head"),
    refused={
        "calibrate, prune": "layers: 'head' and 'embed' share one weight; name the layers to",
        "to_nir": "sample: must",
    },
)
class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mid, self.head = nn.Embedding(7, 8), nn.Linear(8, 8), nn.Linear(8, 7)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(F.gelu(self.mid(self.embed(x))))


@analog(
    "A weight under weight norm.",
    features,
    multiplies=("a.parametrizations.weight.0", "b"),
    refused={
        "calibrate, prune": "the weight of 'a'",
        "to_nir": "sample: must",
    },
)
def normed_weight() -> nn.Module:
    net = MLP()
    parametrizations.weight_norm(net.a)
    return net


@analog(
    "A hook turns round what a layer returns.",
    features,
    multiplies=("b",),
    refused={
        "calibrate, prune": "layer 'a'",
        "to_nir": "sample: must",
        "LAS": "with its modules replaced",
    },
)
def hooked_output() -> nn.Module:
    net = MLP()
    net.a.register_forward_hook(lambda _, args, y: y.flip(-1))
    return net


@analog("Returns a dict.", features, layers=("a", "b"), multiplies=("b",))
class NamedOutputs(MLP):
    def forward(self, x):
        y = self.a(x)
        return {"hidden": y, "output": self.b(self.act(y))}


@dataclass
class Results:
    output: Tensor


@analog(
    "Returns a dataclass.",
    features,
    layers=("a", "b"),
    multiplies=("b",),
    refused={
        "SignGD": "DataclassResult returns a Results",
    },
)
class DataclassResult(MLP):
    def forward(self, x):
        return Results(super().forward(x))


@analog(
    "Takes two inputs by name.",
    lambda: {"x": features(), "y": features()},
    layers=("a", "b"),
    multiplies=("a", "b"),
)
class NamedInputs(MLP):
    def forward(self, *, x, y):
        return super().forward(x - y)


@analog(
    "Leaves early if its first layer is sure.",
    features,
    layers=("a", "b"),
    multiplies=("(model)", "b"),
    refused={
        "calibrate, prune": "layer 'a': its output meets the operation 'gt'",
        "SignGD": "EarlyDecision cannot be captured",
    },
)
class EarlyDecision(MLP):
    def forward(self, x):
        y = self.act(self.a(x))
        return y if y.mean() > 100 else self.b(y)


@analog(
    "Calls its layers by the names of their arguments.",
    features,
    layers=("a", "b"),
    multiplies=("b",),
)
class NamedArguments(MLP):
    def forward(self, x):
        return self.b(input=self.act(input=self.a(input=x)))


@analog(
    "Calls a layer for each sample by torch.vmap.",
    features,
    layers=("a", "b"),
    multiplies=("b",),
    synapses=lambda s: (0.0, N * (6 * 8 + 8 * 4.0)),
    refused={
        "calibrate, prune": "layer 'a': is called within torch.vmap",
        "LAS": "a (Linear) computes within torch.vmap",
        "SignGD": "torch.vmap at the forward of",
    },
)
class MappedSamples(MLP):
    def forward(self, x):
        return self.b(self.act(torch.vmap(self.a)(x)))


@analog("Recomputes a part in the backward pass.", features, layers=("a", "b"), multiplies=("b",))
class CheckpointedMLP(MLP):
    def forward(self, x):
        return self.b(checkpoint(lambda x: self.act(self.a(x)), x, use_reentrant=False))


@analog("Pads, shifts and stacks.", features, layers=("a", "b"), multiplies=("b",))
class Moves(MLP):
    def forward(self, x):
        y = self.act(self.a(x))
        one, two = F.pad(y, (1, 1)).roll(1, -1)[..., 1:-1].chunk(2, -1)
        return self.b(torch.stack([two, one], -1).flatten(-2))


@analog(
    "A recurrent layer of torch.",
    tokens,
    layers=("head",),
    multiplies=("gru", "head"),
    synapses=lambda s: (0.0, N * (3 * 3 * 8 * 6.0 + 2 * 3 * 6 * 6 + 3 * 6 * 4)),
    refused={
        "to_nir": "gru (GRU)",
        "LAS": "gru (GRU)",
        "SignGD": "gru at gru (GRU). Replace",
    },
)
class RecurrentLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.gru(x)[0])
