"""What a module computes: spikes, states and dtypes, whatever the shape and the implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import spikeloom

from .host import Host
from .reference import AtanSpike, adaptive, grid, lif, lif_loop, raises, same

__all__ = ["CHECKS"]


def spikes_equal_the_reference(host: Host) -> None:
    """A LIF fires as a plain loop in float64 does, with both resets."""
    for hard in (True, False):
        x = grid(9, 3, 5)
        expected, (v,) = lif_loop(
            x.double(), (torch.zeros(3, 5).double(),), torch.tensor(2.0), hard=hard, detach=False
        )
        assert 0 < expected.mean() < 1
        y, (last,) = host.forward(host.make(lif(hard=hard)), x, None)
        same(y, expected.float())
        same(last, v.float())


def a_sequence_equals_its_steps(host: Host) -> None:
    """A whole sequence gives what its single steps give."""
    for steps in (1, 2, 4, 7, 64):
        x = grid(steps, 2, 3, seed=steps)
        for neuron in (lif(), lif(hard=False), adaptive()):
            whole, last = host.forward(host.make(neuron), x, None)
            module, state, outputs = host.make(neuron), None, []
            for now in x:
                y, state = host.single(module, now, state)
                outputs.append(y)
            same(torch.stack(outputs), whole)
            same(state, last)


def chunks_equal_the_whole(host: Host) -> None:
    """A sequence that goes on from a state gives what the whole gives."""
    for neuron in (lif(), adaptive()):
        x, module = grid(9, 2, 3), host.make(neuron)
        whole, last = host.forward(module, x, None)
        host.reset(module)
        first, state = host.forward(module, x[:4], None)
        second, state = host.forward(module, x[4:], state)
        same(torch.cat([first, second]), whole)
        same(state, last)


def reset_starts_afresh(host: Host) -> None:
    """After a reset a module answers as a fresh one, for another shape too."""
    x, module = grid(5, 2, 3), host.make(adaptive())
    first, _ = host.forward(module, x, None)
    host.reset(module)
    second, _ = host.forward(module, x, None)
    same(second, first)
    host.reset(module)
    host.reset(module)
    other, _ = host.forward(module, grid(5, 7), None)
    assert other.shape == (5, 7)


def states_are_float32_for_16_bit_input(host: Host) -> None:
    """States have the precision that is computed in, outputs that of the input."""
    computed = {
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
        torch.float32: torch.float32,
        torch.float64: torch.float64,
    }
    for dtype, wide in computed.items():
        x, module = grid(6, 4).to(dtype), host.make(lif())
        y, (v,) = host.forward(module, x, None)
        assert y.dtype == dtype
        assert v.dtype == wide
        expected, (last,) = spikeloom.run(lif(), x.to(wide))
        same(y, expected.to(dtype))
        same(v, last)


def counts_and_events_are_promoted_as_torch_promotes_them(host: Host) -> None:
    """Integers and booleans are taken for numbers."""
    counts = torch.randint(0, 4, (6, 2, 3), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bool, torch.uint8, torch.int16, torch.int64):
        x = counts.to(dtype)
        y, (v,) = host.forward(host.make(lif(hard=False)), x, None)
        expected, (last,) = host.forward(host.make(lif(hard=False)), x.float(), None)
        assert y.dtype == torch.float32
        same(y, expected)
        same(v, last)
    tau = nn.Parameter(torch.tensor(2.0))
    y, (v,) = host.forward(host.make(lif(tau=tau)).double(), counts, None)
    assert y.dtype == v.dtype == torch.float64
    module, state, steps = host.make(lif(hard=False)), None, []
    for now in counts:
        s, state = host.single(module, now, state)
        steps.append(s)
    same(torch.stack(steps), host.forward(host.make(lif(hard=False)), counts.float(), None)[0])


def a_step_that_cannot_be_traced_runs_all_the_same(host: Host) -> None:
    """A step without a kernel runs eagerly."""

    def step(x: Any, state: Any, p: Any) -> Any:
        h = torch.tanh(state[0]) + x
        s = AtanSpike.apply(h - 1.0)
        return s, (h - s,)

    neuron = spikeloom.Neuron(step)
    assert neuron.program is None
    x = grid(4, 3)
    y, state = host.forward(host.make(neuron), x, None)
    expected, last = spikeloom.run(neuron, x, implementation="eager")
    same(y, expected)
    same(state, last)


def implementations_agree_and_are_honoured(host: Host) -> None:
    """An implementation is honoured or refused by its name."""
    x = grid(6, 4)
    eager, _ = host.forward(host.make(lif(), implementation="eager"), x, None)
    kernel, _ = host.forward(host.make(lif(), implementation="llvm"), x, None)
    same(kernel, eager)
    with raises(RuntimeError, match="cupy"):
        host.forward(host.make(lif(), implementation="cupy"), x, None)
    with raises(ValueError, match="implementation"):
        host.forward(host.make(lif(), implementation="fastest"), x, None)


def an_unknown_implementation_is_refused_when_it_is_set(host: Host) -> None:
    """An unknown implementation is refused when it is set, not when the module is called."""
    with raises(ValueError, match="must be one of auto, cupy, llvm, eager, got 'foo'"):
        host.make(lif(), implementation="foo")
    module: Any = host.make(lif(), implementation="eager")
    with raises(ValueError, match="got 'foo'"):
        module.implementation = "foo"
    assert module.implementation == "eager"


def unusual_shapes_work(host: Host) -> None:
    """Empty axes, views and many axes work."""
    for shape in ((5,), (5, 1), (3, 0), (3, 2, 0, 4), (1, 7), (2, 2, 3, 2, 2)):
        y, (v,) = host.forward(host.make(lif()), grid(*shape), None)
        assert y.shape == shape
        assert v.shape == shape[1:]
    views = (grid(4, 3, 5).transpose(1, 2), grid(8, 3)[::2], grid(6, 4).T)
    for x in (*views, grid(2, 3, 4, 5, 6)[0].contiguous(memory_format=torch.channels_last)):
        y, state = host.forward(host.make(lif()), x, None)
        expected, last = host.forward(host.make(lif()), x.clone().contiguous(), None)
        same(y, expected)
        same(state, last)


def no_steps_leave_the_state_alone(host: Host) -> None:
    """A sequence of no steps returns its state."""
    start = (grid(2, 3),)
    y, (v,) = host.forward(host.make(lif()), torch.empty(0, 2, 3), start)
    assert y.shape == (0, 2, 3)
    same(v, start[0])


def nan_is_never_silence(host: Host) -> None:
    """NaN is refused."""
    x = grid(4, 3)
    x[1, 1] = float("nan")
    with raises(ValueError, match="NaN"):
        host.forward(host.make(lif()), x, None)


CHECKS = (
    spikes_equal_the_reference,
    a_sequence_equals_its_steps,
    chunks_equal_the_whole,
    reset_starts_afresh,
    states_are_float32_for_16_bit_input,
    counts_and_events_are_promoted_as_torch_promotes_them,
    a_step_that_cannot_be_traced_runs_all_the_same,
    implementations_agree_and_are_honoured,
    an_unknown_implementation_is_refused_when_it_is_set,
    unusual_shapes_work,
    no_steps_leave_the_state_alone,
    nan_is_never_silence,
)
