"""What no rule can convert is refused with its place and what it does, never left in silence."""

import os
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.convert import LAS
from spikeloom.convert.las.layers import Spiking
from spikeloom.neurons import fit_reduced

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from tests.convert.las.families import FAMILIES, SIZES, inputs, relative  # noqa: E402  # needs transformers


class HandMade(nn.Module):
    """Attention of one head as it is often written."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(torch.softmax(q @ k.transpose(-2, -1), -1) @ v)


class Inline(nn.Module):
    """A function called in the model's own forward."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return nn.functional.gelu(self.layer(x))


def apply(model, batch, **settings):
    return LAS(progress=False, **settings).apply(model.eval(), [batch])


@torch.no_grad()
def test_attention_by_hand_is_computed_by_spikes_or_excluded():
    model, x = nn.Sequential(nn.LayerNorm(8), HandMade()).eval(), torch.randn(2, 5, 8)
    network = apply(model, x, steps=10)
    assert 0 < relative(network(x), model(x)) < 0.005
    assert {"matmul_0", "matmul_1", "softmax_0"} == set(dict(network[1].las_calls.named_children()))
    network = apply(model, torch.randn(2, 5, 8), exclude=["1"])
    assert type(network[1].qkv) is nn.Linear


@torch.no_grad()
def test_a_function_in_the_model_s_own_forward_is_computed_by_spikes_or_excluded():
    model, x = Inline().eval(), torch.randn(2, 8)
    assert "las_calls.gelu_0.table" in dict(apply(model, x).named_modules())
    network = apply(model, x, exclude=[""])
    assert isinstance(network.layer, Spiking) and not hasattr(network, "las_calls")


class Outside(nn.Module):
    """Computes where torch does not see it."""

    def __init__(self, compute) -> None:
        super().__init__()
        self.layer, self.compute = nn.Linear(8, 8), compute

    def forward(self, x):
        return self.compute(self.layer(x))


