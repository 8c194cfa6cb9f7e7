"""Which axis of a layer's input is time, against filters written out along the true one."""

import pytest
import torch
from spikingjelly.activation_based import neuron as sjn
from torch import nn

from spikeloom import SpikingLayer, compress, neurons, plugins
from tests.compress.cases import dense_filter, spikes
from tests.models.spiking_mlp.cases import image, small, wake

T, B = 6, 4
DECAY = 0.75


class Batched(nn.Module):
    """A layer that sees ``[batch, T, 6]``, its neuron sees what ``to_neuron`` makes of it."""

    def __init__(self, call_layer, to_neuron, neuron=None, call_neuron=None):
        super().__init__()
        self.fc, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        self.neuron = neuron or SpikingLayer(neurons.LIF(tau=4.0))
        self.call_layer, self.to_neuron = call_layer, to_neuron
        self.call_neuron = call_neuron or (lambda neuron, x: neuron(x))
        self.eval()

    def forward(self, x):
        current = self.to_neuron(self.call_layer(self.fc, x), x.shape[:2])
        return self.out(self.call_neuron(self.neuron, current))


def as_it_is(layer, x):
    return layer(x)


def folded(layer, x):
    return layer(x.flatten(0, 1))


def turned(current, shape):
    return current.transpose(0, 1)


def unfolded(current, shape):
    return current.unflatten(0, shape).transpose(0, 1)


def looped(neuron, current):
    mem, outputs = neuron.init_leaky(), []
    for now in current:
        spike, mem = neuron(now, mem)
        outputs.append(spike)
    return torch.stack(outputs)


def by_sequence(neuron, current):
    return neuron.sequence(current)[0]


def snntorch_loop():
    import snntorch

    return Batched(folded, unfolded, snntorch.Leaky(beta=DECAY), looped)


BATCH_FIRST = {
    "an axis": lambda: Batched(as_it_is, turned),
    "folded": lambda: Batched(folded, unfolded),
    "folded, then a loop": snntorch_loop,
    "folded, SpikingJelly": lambda: Batched(folded, unfolded, sjn.LIFNode(4.0, step_mode="m")),
    "folded, the method sequence": lambda: Batched(
        folded, unfolded, plugins.snntorch.Leaky(beta=DECAY), by_sequence
    ),
}


def true_hessian(x, decay=DECAY):
    """Of ``[T, batch, d]``, by the matrix of the filter."""
    y = dense_filter(x.double(), decay).flatten(0, 1)
    return 2 / x.shape[1] * y.T @ y


def found_hessian(model, *batches, name="fc"):
    (block,) = compress.calibrate(model, batches)[name].spiking
    return block.hessian


@pytest.mark.parametrize("batch", [B, T], ids=["lengths differ", "lengths agree"])
@pytest.mark.parametrize("how", BATCH_FIRST)
def test_samples_may_come_before_steps(how, batch):
    x = spikes(batch, T, 6)
    found = found_hessian(BATCH_FIRST[how](), x)
    torch.testing.assert_close(found, true_hessian(x.transpose(0, 1)), rtol=1e-5, atol=1e-5)


def test_batches_of_other_sizes_are_unfolded_alike():
    x = spikes(B, T, 6)
    found = found_hessian(BATCH_FIRST["folded"](), x[1:], x[:1])
    torch.testing.assert_close(found, true_hessian(x.transpose(0, 1)), rtol=1e-5, atol=1e-5)


def test_one_sample_alone_does_not_tell_the_order_of_folded_axes():
    x, model = spikes(B, T, 6), BATCH_FIRST["folded"]()
    found = found_hessian(model, *x.split(1))
    torch.testing.assert_close(found, true_hessian(x.transpose(0, 1)), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"'fc': .* begin with a batch of several samples"):
        compress.calibrate(model, [x[:1], x[1:]])


