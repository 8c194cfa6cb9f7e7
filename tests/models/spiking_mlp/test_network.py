"""The spiking MLP against golden vectors, SpikingJelly's own layers, and its own description."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

import spikeloom
from spikeloom.models import SpikingMLP
from spikeloom.models.spiking_mlp import PatchEncoding, TokenBlock
from spikeloom.models.spiking_mlp.norms import TokenBatchNorm
from spikeloom.models.spiking_mlp.published import load, token_places
from tests.ids import without_address
from tests.models.spiking_mlp.cases import image, small, wake
from tests.models.spiking_mlp.spikingjelly_network import Network

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def part(arrays: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


# --- Golden vectors --------------------------------------------------------------------------

LIF_VARIANTS = {
    "default": {"detach_reset": True},
    "nodetach": {},
    "softreset": {"v_reset": None, "detach_reset": True},
    "nodecayinput": {"decay_input": False, "detach_reset": True},
    "tau5_vth05": {"tau": 5.0, "v_threshold": 0.5, "detach_reset": True},
    "vreset_neg": {"v_reset": -0.25, "detach_reset": True},
}


@pytest.mark.parametrize("variant", LIF_VARIANTS)
def test_the_neuron_equals_the_golden_one(variant):
    arrays = golden("spikingmlp_lif")
    x = arrays["x"].requires_grad_()
    neuron = spikeloom.neurons.LIF(**LIF_VARIANTS[variant])
    spikes, _, v = spikeloom.run(neuron, x, record="v")
    (spikes * arrays["w"]).sum().backward()
    assert torch.equal(spikes, arrays[f"{variant}.spike"])
    assert (v - arrays[f"{variant}.v_seq"]).abs().max() <= 1e-12
    assert (x.grad - arrays[f"{variant}.grad_x"]).abs().max() <= 1e-10


def golden_block() -> tuple[TokenBlock, dict[str, torch.Tensor]]:
    arrays = golden("spikingmlp_token_block")
    block = TokenBlock((4, 6), 5).eval()
    load(block, part(arrays, "sd."), token_places(block))
    return block, arrays


def test_the_token_block_equals_the_golden_one():
    block, arrays = golden_block()
    x = arrays["in"].requires_grad_()
    t = block(x)
    (t * arrays["w"]).sum().backward()
    assert (t - arrays["out"]).abs().max() <= 1e-10
    assert (x.grad - arrays["grad_in"]).abs().max() <= 1e-10
    published = {"along_width": "proj_w", "along_height": "proj_h", "fuse": "fuse"}
    for name, parameter in block.named_parameters():
        layer, index, entry = name.split(".")
        number = int(index) + (layer != "fuse")
        expected = arrays[f"grad.{published[layer]}.{number}.{entry}"]
        assert (parameter.grad - expected.reshape(parameter.shape)).abs().max() <= 1e-10, name


def test_spikes_inside_the_golden_block_are_identical_in_float32():
    block, arrays = golden_block()
    block, seen = block.float(), {}
    block.width_neuron.register_forward_hook(lambda m, x, y: seen.update(w=y))
    block.height_neuron.register_forward_hook(lambda m, x, y: seen.update(h=y))
    t = block(arrays["in"].float())
    assert torch.equal(seen["w"].permute(0, 1, 4, 2, 3), arrays["lif.proj_w.3.out"].float())
    assert torch.equal(seen["h"].permute(0, 1, 3, 2, 4), arrays["lif.proj_h.3.out"].float())
    assert (t - arrays["out"]).abs().max() <= 2e-4


# --- The published network, built from SpikingJelly's own layers -------------------------------

PUBLISHED = {
    "as published": {},
    "wide image": {"image_size": (16, 8)},
    "without spiking patch encoding": {"spe": False},
    "temporal norm": {"tebn_steps": 3},
    "two blocks, three stages": {"depths": (1, 2, 1), "image_size": (16, 16)},
}


def published(seed: int = 0, **changes) -> Network:
    torch.manual_seed(seed)
    settings = {"image_size": (8, 8), "patch": 2, "inputs": 3, "classes": 10, "dim": 6}
    settings |= {"depths": (1, 1)}
    return wake(Network(**{**settings, **changes}).double(), seed)


def gradients_here(model: SpikingMLP, reference: Network) -> dict[str, torch.Tensor]:
    """The reference's gradients under our names: a state dict of gradients, loaded like one."""
    grads = {name: torch.zeros_like(value) for name, value in reference.state_dict().items()}
    grads |= {name: parameter.grad for name, parameter in reference.named_parameters()}
    holder = copy.deepcopy(model)
    holder.load_published(grads)
    return dict(holder.named_parameters())


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_published_state_dict_reproduces_its_network(name, training):
    reference = published(**PUBLISHED[name]).train(training)
    model = SpikingMLP.from_published(reference.state_dict(), steps=3).train(training)
    size = PUBLISHED[name].get("image_size", (8, 8))
    x, labels = image(3, 2, 3, *size), torch.tensor([3, 7])
    losses = []
    for network in (reference, model):
        y = network(x)
        losses.append(nn.functional.cross_entropy(y.mean(0), labels))
        losses[-1].backward()
        assert y.shape == (3, 2, 10)
    functional.reset_net(reference)
    assert abs(losses[0] - losses[1]) <= 1e-10
    with torch.no_grad():
        expected = reference(x)
        assert (model(x) - expected).abs().max() <= 1e-10
        assert expected.std() > 0.01
    for key, expected in gradients_here(model, reference).items():
        got = model.get_parameter(key).grad
        assert (got - expected).norm() <= 1e-10 * max(1, expected.norm()), key
    twin = copy.deepcopy(model)
    twin.load_published(reference.state_dict())
    for key, value in twin.state_dict().items():
        assert (model.state_dict()[key] - value).abs().max() <= 1e-10, key


