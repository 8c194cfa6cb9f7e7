"""What a neuron has to do on every host, whatever the host's conventions.

A host's tests describe the host once and run every check on it, with pytest or without::

    HOST = Host("norse", norse.make, forward=..., reset=...)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(HOST)

Each check raises an AssertionError if the host does not keep to it. The reference loops below are
plain torch in float64. Inputs lie on a grid of 1/8 and tau is 2, so float32 computes them without
rounding, and many potentials meet the threshold exactly.
"""

from __future__ import annotations

import copy
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import spikeloom
from spikeloom import compress, neurons, verify
from spikeloom.hosted import made, output_of, spikes_from_rest, to_rest
from spikeloom.kernel.vocabulary import fire
from spikeloom.modules import registered
from spikeloom.neurons.surrogate import ATan

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Host:
    """How to use one host's nodes without knowing the host.

    Attributes:
        name: The host's name among ``spikeloom.plugins``.
        make: The plugin's ``make(neuron, **kw)``; ``kw`` is at most ``implementation``.
        forward: ``forward(module, x, state) -> (y, state)`` over a whole sequence ``[T, ...]``.
            States are a tuple in the neuron's order. ``state=None`` is the module's own state:
            at rest when the module is fresh or was reset.
        reset: Puts the module's own state back to rest; does nothing where there is none.
        step: The same as ``forward`` for one step, ``x`` without the time axis, in the host's own
            single-step form. Without it, sequences of one step stand in.
    """

    name: str
    make: Callable[..., nn.Module]
    forward: Callable[[nn.Module, Any, State | None], tuple[Any, State]]
    reset: Callable[[nn.Module], None]
    step: Callable[[nn.Module, Tensor, State | None], tuple[Any, State]] | None = None

    def single(self, module: nn.Module, x: Tensor, state: State | None) -> tuple[Any, State]:
        """One step in the host's own form."""
        if self.step is not None:
            return self.step(module, x, state)
        y, state = self.forward(module, x[None], state)
        return y[0], state


# --- Neurons and their independent references -----------------------------------------------


class AtanSpike(torch.autograd.Function):
    """Fires at u >= 0; differentiates like ``ATan(2.0)``."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        """The spike."""
        ctx.save_for_backward(u)
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The derivative of ``ATan(2.0)``."""
        (u,) = ctx.saved_tensors
        return grad / (1 + (math.pi * u) ** 2)


def lif_loop(
    x: Tensor, state: State, tau: Tensor, *, hard: bool, detach: bool
) -> tuple[Tensor, State]:
    """Leaky integrate-and-fire in float64: threshold 1, reset to 0 or by subtraction."""
    (v,) = state
    spikes = []
    for now in x:
        h = v + (now - v) / tau
        s = AtanSpike.apply(h - 1.0)
        reset = s.detach() if detach else s
        v = h * (1 - reset) if hard else h - reset
        spikes.append(s)
    return torch.stack(spikes), (v,)


def lif(*, hard: bool = True, detach: bool = False, tau: float | Tensor = 2.0) -> neurons.LIF:
    """The neuron that ``lif_loop`` computes."""
    v_reset = 0.0 if hard else None
    return neurons.LIF(tau, v_reset=v_reset, detach_reset=detach, surrogate=ATan())


def adaptive_step(x: Any, state: Any, p: Any) -> Any:
    """A neuron as a user writes it: each spike raises the threshold, which then sinks back."""
    v, a = state
    h = v + (x - v) / p.tau
    s = fire(h - 1.0 - a, ATan())
    return s, (h * (1.0 - s), 0.5 * a + p.rise * s)


def adaptive(**params: Any) -> spikeloom.Neuron:
    """The user's neuron: two states, two parameters."""
    return spikeloom.Neuron(
        adaptive_step, state=("v", "a"), params={"tau": 2.0, "rise": 0.5, **params}
    )


def adaptive_loop(x: Tensor, state: State, rise: Tensor) -> tuple[Tensor, State]:
    """The user's neuron in float64."""
    v, a = state
    spikes = []
    for now in x:
        h = v + (now - v) / 2
        s = AtanSpike.apply(h - 1.0 - a)
        v, a = h * (1 - s), 0.5 * a + rise * s
        spikes.append(s)
    return torch.stack(spikes), (v, a)


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/8 between -2 and 4: potentials often equal the threshold."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-16, 33, shape, generator=generator) / 8


