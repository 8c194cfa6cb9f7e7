"""A sample on which nothing fires proves nothing, so what is written must be right by itself.

Every model here is exported on zeros. Either it is refused, or the file computes what the model
computes on data that it never saw.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons
from spikeloom.export import NotExpressible, run_nir, to_nir

T, B, N = 6, 3, 4


def weights(*shape: int, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter((torch.randn(shape, generator=generator) * 6).round() / 4)


def fresh(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(T, B, N, generator=generator) * 12).round() / 4


class Net(nn.Module):
    """Weights and neurons, with any function at each of four places."""

    def __init__(self, functions=(), seed: int = 0) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(N, N, bias=False), nn.Linear(N, N, bias=False)
        self.fc1.weight, self.fc2.weight = weights(N, N, seed=seed), weights(N, N, seed=seed + 1)
        self.spike1, self.spike2 = (SpikingLayer(neurons.LIF(v_threshold=0.5)) for _ in range(2))
        self.functions = dict(functions)

    def at(self, place: int, h: Tensor) -> Tensor:
        return self.functions.get(place, lambda h: h)(h)

    def forward(self, x: Tensor) -> Tensor:
        h = self.spike1(self.at(1, self.fc1(self.at(0, x))))
        return self.at(3, self.spike2(self.fc2(self.at(2, h))))


def into(change):
    """A function that changes a copy in place."""

    def changed(h: Tensor) -> Tensor:
        y = h.clone()
        change(y)
        return y

    return changed


def written(y: Tensor, index, value) -> None:
    y[index] = value


def shared(h: Tensor) -> Tensor:
    """Changes memory through a view of it."""
    y = h.clone()
    view = y[2:]
    view.mul_(2)
    return y


def unseen(h: Tensor) -> Tensor:
    y = h.clone()
    y.data.mul_(2)
    return y


def buffered(order) -> object:
    def write(h: Tensor) -> Tensor:
        out = torch.zeros(h.shape)
        for step, source in enumerate(order):
            out[step] = h[source]
        return out

    return write


def summed(h: Tensor) -> Tensor:
    acc = torch.zeros(h.shape[1:])
    steps = []
    for now in h:
        acc += now
        steps.append(acc.clone())
    return torch.stack(steps)


def outed(h: Tensor) -> Tensor:
    y = torch.empty_like(h)
    torch.add(h, h.flip(0), out=y)
    return y


MIX = torch.tensor([1, 0, 3, 2])
LAST = torch.tensor([B - 1, *range(B - 1)])
FUNCTIONS = {
    # what only seems to do nothing
    "features indexed": lambda h: h[..., [1, 0, 3, 2]],
    "features indexed by a tensor": lambda h: h[..., MIX],
    "features indexed by a mask": lambda h: h[..., torch.tensor([True] * N)],
    "samples indexed": lambda h: h[:, LAST],
    "one sample for all": lambda h: h[:, [0] * B],
    "one step for all": lambda h: h[[0] * T],
    "steps reversed": lambda h: h[list(range(T))[::-1]],
    "features doubled": lambda h: h[..., [0, 0, 1, 1]],
    "index_select": lambda h: h.index_select(2, MIX),
    "gather": lambda h: h.gather(2, MIX.expand_as(h)),
    "take_along_dim": lambda h: torch.take_along_dim(h, MIX.expand_as(h), 2),
    "features rolled": lambda h: h.roll(1, 2),
    "samples rolled": lambda h: h.roll(1, 1),
    "steps rolled": lambda h: h.roll(1, 0),
    "features flipped": lambda h: h.flip(2),
    "samples flipped": lambda h: torch.flip(h, (1,)),
    "steps flipped": lambda h: h.flip(0),
    "flipped and back": lambda h: h.flip(0, 2).flip(2).flip(0),
    "repeat": lambda h: h[..., :2].repeat(1, 1, 2),
    "repeat_interleave": lambda h: h[..., :2].repeat_interleave(2, 2),
    "a sample repeated": lambda h: h[:, :1].repeat(1, B, 1),
    "a step expanded": lambda h: h[:1].expand(T, B, N),
    "narrow": lambda h: torch.cat([h.narrow(2, 2, 2), h.narrow(2, 0, 2)], 2),
    "slices with a step": lambda h: torch.cat([h[..., ::2], h[..., 1::2]], 2),
    "steps with a step": lambda h: torch.cat([h[::2], h[1::2]]),
    "stacked along the batch": lambda h: torch.stack([h, h], 1)[:, 0],
    "cut along the batch": lambda h: torch.cat([h[:, 1:], h[:, :1]], 1),
    "two axes and back": lambda h: h.unflatten(2, (2, 2)).transpose(2, 3).flatten(2),
    "unbound": lambda h: torch.stack(list(h.unbind(0))),
    "iterated": lambda h: torch.stack([now for now in h]),  # noqa: C416
    "iterated backwards": lambda h: torch.stack([*h][::-1]),
    "samples for steps": lambda h: h.reshape(B, T, N).transpose(0, 1),
    "tile and halves": lambda h: torch.tile(h, (1, 1, 2))[..., 2:6],
    "rot90": lambda h: torch.rot90(h.unflatten(2, (2, 2)), 1, (2, 3)).flatten(2),
    "one step late": lambda h: torch.cat([torch.zeros_like(h[:1]), h[:-1]]),
    "padded late": lambda h: F.pad(h, (0, 0, 0, 0, 1, 0))[:-1],
    "features padded": lambda h: F.pad(h[..., 1:], (1, 0)),
    "unfold": lambda h: h.unfold(2, 2, 2).flip(3).flatten(2),
    "strides of its memory": lambda h: h.contiguous().as_strided(h.shape, (B * N, N, 1)),
    "other strides": lambda h: h.contiguous().as_strided(h.shape, (N, 1, B)),
    "strides of moved memory": lambda h: (
        h.flip(2).transpose(0, 1).as_strided(h.shape, (B * N, N, 1))
    ),
    "take": lambda h: h.take(torch.arange(T * B * N).flip(0)).view(T, B, N),
    "masked_select": lambda h: h.masked_select(torch.ones(N) > 0).view(T, B, N).flip(2),
    "pixel_shuffle": lambda h: F.pixel_shuffle(h[..., None, None], 2).flatten(2),
    "channel_shuffle": lambda h: F.channel_shuffle(h.flatten(0, 1)[..., None], 2).view(T, B, N),
    "broadcast_tensors": lambda h: torch.broadcast_tensors(h[:1], torch.zeros(T, B, N))[0],
    "turned in place": into(lambda y: y.transpose_(0, 1).transpose_(0, 1)),
    "squeezed in place": into(lambda y: y.unsqueeze_(0).squeeze_(0)),
    "positive": lambda h: +h.flip(2),
    "as_tensor": lambda h: torch.as_tensor(h.flip(2)),
    "nan_to_num": lambda h: h.nan_to_num(),
    # what changes values
    "where": lambda h: torch.where(torch.tensor([True, False] * 2), h, 0.0),
    "where it is": lambda h: torch.where(h > 0.5, h, 0.0),
    "masked_fill": lambda h: h.masked_fill(torch.tensor([True, False] * 2), 0.0),
    "mul": lambda h: h * 2,
    "mul_": into(lambda y: y.mul_(2)),
    "add_ of a constant": into(lambda y: y.add_(1.0)),
    "add_ of zero": into(lambda y: y.add_(0.0)),
    "twice": lambda h: h + h,
    "with itself flipped": lambda h: h + h.flip(2),
    "with an earlier step": lambda h: h + h.roll(1, 0),
    "out=": outed,
    "all set to zero": into(lambda y: written(y, ..., 0)),
    "a feature set to zero": into(lambda y: written(y, (..., 0), 0.0)),
    "a step set to zero": into(lambda y: written(y, 0, 0)),
    "a sample set to zero": into(lambda y: written(y, (slice(None), 1), 0)),
    "a feature set to one": into(lambda y: written(y, (..., 0), 1.0)),
    "a feature set to another": into(lambda y: written(y, (..., 0), y[..., 1])),
    "set where it is": into(lambda y: written(y, y > 0.5, 0.0)),
    "zero_ of a view": into(lambda y: y[0].zero_()),
    "copy_": into(lambda y: y.copy_(y.flip(2))),
    "changed through a view": shared,
    "changed through data": unseen,
    "in a buffer": buffered(range(T)),
    "in a buffer, backwards": buffered(range(T)[::-1]),
    "in a buffer, some steps": buffered([0, 1, 2]),
    "summed up": summed,
    "cumsum": lambda h: h.cumsum(0),
    "sort": lambda h: h.sort(2).values,
    "maximum": lambda h: torch.maximum(h, h.flip(2)),
    "dropout": lambda h: F.dropout(h, 0.5, training=False),
    "half": lambda h: h.half().float(),
    "bfloat16": lambda h: h.to(torch.bfloat16).to(torch.float32),
    "int": lambda h: h.to(torch.int32).to(torch.float32),
    "double": lambda h: h.double().float(),
    "read as integers": lambda h: (h.view(torch.int32) >> 1).view(torch.float32),
    "through numpy": lambda h: h + torch.from_numpy(h.numpy() * 2),
    "through numbers": lambda h: h + torch.tensor(h.tolist()) * 2,
    "through one number": lambda h: h + 2 * h.abs().max().item(),
}  # fmt: skip
HARMLESS = ("add_ of zero", "unbound", "iterated", "in a buffer", "double", "flipped and back")


def exported(net: nn.Module, x: Tensor | None = None):
    """The graph from a silent sample; None if the model is refused."""
    options = {"target": "nir", "on_inexact": "subgraph", "dense_token_mixing": True}
    try:
        return to_nir(net, torch.zeros(T, B, N) if x is None else x, **options)
    except NotExpressible:
        return None


def assert_right_or_refused(net: nn.Module) -> bool:
    found = exported(net)
    if found is not None:
        for seed in range(3):
            x = fresh(seed)
            with torch.no_grad():
                assert torch.equal(run_nir(found[0], x).flatten(2), net(x).flatten(2))
    return found is not None


@pytest.mark.parametrize("place", [1, 3], ids=["before a neuron", "at the end"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_between_modules_is_followed_or_refused(name, place):
    written = assert_right_or_refused(Net({place: FUNCTIONS[name]}))
    assert written or name not in HARMLESS


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(st.data())
def test_random_functions_between_modules_are_followed_or_refused(data):
    chosen = st.sampled_from([*FUNCTIONS])
    functions = {}
    for place in range(4):
        names = data.draw(st.lists(chosen, max_size=2))

        def chain(h: Tensor, names=tuple(names)) -> Tensor:
            for name in names:
                h = FUNCTIONS[name](h)
            return h

        functions[place] = chain
    assert_right_or_refused(Net(functions, data.draw(st.integers(0, 9))))


def test_features_that_change_places_are_written_as_a_matrix():
    graph, _ = exported(Net({1: lambda h: h[..., [1, 0, 3, 2]]}))
    assert torch.equal(run_nir(graph, fresh()), Net({1: lambda h: h[..., MIX]})(fresh()))