def test_an_image_without_time_trains_like_one_repeated_by_hand():
    reference = published().train()
    model = SpikingMLP.from_published(reference.state_dict(), steps=4).train()
    x = image(2, 3, 8, 8)
    y, expected = model(x), reference(x.repeat(4, 1, 1, 1, 1))
    y.square().mean().backward()
    expected.square().mean().backward()
    assert (y - expected).abs().max() <= 1e-10
    for key, expected in gradients_here(model, reference).items():
        assert (model.get_parameter(key).grad - expected).norm() <= 1e-10, key
    norm, own = reference.to_patch_embedding[0][1], model.stages[0].embed.norm[0]
    assert (own.running_var - norm.running_var).abs().max() <= 1e-10
    assert (own.running_mean - norm.running_mean).abs().max() <= 1e-10


def test_a_constant_image_is_encoded_once():
    model, batches = small(steps=5), []
    model.stages[0].embed.weight.register_forward_hook(lambda m, x, y: batches.append(len(y)))
    model(image(2, 1, 8, 8, dtype=torch.float32))
    model(image(2, 1, 8, 8, dtype=torch.float32).expand(3, -1, -1, -1, -1))
    model(image(3, 2, 1, 8, 8, dtype=torch.float32))
    assert batches == [2, 2, 6]


def test_shared_neurons_of_the_patch_encoding_run_once():
    encoding = PatchEncoding(3, 6)
    neurons = [m for m in encoding.modules() if isinstance(m, spikeloom.SpikingLayer)]
    calls = []
    for neuron in neurons:
        neuron.register_forward_hook(lambda m, x, y: calls.append(tuple(y.shape)))
    encoding((image(4, 2, 3, 6, 8) > 1).float())
    assert calls == [(4, 2, 2, 3, 4)] * 3


def test_the_anchor_is_the_embedding_of_the_stage_and_never_accumulates():
    model, anchors = small(depths=(3,)).eval(), []
    for block in model.stages[0].blocks:
        block.register_forward_pre_hook(lambda m, args: anchors.append(args[0].clone()))
    model(image(2, 1, 8, 8, dtype=torch.float32))
    assert len(anchors) == 3
    assert torch.equal(anchors[0], anchors[1])
    assert torch.equal(anchors[0], anchors[2])