OUTSIDE = {
    "numpy": lambda y: torch.from_numpy(np.tanh(y.detach().numpy())),
    "__array__": lambda y: torch.from_numpy(np.tanh(np.asarray(y.detach()))),
    "tolist": lambda y: torch.tensor(y.tolist()),
    "__dlpack__": lambda y: torch.from_dlpack(np.tanh(np.from_dlpack(y.detach()))),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_computed_outside_of_torch_is_named(name):
    model, x = nn.Sequential(nn.Linear(8, 8), Outside(OUTSIDE[name])), torch.randn(4, 8)
    with pytest.raises(TypeError, match=rf"1 \(Outside\) calls {name}\."):
        apply(model, x)
    assert type(apply(model, x, exclude=["1"])[1].layer) is nn.Linear


def test_the_tables_of_an_attention_are_no_part_of_the_model():
    fit_reduced.cache_clear()  # so that they are fitted while the model is watched
    model = transformers.BertModel(transformers.BertConfig(**SIZES))
    assert apply(model, inputs("bert")).report.rows


def test_whole_numbers_and_constants_from_outside_are_no_values_of_the_network():
    def mask(y):
        rows = torch.arange(len(y)).tolist()
        return y + torch.from_numpy(np.zeros(8, "float32")) + torch.tensor(rows)[:, None]

    network = apply(nn.Sequential(nn.Linear(8, 8), Outside(mask)), torch.randn(4, 8))
    assert isinstance(network[1].layer, Spiking)


class Unknown(nn.Module):
    """A function that no rule computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x).cumprod(-1)


def test_many_places_are_counted():
    model = nn.Sequential(*(Unknown() for _ in range(9)))
    with pytest.raises(
        TypeError, match=r"5 \(Unknown\) calls cumprod; and 3 more\. Leave"
    ) as error:
        apply(model, torch.randn(2, 8))
    for remedy in ("exclude", "spikeloom.neurons.tables.FUNCTIONS", "spikeloom.observe.register"):
        assert remedy in str(error.value)


class DoublingRMSNorm(nn.RMSNorm):
    def forward(self, x):
        return 2 * super().forward(x)


class DoublingLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@torch.no_grad()
@pytest.mark.parametrize("layer", [DoublingRMSNorm(8), DoublingLinear(8, 8)])
def test_a_module_that_only_looks_like_one_with_a_rule_is_computed_as_it_is_written(layer):
    model, x = nn.Sequential(nn.Linear(8, 8), layer).eval(), torch.randn(4, 8)
    assert 0 < relative(apply(model, x, steps=10)(x), model(x)) < 0.005
    assert apply(model, x, exclude=["1"])(x).shape == (4, 8)


def small(name, **sizes):
    torch.manual_seed(0)
    config = getattr(transformers, FAMILIES[name][1])(**{**FAMILIES[name][2], **sizes})
    return lambda head: getattr(transformers, head)(config)


@torch.no_grad()
@pytest.mark.parametrize(
    "family, head, exclude",
    [
        ("bert", "BertForSequenceClassification", []),
        ("roberta", "RobertaForMaskedLM", []),
        ("roberta", "RobertaForSequenceClassification", []),
        ("distilbert", "DistilBertForSequenceClassification", []),
        ("distilbert", "DistilBertForMaskedLM", []),
        ("distilbert", "DistilBertForSequenceClassification", [""]),
        ("roberta", "RobertaForMaskedLM", ["lm_head"]),
    ],
)
def test_heads_are_converted_or_excluded(family, head, exclude):
    model = small(family)(head).eval()
    network = apply(model, inputs(family), steps=10, exclude=exclude)
    wanted = model(**inputs(family))[0]
    assert float((network(**inputs(family))[0] - wanted).norm() / wanted.norm()) < 0.02


class DoublingBlock(nn.Module):
    """Its parts are those of a gated block, and it computes something else."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
        self.act_fn = nn.SiLU()

    def forward(self, x):
        return 2 * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


@dataclass
class Answer:
    value: torch.Tensor


@pytest.mark.parametrize(
    "answer",
    [lambda h, y: (h, y), lambda h, y: {"h": h, "y": [y]}, lambda h, y: Answer(y)],
    ids=["second of two", "within a dict", "within a dataclass"],
)
def test_every_tensor_that_a_model_answers_with_is_compared(answer):
    class Answering(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.block = nn.Linear(8, 8), DoublingBlock()

        def forward(self, x):
            h = self.layer(x)
            return answer(h, self.block(h))

    with pytest.raises(ValueError, match=r"output computes something else, by 5\.0e-01"):
        apply(Answering(), torch.randn(4, 8))


@torch.no_grad()
def test_a_layer_that_adds_to_torch_s_encoder_layer_is_computed_as_it_is_written():
    class Longer(nn.TransformerEncoderLayer):
        def __init__(self):
            super().__init__(8, 2, 16, batch_first=True)
            self.more = nn.ModuleList([nn.Linear(8, 8)])

        def forward(self, x, *masks, **named):
            return self.more[0](super().forward(x, *masks, **named))

    model, x = nn.Sequential(Longer()).eval(), torch.randn(2, 5, 8)
    assert 0 < relative(apply(model, x, steps=10)(x), model(x)) < 0.005


def test_a_model_that_yields_nan_itself_is_refused():
    class Dividing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(x) / torch.zeros(())

    with pytest.raises(ValueError, match="output of the model itself is NaN or infinite"):
        apply(Dividing(), torch.randn(2, 8))


class Named(nn.Module):
    """Calls its layers by the names of their arguments."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer, self.act = nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()

    def forward(self, x):
        return self.act(input=self.layer(input=self.norm(input=x)))


@torch.no_grad()
def test_layers_are_called_by_the_names_of_their_arguments_as_before():
    torch.manual_seed(0)
    model, x = Named().eval(), torch.randn(32, 8)
    network = apply(model, x, steps=12)
    assert 0 < relative(network(x), model(x)) < 1e-3
    with pytest.raises(TypeError, match=r"one argument, got 2"):
        network.layer(x, x)


class First(nn.Module):
    """The spikes of a neuron, without the state that it may return beside them."""

    def __init__(self, neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x):
        y = self.neuron(x)
        return y[0] if isinstance(y, tuple) else y


@torch.no_grad()
@pytest.mark.parametrize("host", [None, "spikingjelly", "snntorch", "norse"])
def test_neurons_are_refused_by_name_whatever_their_framework(host):
    neuron = spikeloom.SpikingLayer(neurons.LIF())
    if host is not None:
        pytest.importorskip(host)
        neuron = pytest.importorskip(f"spikeloom.plugins.{host}").make(neurons.LIF())
    model = nn.Sequential(nn.Linear(8, 8), First(neuron), nn.Linear(8, 2))
    place = re.escape(f"spike already: 1.neuron ({type(neuron).__name__}). ")
    with pytest.raises(TypeError, match=place):
        apply(model, torch.randn(4, 3, 8))


def test_a_framework_s_own_neuron_is_refused_by_name():
    norse = pytest.importorskip("norse.torch")
    model = norse.SequentialState(nn.Linear(8, 8), norse.LIFBoxCell())
    with pytest.raises(TypeError, match=r"spike already: 1 \(LIFBoxCell\)"):
        apply(model, torch.randn(4, 8))


@torch.no_grad()
def test_an_excluded_neuron_stays_as_it_is():
    torch.manual_seed(0)
    spikes = spikeloom.SpikingLayer(neurons.LIF())
    model, x = nn.Sequential(nn.Linear(8, 8), spikes).eval(), 3 * torch.rand(9, 3, 8)
    network = apply(model, x, steps=16, exclude=["1"])
    assert type(network[1]) is spikeloom.SpikingLayer
    assert 0 < network(x).mean() < 1
    assert (network(x) != model(x)).float().mean() < 0.02


@pytest.mark.parametrize("exclude", [[], ["1"]])
def test_what_torchscript_compiled_is_named(exclude):
    model = nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.Linear(8, 8)))
    with pytest.raises(TypeError, match=r"TorchScript.*: 1 \(RecursiveScriptModule\)\. Put"):
        apply(model, torch.randn(4, 8), exclude=exclude)


class Mapped(nn.Module):
    """Calls a layer, or multiplies, for each sample by torch.vmap."""

    def __init__(self, by_layer):
        super().__init__()
        self.layer, self.by_layer = nn.Linear(8, 8), by_layer

    def forward(self, x):
        if self.by_layer:
            return torch.vmap(self.layer)(x)
        return torch.vmap(lambda row: row * row.flip(-1))(self.layer(x))


@pytest.mark.parametrize(
    ("by_layer", "place"), [(True, r"1\.layer \(Linear\)"), (False, r"1 \(Mapped\)")]
)
def test_what_runs_within_vmap_is_named_or_excluded(by_layer, place):
    model, x = nn.Sequential(nn.Linear(8, 8), Mapped(by_layer)), torch.randn(4, 8)
    with pytest.raises(TypeError, match=rf"model: {place} computes within torch\.vmap"):
        apply(model, x)
    assert type(apply(model, x, exclude=["1"])[1].layer) is nn.Linear


class PackedLinear(nn.Module):
    """As other libraries keep weights of four or eight bits."""

    def __init__(self):
        super().__init__()
        self.register_buffer("qweight", torch.ones(8, 8, dtype=torch.int8))

    def forward(self, x):
        return x @ self.qweight.to(x.dtype)


def test_quantised_weights_are_refused_with_their_place():
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(PackedLinear()))
    x = torch.randn(4, 8)
    with pytest.raises(
        ValueError, match=r"quantised weights in 1\.0 \(PackedLinear\);.*dequantize"
    ):
        LAS(progress=False).apply(model, [x])
    assert LAS(progress=False, exclude=["1.0"]).apply(model, [x])(x).shape == (4, 8)


@torch.library.custom_op("las_test::flash_attn_func", mutates_args=())
def flash_attn_func(q: torch.Tensor) -> torch.Tensor:
    return q.softmax(-1)


class Flash(nn.Module):
    def forward(self, x):
        return torch.ops.las_test.flash_attn_func(x)


def test_an_attention_of_another_library_s_kernel_is_refused_with_the_setting_that_helps():
    model = nn.Sequential(nn.Linear(8, 8), Flash())
    with pytest.raises(TypeError, match=r"1 \(Flash\) calls .*attn.*attn_implementation='sdpa'"):
        LAS(progress=False).apply(model, [torch.randn(4, 8)])


class MultipliesWithoutAMask(transformers.BertModel):
    """What no rule computes stands in a line that only a call without a mask comes to."""

    def forward(self, input_ids, attention_mask=None):
        h = torch.tanh(super().forward(input_ids=input_ids, attention_mask=attention_mask)[0])
        return h.cumprod(-1) if attention_mask is None else h


def test_what_no_rule_computes_in_another_way_to_call_a_model_is_refused_when_it_is_called():
    model = MultipliesWithoutAMask(transformers.BertConfig(**SIZES))
    batch = inputs("bert")
    mask = torch.ones_like(batch["input_ids"])
    network = apply(model, {**batch, "attention_mask": mask})
    assert network(**batch, attention_mask=mask).isfinite().all()
    with pytest.raises(ValueError, match="did not reach this call of cumprod in Multiplies"):
        network(**batch)


class Expert(nn.Module):
    """A layer with a function of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.softmax(self.layer(x), -1)


class Mixture(nn.Module):
    """Two experts, of which one runs."""

    def __init__(self):
        super().__init__()
        self.experts, self.chosen = nn.ModuleList([Expert(), Expert()]), 0

    def forward(self, x):
        return self.experts[self.chosen](x)


@pytest.mark.parametrize("part_of", [lambda network: network, nn.Sequential])
def test_an_expert_that_calibration_did_not_reach_is_refused_by_its_name(part_of):
    torch.manual_seed(0)
    network = LAS(progress=False).apply(Mixture().eval(), [torch.randn(32, 8)])
    assert "any range: 'experts.1.layer.site'" in str(network.report)
    network.chosen = 1
    with pytest.raises(ValueError, match=r"did not reach .* softmax in experts\.1 \(Expert\),"):
        part_of(network)(torch.rand(4, 8))


class Remembering(nn.Module):
    """Adds a mean over time, which it keeps between calls."""

    def __init__(self, way):
        super().__init__()
        self.layer, self.way = nn.Linear(8, 8), way
        self.register_buffer("mean", torch.zeros(8))
        self.last = None

    def forward(self, x):
        if self.way == "in place":
            self.mean.mul_(0.5).add_(x.mean(0))
        elif self.way == "anew":
            self.mean = 0.5 * self.mean + x.mean(0)
        else:
            self.last = x.mean(0) if self.last is None else 0.5 * self.last + x.mean(0)
        return self.layer(x + (self.mean if self.last is None else self.last))


@torch.no_grad()
@pytest.mark.parametrize("way", ["in place", "anew", "an attribute"])
def test_a_model_that_keeps_a_state_is_converted_and_begins_where_the_model_does(way):
    torch.manual_seed(0)
    model = Remembering(way)
    batches = [torch.randn(16, 8) for _ in range(3)]
    network = LAS(steps=12, progress=False).apply(model.eval(), batches)
    for x in batches:
        assert 0 < relative(network(x), model(x)) < 0.005