def same(first: Any, second: Any) -> None:
    """Equal to the last bit."""
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def close(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    """Equal in float64 but for rounding."""
    torch.testing.assert_close(first.double(), second, rtol=tolerance, atol=tolerance)


@contextmanager
def raises(error: type[Exception], match: str) -> Iterator[None]:
    """Fail unless the block raises such an error, whose message has this pattern in it."""
    try:
        yield
    except error as found:
        assert re.search(match, str(found)), f"{match!r} is not in {found!s}"
    else:
        raise AssertionError(f"no {error.__name__} with {match!r}")


# --- Checks -----------------------------------------------------------------------------------


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


def gradients_equal_the_reference(host: Host) -> None:
    """Gradients of input, state and parameter are those of the loop."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        for hard in (True, False):
            for detach in (True, False):
                x, v = grid(8, 3, 4), grid(3, 4, seed=1)
                leaves = [t.double().requires_grad_() for t in (x, v, torch.tensor(2.0))]
                y, (last,) = lif_loop(leaves[0], (leaves[1],), leaves[2], hard=hard, detach=detach)
                (y * weight(y) + last).sum().backward()

                module = host.make(
                    lif(hard=hard, detach=detach, tau=nn.Parameter(torch.tensor(2.0)))
                ).to(dtype)
                (tau,) = module.parameters()
                x, v = (t.to(dtype).requires_grad_() for t in (x, v))
                y, (last,) = host.forward(module, x, (v,))
                (y * weight(y) + last).sum().backward()
                for own, reference in zip((x, v, tau), leaves, strict=True):
                    close(own.grad, reference.grad, tolerance)


def weight(y: Tensor) -> Tensor:
    """Distinct weights, so that no two gradients cancel."""
    return torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)


def a_second_backward_pass_names_the_remedy(host: Host) -> None:
    """A state of an earlier graph is refused with the remedy."""
    for implementation in ("llvm", "eager"):
        module = host.make(lif(tau=nn.Parameter(torch.tensor(2.0))), implementation=implementation)
        first, second = grid(6, 2, 3).split(3)
        y, state = host.forward(module, first, None)
        y.sum().backward()
        y, _ = host.forward(module, second, state)
        with raises(RuntimeError, match=r"reset_net\(net\).*reset\(net\).*state=None"):
            y.sum().backward()
        host.reset(module)
        y, state = host.forward(module, first, None)
        y.sum().backward(retain_graph=True)
        y, _ = host.forward(module, second, state)
        y.sum().backward()


def a_checkpointed_region_has_the_gradients_of_the_plain_one(host: Host) -> None:
    """A checkpointed call gives the same gradients."""

    def gradients(call: Callable[..., Any]) -> Any:
        module = host.make(lif(tau=nn.Parameter(torch.tensor(2.0))))
        x, state = grid(8, 2, 3).requires_grad_(), None
        y, state = call(host.forward, module, x[:4], None)
        z, (v,) = call(host.forward, module, x[4:], state)
        (torch.cat([y, z]) * weight(x) + v).sum().backward()
        return x.grad, [parameter.grad for parameter in module.parameters()]

    plain = gradients(lambda f, *args: f(*args))
    same(gradients(lambda f, *args: checkpoint(f, *args, use_reentrant=False)), plain)


def per_neuron_parameters_learn(host: Host) -> None:
    """A Parameter with a value for each neuron is learned."""
    tau = nn.Parameter(torch.tensor([2.0, 4.0, 8.0]))
    x, module = grid(8, 2, 3), host.make(lif(tau=tau))
    (own,) = module.parameters()
    assert own.shape == (3,)
    y, (v,) = host.forward(module, x, None)
    (y * weight(y) + v).sum().backward()
    reference = tau.detach().double().requires_grad_()
    start = (torch.zeros(2, 3).double(),)
    z, (w,) = lif_loop(x.double(), start, reference, hard=True, detach=False)
    same(y, z.float())
    (z * weight(z) + w).sum().backward()
    close(own.grad, reference.grad)


def a_neuron_of_the_user_trains(host: Host) -> None:
    """A step that a user wrote runs and trains."""
    module = host.make(adaptive(rise=nn.Parameter(torch.tensor(0.5))))
    (rise,) = module.parameters()
    x = grid(10, 2, 3).requires_grad_()
    y, state = host.forward(module, x, None)
    (y * weight(y) + sum(state)).sum().backward()

    z = x.detach().double().requires_grad_()
    reference = torch.tensor(0.5).double().requires_grad_()
    start = (torch.zeros(2, 3).double(),) * 2
    spikes, last = adaptive_loop(z, start, reference)
    (spikes * weight(spikes) + sum(last)).sum().backward()
    same(y, spikes.float())
    close(x.grad, z.grad)
    close(rise.grad, reference.grad)


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


def copies_and_pickles_are_independent(host: Host) -> None:
    """Copies and pickles compute the same with tensors of their own."""
    x = grid(5, 2, 3).requires_grad_()
    # A step defined at module level, as pickle needs it.
    module = host.make(adaptive(rise=nn.Parameter(torch.tensor(0.5))))
    y, _ = host.forward(module, x, None)
    y.sum().backward()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        host.reset(twin)
        again, _ = host.forward(twin, x, None)
        same(again, y)
        assert not set(map(id, twin.parameters())) & set(map(id, module.parameters()))


def saved_parameters_load_into_a_fresh_node(host: Host) -> None:
    """A state_dict loads into another module."""

    def fresh(rise: float) -> nn.Module:
        return host.make(adaptive(rise=nn.Parameter(torch.tensor(rise))))

    module, other = fresh(0.25), fresh(0.75)
    host.forward(module, grid(3, 4), None)
    other.load_state_dict(module.state_dict(), strict=True)
    x = grid(6, 9)
    host.reset(module)
    same(host.forward(other, x, None), host.forward(module, x, None))


def only_neurons_are_accepted(host: Host) -> None:
    """What is no description is refused."""
    with raises(TypeError, match="neuron"):
        host.make(nn.ReLU())


def tracers_never_look_inside(host: Host) -> None:
    """Tracers take a module as one thing."""
    assert getattr(host.make(lif()), "_is_leaf_module", False) is True


def components_are_listed(host: Host) -> None:
    """The host's classes are listed with their method and paper."""
    plugins = import_module("spikeloom.plugins")
    module = getattr(plugins, host.name)
    own = [component for component in plugins.components() if component.host == host.name]
    assert own
    for component in own:
        assert getattr(module, component.name) is component.cls
        assert component.method
        assert component.paper
        assert component.cls.__doc__


# --- What the rest of the package makes of its modules -----------------------------------------


class Network(nn.Module):
    """Weights, a neuron, and weights again; states stay with the neuron."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.neuron, self.second = nn.Linear(3, 6), neuron, nn.Linear(6, 2)
        for weight in (*self.first.parameters(), *self.second.parameters()):
            weight.data = torch.randint(-4, 9, weight.shape, generator=generator) / 4
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """``[T, batch, 3]`` to ``[T, batch, 2]``."""
        y: Tensor = self.second(output_of(self.neuron(self.first(x))))
        return y


def its_class_states_its_conventions(host: Host) -> None:
    """It is known how the host's modules take time and state."""
    assert registered(type(host.make(lif()))) is not None


def made_for_a_recipe_it_takes_sequences_from_rest(host: Host) -> None:
    """Recipes, models and imported graphs take ``make=`` of the host."""
    for neuron in (lif(), lif(hard=False), adaptive(), neurons.OAT(4, normal=1.0, outlier=8.0)):
        x, module = grid(7, 2, 3), made(host.make, neuron)
        expected, _ = spikeloom.run(neuron, x)
        for _ in range(2):
            same(spikes_from_rest(module, x), expected)


def a_network_is_put_back_to_rest(host: Host) -> None:
    """``to_rest`` reaches it inside a network, whatever it was called with."""
    x, module = grid(5, 2, 3), host.make(adaptive())
    first, _ = host.forward(module, x, None)
    to_rest(nn.ModuleList([module]))
    second, _ = host.forward(module, x, None)
    same(second, first)


def calibration_sees_its_steps_and_its_decay(host: Host) -> None:
    """The compressor finds steps, samples and decay, and the Hessians that belong to them."""
    x = grid(7, 5, 3)
    found, expected = (
        compress.calibrate(Network(made(make, lif(tau=4.0))), x)
        for make in (host.make, spikeloom.SpikingLayer)
    )
    assert str(found) == str(expected), f"{found}\ninstead of\n{expected}"
    for name in expected:
        for own, other in zip(found[name].spiking, expected[name].spiking, strict=True):
            torch.testing.assert_close(own.hessian, other.hessian)


def its_spikes_are_counted(host: Host) -> None:
    """The energy report has a row for it, with its spikes."""
    x = grid(7, 5, 3)
    net = Network(made(host.make, lif()))
    spikes, _ = spikeloom.run(lif(), net.first(x).detach())
    report = verify.count_energy(net, x)
    (row,) = (row for row in report.rows if row[0] == "neuron")
    assert row[1] == type(net.neuron).__name__ and row[2] == float(spikes.sum()) / 5
    assert report.steps == 7


def it_is_written_as_nir_and_read_back(host: Host) -> None:
    """The exporter takes it for its neuron, and an imported graph is made of it again."""
    export = import_module("spikeloom.export")
    x = grid(7, 5, 3)
    net = Network(made(host.make, lif()))
    graph, report = export.to_nir(net, x)
    assert report.mismatch == 0 and {"LIF"} < {type(n).__name__ for n in graph.nodes.values()}
    to_rest(net)
    expected, again = net(x), export.from_nir(graph, make=host.make)
    for _ in range(2):
        torch.testing.assert_close(output_of(again(x)), expected)


FOREIGN = {"cupy", "triton", "nir", "nirtorch", "lava", "torchvision", "matplotlib", "transformers"}


def importing_it_imports_nothing_foreign(host: Host) -> None:
    """The host is imported without other frameworks."""
    others = {"spikingjelly", "snntorch", "norse"} - {host.name}
    _python(
        # torch's compiler brings Triton along, where a release of it is installed
        "import sys, importlib, torch._dynamo, spikeloom.plugins",
        f"importlib.import_module({host.name!r})",
        "before = set(sys.modules)",
        f"importlib.import_module('spikeloom.plugins.{host.name}')",
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}",
        f"assert not new & {FOREIGN | others!r}, new",
    )


