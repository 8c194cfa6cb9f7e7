"""Networks that a conversion made spiking, compressed before it or after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from spikeloom import convert
from tests.compositions.subject import subject

BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 12, "vocab_size": 30, "max_position_embeddings": 8}
BERT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BLOCK = "encoder.layer.0"
STEPS = 4
SIGNS = 32
# What a compressed network, once converted, answers to finish: it is finished.
PERMANENT = "no layer of it is compressed"
# All that multiplies real values, by the networks' definitions.
GATED = ("one", "one.site", "act", "norm", "norm.before", "two", "two.site", "three", "three.site")
MULTIPLIES = (
    "embeddings.word_embeddings",
    "embeddings.position_embeddings",
    "embeddings.token_type_embeddings",
    "embeddings.LayerNorm",
    BLOCK,
    f"{BLOCK}.attention.self",
    *(f"{BLOCK}.attention.self.{name}" for name in ("query", "key", "value")),
    f"{BLOCK}.attention.self.spikes.node",
    *(f"{BLOCK}.attention.self.{name}.quantise.node" for name in ("key", "value")),
    *(f"{BLOCK}.{name}" for name in ("attention.output.dense", "intermediate.dense")),
    *(f"{BLOCK}.{name}.spikes.node" for name in ("attention.output.dense", "intermediate.dense")),
    f"{BLOCK}.attention.output.LayerNorm",
    f"{BLOCK}.intermediate.intermediate_act_fn",
    f"{BLOCK}.output.dense",
    f"{BLOCK}.output.dense.spikes.node",
    f"{BLOCK}.output.LayerNorm",
)


def tokens() -> dict[str, Tensor]:
    """Three sentences."""
    numbers = torch.randint(30, (3, 6), generator=torch.Generator().manual_seed(1))
    return {"input_ids": numbers}


def values() -> Tensor:
    """Real input ``[batch, 6]``."""
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(1))


def las(net: nn.Module, sample: Any) -> nn.Module:
    """The network by LAS."""
    return convert.LAS(progress=False).apply(net, [sample])


def signgd(net: nn.Module, sample: Any) -> nn.Module:
    """The network by signGD."""
    return convert.SignGD(SIGNS, search=False, progress=False).apply(net, sample)


def one_step(sample: Tensor) -> Tensor:
    """The values as a sequence of one step."""
    return sample[None]


def signgd_uses(net: nn.Module) -> tuple[float, float]:
    """The first layer reads the sample once, the second its estimates at every step."""
    first, second = (p for p in net.parameters() if p.dim() == 2)
    return 0, int(first.count_nonzero()) + SIGNS * int(second.count_nonzero())


def over_time(sample: Tensor) -> Tensor:
    """The same values at every step, ``[T, batch, 6]``."""
    return sample.expand(SIGNS, *sample.shape)


@subject(
    "SpikeLM",
    "A BERT with spikes in front of every weight.",
    sample=tokens,
    layers=(
        *(f"{BLOCK}.attention.self.{name}" for name in ("query", "key", "value")),
        f"{BLOCK}.attention.output.dense",
        f"{BLOCK}.intermediate.dense",
        f"{BLOCK}.output.dense",
    ),
    real=None,
    multiplies=MULTIPLIES,
    refused={"to_nir": "sample: must be a floating-point tensor"},
    batch=3,
)
def spikelm() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(**BERT, attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False).eval()
    return convert.SpikeLM(steps=STEPS, per_step=False).apply(model, [tokens()]).eval()


class Gated(nn.Module):
    """A layer norm, a GELU and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.norm = nn.Linear(6, 10), nn.GELU(), nn.LayerNorm(10)
        self.two, self.three = nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.three(x + self.two(self.norm(self.act(self.one(x)))))
        return y


def gated() -> nn.Module:
    """A float network of a transformer's parts."""
    torch.manual_seed(0)
    return Gated().eval()


def perceptron() -> nn.Module:
    """A float network of what NIR can write."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)).eval()


subject(
    "LAS, compressed before",
    "A float network, compressed and finished, then converted.",
    sample=values,
    layers=("one", "two", "three"),
    convert=las,
    real=None,
    sequence=one_step,
    multiplies=GATED,
    refused={"to_nir": "a module of a network converted by LAS"},
    batch=24,
    state=False,
)(gated)


@subject(
    "LAS, compressed after",
    "A converted network, calibrated on the spikes that enter its weights.",
    sample=values,
    layers=("one", "two", "three"),
    real=None,
    batch=24,
    sequence=one_step,
    multiplies=GATED,
    refused={"to_nir": "a module of a network converted by LAS"},
    state=False,
)
def las_first() -> nn.Module:
    return las(gated(), values())


subject(
    "signGD, compressed before",
    "A float network, compressed and finished, then converted.",
    sample=values,
    layers=("0", "2"),
    convert=signgd,
    sequence=over_time,
    nir={"on_inexact": "subgraph"},
    used=signgd_uses,
    refused={"finish": PERMANENT, "fold_norms": "fold norms before the conversion"},
    multiplies=("(model)", "nodes.relu"),
    real=None,
    batch=24,
    state=False,
)(perceptron)


@subject(
    "signGD, compressed after",
    "The layers of a converted network, calibrated on the estimates that enter their weights.",
    sample=lambda: over_time(values()),
    layers=("0", "2"),
    nir={"on_inexact": "subgraph"},
    multiplies=("1", "2"),
    real=None,
    batch=24,
    state=False,
)
def signgd_first() -> nn.Module:
    return signgd(perceptron(), values()).as_layers()