def test_layers_in_front_of_one_neuron_may_order_their_axes_differently():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 5), nn.Linear(6, 5)
            self.neuron = SpikingLayer(neurons.LIF(tau=4.0))

        def forward(self, x):
            one = self.one(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            two = unfolded(self.two(x.transpose(0, 1).flatten(0, 1)), x.shape[1::-1])
            return self.neuron(one + two)

    model, x = Branches().eval(), spikes(T, B, 6)
    for name in ("one", "two"):
        found = found_hessian(model, x, name=name)
        torch.testing.assert_close(found, true_hessian(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "to_neuron",
    [lambda z, _: z.flip(0), lambda z, _: z.roll(1, 0), lambda z, _: z.cumsum(0)],
    ids=["reversed", "delayed", "summed"],
)
def test_steps_that_are_not_those_of_the_neuron_are_an_error(to_neuron):
    with pytest.raises(ValueError, match=r"layer 'fc': one row .* reaches .* 'neuron' at"):
        compress.calibrate(Batched(as_it_is, to_neuron), [spikes(T, B, 6)])


@pytest.mark.parametrize("how", ["folded", "folded, then a loop", "folded, the method sequence"])
def test_folded_batches_need_the_same_number_of_steps(how):
    with pytest.raises(ValueError, match=rf"'fc'.*ran {2 * T} steps on a batch and {T} on the"):
        compress.calibrate(BATCH_FIRST[how](), [spikes(B, T, 6), spikes(B, 2 * T, 6)])


def test_batches_with_an_axis_for_steps_may_differ_in_their_number():
    model = nn.Sequential(nn.Linear(6, 5), SpikingLayer(neurons.LIF(tau=4.0))).eval()
    short, long = spikes(T, B, 6), spikes(2 * T, B, 6, seed=1)
    expected = (true_hessian(short) + true_hessian(long)) / 2
    found = found_hessian(model, short, long, name="0")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("looped", [False, True], ids=["a sequence", "a loop"])
def test_a_current_that_all_steps_share_is_filtered_as_if_repeated(looped):
    import snntorch

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
            self.neuron = snntorch.Leaky(DECAY) if looped else SpikingLayer(neurons.LIF(4.0))

        def forward(self, x):
            if not looped:
                return self.out(self.neuron(self.fc(x).expand(T, -1, -1)))
            current, mem, outputs = self.fc(x), self.neuron.init_leaky(), []
            for _ in range(T):
                spike, mem = self.neuron(current, mem)
                outputs.append(self.out(spike))
            return torch.stack(outputs)

    x, model = spikes(B, 6), Constant().eval()
    stats = compress.calibrate(model, [x[:3], x[3:]])
    found, facts = stats["fc"].spiking[0].hessian, stats["fc"].facts
    torch.testing.assert_close(found, true_hessian(x.expand(T, B, 6)), rtol=1e-5, atol=1e-5)
    assert (facts.steps, facts.samples) == (T, B)


def test_a_current_that_some_steps_share_is_an_error():
    model = Batched(as_it_is, lambda z, _: torch.stack([z, z.flip(0), z]))
    with pytest.raises(ValueError, match=r"one row of its output reaches .* or all steps must be"):
        compress.calibrate(model, [spikes(B, 6)])


@pytest.mark.parametrize("batch_first", [False, True])
def test_tokens_may_be_folded_with_steps_and_samples(batch_first):
    N = 3

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.neuron = nn.Linear(6, 5), SpikingLayer(neurons.LIF(tau=4.0))

        def forward(self, x):
            z = self.fc(x.flatten(0, 2)).unflatten(0, x.shape[:3])
            return self.neuron(z.transpose(0, 1) if batch_first else z)

    x = spikes(B, T, N, 6) if batch_first else spikes(T, B, N, 6)
    stats = compress.calibrate(Tokens().eval(), [x])
    y = dense_filter((x.transpose(0, 1) if batch_first else x).double(), DECAY).flatten(0, 2)
    expected = 2 / (B * N) * y.T @ y
    found = stats["fc"].spiking[0].hessian
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert stats["fc"].facts.samples == B * N


@pytest.mark.parametrize("shape", [(3, 2, 1, 8, 8), (2, 1, 8, 8), (3, 1, 8, 8)], ids=str)
def test_every_layer_of_the_spiking_mlp_is_filtered_along_time(shape):
    model = wake(small(steps=3)).eval()
    inputs = {}
    layers = {
        n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))
    }
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    stats = compress.calibrate(model, [image(*shape, dtype=torch.float32)])
    assert set(stats) == set(layers)
    for name, layer in layers.items():
        x, decay = inputs[name], 0.0 if name == "head.3" else 0.5
        # Time is in front of everything, but for the stem that sees one image at all steps.
        once = name == "stages.0.embed.weight" and len(shape) == 4
        x = x.expand(3, *x.shape) if once else x.unflatten(0, (3, -1))
        expected = compress.layer_hessian(x, layer, neurons.Trace(decay))
        found = torch.stack([block.hessian for block in stats[name].spiking]).squeeze(0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