def a_missing_host_is_one_clear_error(host: Host) -> None:
    """A framework that is not installed is named with the remedy."""
    remedy = f'pip install "spikeloom[{host.name}]"'
    _python(
        "import sys",
        f"sys.modules[{host.name!r}] = None",  # as if it were not installed
        "import spikeloom, spikeloom.plugins as plugins",
        "plugins.components()",
        f"try: plugins.{host.name}",
        f"except ImportError as error: assert {remedy!r} in str(error), error",
        "else: raise AssertionError('no ImportError')",
    )


def _python(*lines: str) -> None:
    """Run lines in a Python of their own, where nothing is imported yet."""
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CHECKS = (
    spikes_equal_the_reference,
    a_sequence_equals_its_steps,
    chunks_equal_the_whole,
    reset_starts_afresh,
    states_are_float32_for_16_bit_input,
    counts_and_events_are_promoted_as_torch_promotes_them,
    gradients_equal_the_reference,
    a_second_backward_pass_names_the_remedy,
    a_checkpointed_region_has_the_gradients_of_the_plain_one,
    per_neuron_parameters_learn,
    a_neuron_of_the_user_trains,
    a_step_that_cannot_be_traced_runs_all_the_same,
    implementations_agree_and_are_honoured,
    an_unknown_implementation_is_refused_when_it_is_set,
    unusual_shapes_work,
    no_steps_leave_the_state_alone,
    nan_is_never_silence,
    copies_and_pickles_are_independent,
    saved_parameters_load_into_a_fresh_node,
    only_neurons_are_accepted,
    tracers_never_look_inside,
    its_class_states_its_conventions,
    made_for_a_recipe_it_takes_sequences_from_rest,
    a_network_is_put_back_to_rest,
    calibration_sees_its_steps_and_its_decay,
    its_spikes_are_counted,
    it_is_written_as_nir_and_read_back,
    components_are_listed,
    importing_it_imports_nothing_foreign,
    a_missing_host_is_one_clear_error,
)