# --- Configurations --------------------------------------------------------------------------

PARAMETERS = {"spe-t": 25_229_180, "s": 34_507_408, "spe-s": 37_975_568, "spe-b": 65_607_184}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_papers_configurations_have_its_parameter_counts(name):
    with torch.device("meta"):
        model = SpikingMLP.named(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_the_digits_network_has_the_expected_parameter_counts():
    counts = [
        sum(p.numel() for p in small(dim=24, bn_axis=axis).parameters())
        for axis in ("channel", "token")
    ]
    assert counts == [42_870, 42_374]


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (12, 8), "patch_size": (3, 2)},
        {"depths": (2,)},
        {"in_channels": 4, "num_classes": 2, "expansion": 1},
        {"patch_encoding": "conv", "dim": 5},
        {"norm": "tdbn"},
        {"norm": "tebn", "steps": 3},
        {"bn_axis": "token"},
        {"steps": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_configuration_trains(changes, dtype):
    model = small(**changes).to(dtype)
    x = image(2, model.in_channels, *model.image_size, dtype=dtype)
    y = model(x)
    assert y.shape == (model.steps, 2, model.num_classes)
    assert y.dtype == dtype
    y.mean(0).logsumexp(1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_any_number_of_steps_runs_in_eval(steps):
    model = small().eval()
    assert model(image(steps, 2, 1, 8, 8, dtype=torch.float32)).shape == (steps, 2, 10)


def test_later_steps_do_not_change_earlier_ones():
    model, x = wake(small()).eval(), image(6, 2, 1, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(model(x)[:4], model(x[:4]))


def test_memory_layout_does_not_matter():
    model, x = wake(small(in_channels=3)).eval().double(), image(4, 2, 3, 8, 8)
    expected = model(x)
    strided = x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    assert (model(strided) - expected).abs().max() < 1e-12
    assert (model(x.movedim(2, -1).contiguous().movedim(-1, 2)) - expected).abs().max() < 1e-12


def test_nan_in_the_image_is_an_error():
    x = image(2, 1, 8, 8, dtype=torch.float32)
    x[0, 0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        small().eval()(x)


def test_low_precision_follows_autocast():
    x = image(2, 1, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = small()(x)
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def test_copies_and_pickles_compute_the_same():
    model, x = wake(small()).eval(), image(2, 1, 8, 8, dtype=torch.float32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


def test_a_learned_neuron_is_its_own_in_every_place():
    neuron = spikeloom.neurons.LIF(tau=nn.Parameter(torch.tensor(2.0)))
    model = small(neuron=neuron)
    taus = [p for name, p in model.named_parameters() if name.endswith("tau")]
    assert len(taus) == len(set(map(id, taus))) == 14


def test_the_neurons_come_from_make():
    made = []

    def make(neuron):
        made.append(neuron)
        return spikeloom.SpikingLayer(neuron)

    small(make=make)
    assert len(made) == 14
    assert repr(made[0]) == repr(spikeloom.neurons.LIF(detach_reset=True))


def test_the_ann_twin_has_the_same_weights_and_no_spikes():
    model = small()
    twin = model.ann_twin()
    assert {k: v.shape for k, v in twin.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert twin(image(2, 1, 8, 8, dtype=torch.float32)).shape == (1, 2, 10)
    assert not any(isinstance(m, spikeloom.SpikingLayer) for m in twin.modules())


def test_token_norm_normalises_every_position():
    x = image(8, 6, 5)
    y = TokenBatchNorm((2, 3)).double()(x.flatten(0, 1)).unflatten(0, (8, 6))
    assert torch.allclose(y, nn.BatchNorm1d(6).double()(x))


# --- Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_size": 9}, ValueError, r"image_size: \(9, 9\) does not divide into patches"),
        ({"image_size": (8, 7)}, ValueError, r"image_size: \(8, 7\)"),
        ({"image_size": (8, 12, 3)}, ValueError, "image_size: must be an int or"),
        ({"image_size": 8.0}, ValueError, "image_size: must be an int or .* got 8.0"),
        ({"image_size": 12}, ValueError, None),
        ({"depths": (1, 1, 1, 1)}, ValueError, "stage 3 would halve a map of 1 x 1"),
        ({"dim": 5}, ValueError, "must divide by 3"),
        ({"depths": ()}, ValueError, "depths"),
        ({"depths": 2}, TypeError, r"depths: needs one .* for each stage, such as .* got 2"),
        ({"make": "norse"}, TypeError, "make: must be a function .* got 'norse'"),
        ({"make": lambda neuron: neuron}, TypeError, "make: must return a torch.nn.Module"),
        ({"depths": (1, 0)}, ValueError, r"depths\[1\]: must be at least 1, got 0"),
        ({"steps": 0}, ValueError, "steps: must be at least 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps: must be an int, got 2.0"),
        ({"dim": True}, TypeError, "dim: must be an int"),
        ({"bn_axis": "batch"}, ValueError, "bn_axis: must be one of channel, token"),
        ({"norm": "ln"}, ValueError, "norm: must be one of bn, tdbn, tebn"),
        ({"patch_encoding": "mlp"}, ValueError, "patch_encoding"),
    ],
    ids=without_address,
)
def test_bad_arguments_are_named(changes, error, message):
    if message is None:  # 12 / 2 = 6, and 6 / 2 = 3: fine for two stages
        assert small(**changes).stages[1].blocks[0] is not None
        return
    with pytest.raises(error, match=message):
        small(**changes)


def test_an_unknown_configuration_is_refused():
    with pytest.raises(ValueError, match="name: must be one of spe-t, s, spe-s, spe-b"):
        SpikingMLP.named("tiny")


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.zeros(2, 3, 8, 8), ValueError),
        (torch.zeros(2, 1, 8, 9), ValueError),
        (torch.zeros(1, 8, 8), ValueError),
        (torch.zeros(2, 1, 1, 1, 8, 8), ValueError),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), TypeError),
        ([1, 2], TypeError),
    ],
)
def test_a_wrong_image_is_refused(x, error):
    with pytest.raises(error, match="x: must be"):
        small()(x)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="holds no image"):
        small()(torch.zeros(4, 0, 1, 8, 8))


def test_a_temporal_norm_refuses_another_number_of_steps():
    model = small(norm="tebn", steps=4)
    for steps, samples in ((3, 1), (2, 2), (8, 1)):  # as many rows as 4 steps could have, too
        with pytest.raises(ValueError, match=f"x: has {steps} steps; .*steps=4"):
            model(image(steps, samples, 1, 8, 8, dtype=torch.float32))


def test_a_state_dict_of_another_configuration_says_which_keys_differ():
    other = published(classes=7).state_dict()
    model = small(in_channels=3, bn_axis="token")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"of another shape: mlp_head\.1\.weight .*mlp_head\.1\.bi"
    ):
        model.load_published(other)
    deeper = published(depths=(2, 1)).state_dict()
    with pytest.raises(ValueError, match=r"left over: .*2"):
        model.load_published(deeper)
    del other["batch_norm.weight"]
    with pytest.raises(ValueError, match=r"missing: batch_norm\.weight"):
        model.load_published(other)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_as_many_numbers_in_another_shape_are_refused():
    state = published().state_dict()
    state["to_patch_embedding.0.0.weight"] = torch.zeros(6, 3, 1, 4)
    with pytest.raises(ValueError, match=r"of another shape: to_patch_embedding\.0\.0\.weight"):
        small(in_channels=3, bn_axis="token").load_published(state)


def test_a_foreign_state_dict_is_refused():
    with pytest.raises(ValueError, match="not in the published layout"):
        SpikingMLP.from_published(small().state_dict())
    with pytest.raises(ValueError, match="patch_size: the state dict has patches"):
        SpikingMLP.from_published(published().state_dict(), patch_size=4)
