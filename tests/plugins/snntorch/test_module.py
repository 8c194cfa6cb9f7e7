"""How a neuron of any description is called in snnTorch's way."""

import copy
import gc
import pickle
import weakref

import pytest
import snntorch as snn
import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons.surrogate import ATan
from spikeloom.plugins import snntorch

MECHANISMS = ("subtract", "zero", "none")


def drive(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5


def equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def synaptic_step(x, state, p):
    mem, syn = state
    syn = p.alpha * syn + x
    mem = p.beta * mem + syn
    return fire(mem - 1.0, ATan(), strict=True), (mem, syn)


def synaptic():
    """The neuron of snn.Synaptic without a reset."""
    params = {"alpha": 0.8, "beta": 0.5}
    return spikeloom.Neuron(synaptic_step, state=("mem", "syn"), params=params)


def summing_begin(x, state, p):
    return (state[0] + x,)


def halving_step(x, state, p):
    (v,) = state
    s = fire(v - 1.0)
    return s, (2.0 * (v - s),)


def summing():
    """A neuron that sums its input over time and then runs three steps of its own."""
    return spikeloom.Neuron(halving_step, begin=summing_begin, steps=3)


def hidden(**kw):
    return snntorch.Leaky(0.9, init_hidden=True, **kw)


# --- The call ---------------------------------------------------------------------------------


# 1
@pytest.mark.parametrize("rest", [(), (None,), (torch.zeros(0),), (torch.zeros(2, 3),)])
def test_a_step_returns_spikes_and_mem_and_starts_at_rest(rest):
    x = drive(2, 3)
    spk, mem = snntorch.Leaky(0.9)(x, *rest)
    expected, after = snn.Leaky(0.9)(x, torch.zeros(2, 3))
    equal(spk, expected)
    equal(mem, after)


def loops(call, x):
    """Spikes and the gradient of the input, over steps that are told nothing of the state."""
    x = x.clone().requires_grad_()
    spikes = [call(step) for step in x]
    (torch.stack(spikes) * torch.linspace(-1, 1, x.numel()).reshape(x.shape)).sum().backward()
    return torch.stack(spikes).detach(), x.grad


# 1
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset_mechanism", MECHANISMS)
def test_a_step_without_mem_goes_on_from_the_neurons_own_as_in_the_host(
    reset_mechanism, reset_delay
):
    kw = {"beta": 0.8, "reset_mechanism": reset_mechanism, "reset_delay": reset_delay}
    own, host, x = snntorch.Leaky(**kw), snn.Leaky(**kw), drive(12, 2, 3)
    spikes, gradient = loops(lambda step: own(step)[0], x)
    expected, reference = loops(lambda step: host(step)[0], x)
    equal(spikes, expected)
    equal(own.mem, host.mem)
    torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-6)
    assert spikes.any() and gradient.any()


# 1
def test_calls_with_and_without_mem_mix_as_in_the_host():
    x, answers = drive(9, 2, 3), []
    for lif in (snntorch.Leaky(0.8), snn.Leaky(0.8)):
        with torch.no_grad():
            found = [lif(x[0]), lif(x[1], torch.full((2, 3), 0.75)), lif(x[2]), lif(x[3], mem=None)]
            lif.mem = torch.full((2, 3), 0.25)
            found += [lif(x[4]), lif(x[5], torch.zeros(0)), lif(x[6])]
            found += [lif(x[7, :1]), lif(x[8, :1])]  # another size starts at rest
            lif.reset_mem()
            found.append(lif(x[0]))
        answers.append(found)
    equal(*answers)


# 1
def test_a_second_state_is_carried_as_in_the_host():
    host, own = snn.Synaptic(0.8, 0.5, reset_mechanism="none"), snntorch.make(synaptic())
    for x in drive(9, 2, 3):
        equal(own(x), host(x))
        equal((own.syn, own.mem), (host.syn, host.mem))


# 1
def test_the_graph_of_a_mem_that_is_carried_on_is_freed_as_in_the_host():
    x = drive(2, 2, 3)
    for lif in (snntorch.Leaky(0.8, learn_beta=True), snn.Leaky(0.8, learn_beta=True)):
        lif(x[0])[0].sum().backward()
        with pytest.raises(RuntimeError, match=r"freed|second time"):
            lif(x[1])[0].sum().backward()
        lif.reset_mem()
        lif(x[1])[0].sum().backward()


# 1
@pytest.mark.parametrize("time_first", [False, True])
def test_a_sequence_without_states_starts_at_rest_or_where_mem_was_set(time_first):
    own, x = snntorch.Leaky(0.8, time_first=time_first), drive(5, 2, 3)
    first = own.sequence(x)
    equal(own.sequence(x), first)
    equal(own.mem, first[1])
    start = torch.full((2, 3), 0.75)
    own.mem = start
    equal(own.sequence(x), own.sequence(x, start))
    equal(own.sequence(x), first)


# 1
def test_a_step_follows_a_sequence():
    own, x = snntorch.Leaky(0.8), drive(6, 2, 3)
    own.sequence(x[:5])
    equal(own(x[5])[1], snntorch.Leaky(0.8).sequence(x)[1])


def test_transformations_and_exports_leave_no_state_behind():
    own, x = snntorch.Leaky(0.8), drive(3, 2, 3)
    first = own(x[0])
    own.reset_mem()
    torch.func.grad(lambda step: own(step)[1].sum())(x[0])
    torch.func.vmap(lambda step: own(step)[0])(x)
    assert own.mem.shape == (0,)
    torch.export.export(own, (x[0],), strict=False)
    assert own.mem.shape == (0,)
    equal(own(x[0]), first)


def test_rest_is_what_the_neuron_calls_rest():
    own = snntorch.make(neurons.LIF(v_reset=0.5, v_threshold=2.0))
    equal(own(torch.zeros(1), own.reset_mem()), (torch.zeros(1), torch.tensor([0.5])))


# 2
def test_hidden_states_are_kept_and_returned_only_with_output():
    x, quiet, open_ = drive(20, 2, 3), hidden(), hidden(output=True)
    host = snn.Leaky(0.9, init_hidden=True, output=True)
    for step in x:
        expected, after = host(step)
        equal(quiet(step), expected)
        equal(open_(step), (expected, after))
        equal(quiet.mem, after)


# 2
@pytest.mark.parametrize("time_first", [False, True])
def test_passing_mem_beside_hidden_states_is_a_type_error(time_first):
    x, own = drive(1, 2, 3), hidden(time_first=time_first)
    with pytest.raises(TypeError, match="init_hidden=True"):
        own(x, torch.zeros(2, 3))
    with pytest.raises(TypeError, match="init_hidden=True"):
        own(x, mem=torch.zeros(2, 3))
    own(x, None)


def test_several_states_come_in_the_order_of_the_host_with_mem_last():
    host, own, x = snn.Synaptic(0.8, 0.5, reset_mechanism="none"), snntorch.make(synaptic()), None
    syn, mem = torch.zeros(2, 3), torch.zeros(2, 3)
    state = (None, None)
    for x in drive(30, 2, 3):
        expected, syn, mem = host(x, syn, mem)
        spk, *state = own(x, *state)
        equal(spk, expected)
        equal(state, [syn, mem])
    equal(own(x, syn, mem=mem), own(x, syn, mem))
    assert own.sequence(drive(4, 2, 3), record=True)[-1].shape == (4, 2, 3)


def test_incomplete_states_are_refused_by_name():
    own, x = snntorch.make(synaptic()), drive(2, 3)
    for states in ((x,), (x, None), (None, x), (x, x, x)):
        with pytest.raises(ValueError, match=r"all its states \(syn, mem\)"):
            own(x, *states)


# 3
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset_mechanism", MECHANISMS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_sequence_equals_its_steps(steps, reset_mechanism, reset_delay):
    kw = {"beta": 0.8, "reset_mechanism": reset_mechanism, "reset_delay": reset_delay}
    x, own, mem = drive(steps, 2, 3), snntorch.Leaky(**kw), None
    spk_rec, mem_rec = [], []
    for step in x:
        spk, mem = own(step, mem)
        spk_rec.append(spk)
        mem_rec.append(mem)
    spk, last, own_rec = own.sequence(x, record=True)
    equal(spk, torch.stack(spk_rec))
    equal(own_rec, torch.stack(mem_rec))
    equal(last, mem)
    equal(snntorch.Leaky(**kw, time_first=True)(x), (spk, last))
    equal(snntorch.Leaky(**kw, time_first=True, init_hidden=True)(x), spk)


# 4
def test_chunks_with_carried_mem_equal_one_call_and_so_do_gradients():
    def gradient(cuts, keep):
        own = snntorch.Leaky(0.8, learn_beta=True, init_hidden=keep, output=True)
        x, mem, total = drive(9, 2, 3).requires_grad_(), None, torch.zeros(())
        for chunk in x.split(cuts):
            spk, mem = own.sequence(chunk) if keep else own.sequence(chunk, mem)
            total = total + spk.sum()
        (total + mem.square().sum()).backward()
        return total.detach(), mem.detach(), x.grad, own.beta.grad

    whole = gradient([9], keep=False)
    for cuts in ([4, 5], [1, 7, 1], [1] * 9):
        for keep in (False, True):
            torch.testing.assert_close(gradient(cuts, keep), whole, rtol=1e-5, atol=1e-6)


def test_a_recorded_mem_is_returned_last():
    x, own = drive(5, 2, 3), hidden()
    spk, mem_rec = own.sequence(x, record=True)
    equal(mem_rec[-1], own.mem)
    own.reset_mem()
    equal(own.sequence(x), spk)


def test_a_neuron_that_sums_its_input_takes_sequences_only():
    own = snntorch.make(summing())
    assert own.time_first
    x = torch.full((4, 1), 0.5)
    spk, v = own(x)
    expected, (last,) = spikeloom.run(summing(), x)
    equal((spk, v), (expected, last))
    assert spk.shape == (3, 1)
    with pytest.raises(ValueError, match="leave time_first out"):
        snntorch.make(summing(), time_first=False)


def test_a_neuron_with_several_inputs_takes_a_tuple():
    def step(x, state, p):
        a, b = x
        (v,) = state
        return fire(v + a - b), (v + a - b,)

    own = snntorch.make(spikeloom.Neuron(step, inputs=2))
    a, b = drive(2, 3), drive(2, 3, seed=1)
    equal(own((a, b))[1], a - b)
    own.reset_mem()
    spk, v = own((a, b))
    equal(own.sequence((a[None], b[None])), (spk[None], v))


def test_a_neuron_without_state_returns_spikes_alone():
    own = snntorch.make(spikeloom.Neuron(lambda x, state, p: (fire(x), ()), state=()))
    equal(own(torch.tensor([-1.0, 1.0])), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="no state to record"):
        own.sequence(torch.ones(2, 1), record=True)


# 12
@pytest.mark.parametrize("time_first", [False, True])
def test_it_works_in_sequential_with_the_last_layer_returning_its_state(time_first):
    kw = {"init_hidden": True, "time_first": time_first}
    first, last = nn.Linear(5, 4), nn.Linear(4, 2)
    own = nn.Sequential(
        first, snntorch.Leaky(0.9, **kw), last, snntorch.Leaky(0.8, output=True, **kw)
    )
    host = nn.Sequential(
        first,
        snn.Leaky(0.9, init_hidden=True),
        last,
        snn.Leaky(0.8, init_hidden=True, output=True),
    )
    x = drive(6, 3, 5) * 3
    expected = [host(step) for step in x]
    if time_first:
        spk, mem = own(x)
        # One product for all steps is rounded in another order than a product a step.
        assert (spk != torch.stack([s for s, _ in expected])).float().mean() < 0.05
        torch.testing.assert_close(mem, expected[-1][1], rtol=1e-4, atol=1e-4)
    else:
        for step, answer in zip(x, expected, strict=True):
            equal(own(step), answer)


# --- State, copies and devices ----------------------------------------------------------------


# 15
def test_reset_mem_before_the_first_call_returns_a_usable_state():
    for own in (snntorch.Leaky(0.9), snntorch.make(synaptic())):
        x, state = drive(2, 3), own.reset_mem()
        states = state if isinstance(state, tuple) else (state,)
        assert [s.shape for s in states] == [(0,)] * len(own.neuron.rest)
        first = own(x, *states)
        own.reset_mem()
        equal(own(x), first)
    assert snntorch.Leaky(0.9).init_leaky().shape == (0,)


# 15
def test_reset_mem_serves_batches_of_different_size():
    own = hidden()
    for batch in (4, 2):
        own.reset_mem()
        assert own(drive(batch, 3)).shape == (batch, 3)


# 15
def test_reset_hidden_and_detach_hidden_reach_the_neurons_of_a_class():
    leaky, other = hidden(), snntorch.make(neurons.LIF(), init_hidden=True)
    x = drive(2, 3).requires_grad_()
    leaky(x), other(x)
    assert leaky.mem.requires_grad
    snntorch.Leaky.detach_hidden()
    assert not leaky.mem.requires_grad
    assert other.mem.requires_grad
    snntorch.Leaky.reset_hidden()
    assert leaky.mem.shape == (0,)
    assert other.mem.shape == (2, 3)
    snntorch.SpikingModule.reset_hidden()
    assert other.mem.shape == (0,)


# 15
def test_class_wide_calls_reach_copies():
    own = hidden()
    own(drive(2, 3))
    twin = copy.deepcopy(own)
    snntorch.Leaky.reset_hidden()
    assert twin.mem.shape == own.mem.shape == (0,)


# 16
def test_a_deleted_neuron_is_gone():
    before = len(snn.SpikingNeuron.instances)
    own = hidden()
    own(drive(2, 3))
    trace, alive = weakref.ref(own), len(snntorch.SpikingModule._live)
    del own
    gc.collect()
    assert trace() is None
    assert len(snntorch.SpikingModule._live) < alive
    assert len(snn.SpikingNeuron.instances) == before


# 17
@pytest.mark.parametrize("spike_grad", [None, torch.sigmoid], ids=["kernel", "eager"])
def test_copies_and_pickles_after_a_gradient_are_independent(spike_grad):
    own, x = hidden(learn_beta=True, spike_grad=spike_grad), drive(3, 2, 3)
    own(x[0]).sum().backward()
    own(x[1])
    kept = own.mem.detach().clone()
    for twin in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        equal(twin.mem, kept)
        assert not twin.mem.requires_grad
        twin(x[2]).sum().backward()
        with torch.no_grad():
            twin.beta.fill_(0.1)
        equal(own.mem, kept)
        assert own.beta.item() == pytest.approx(0.9)
        twin.reset_mem()
        assert own.mem.shape == (2, 3)


def training_step(own, x):
    spk = torch.stack([own(step) for step in x])
    spk.sum().backward()


# 18
def test_two_training_iterations_run_with_a_reset_between_them():
    own = hidden(learn_beta=True)
    for _ in range(2):
        snntorch.reset(own)
        training_step(own, drive(4, 2, 3))
    assert own.beta.grad is not None


# 18
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("kw", [{}, {"implementation": "eager"}], ids=["kernel", "eager"])
def test_without_a_reset_the_error_names_it(kw, time_first, reset_delay):
    kw = {"learn_beta": True, "reset_delay": reset_delay, "time_first": time_first, **kw}
    net = nn.Sequential(nn.Linear(3, 3), hidden(**kw), nn.Linear(3, 3), hidden(**kw))
    x = drive(4, 2, 3)

    def step():
        spk = net(x) if time_first else torch.stack([net(now) for now in x])
        spk.sum().backward()

    step()
    with pytest.raises(RuntimeError, match=r"snntorch\.reset\(net\)"):
        step()
    snntorch.reset(net)
    step()


# 18
@pytest.mark.parametrize("implementation", ["llvm", "eager"])
def test_a_graph_that_is_kept_may_be_used_again(implementation):
    x, own = drive(3, 2, 3), hidden(learn_beta=True, implementation=implementation)
    loss = own(x[0]).sum() + own(x[1]).sum()
    loss.backward(retain_graph=True)
    (loss + own(x[2]).sum()).backward()
    once = snntorch.Leaky(0.9, learn_beta=True)
    spk, _ = once.sequence(x)
    (2 * spk[:2].sum() + spk[2].sum()).backward()
    torch.testing.assert_close(own.beta.grad, once.beta.grad)


# 18
def test_truncated_training_detaches():
    own = hidden(learn_beta=True)
    for chunk in drive(8, 2, 3).split(4):
        training_step(own, chunk)
        snntorch.Leaky.detach_hidden()


# 18
def test_a_forward_pass_alone_may_go_on_after_a_backward_pass():
    own, x = hidden(learn_beta=True), drive(2, 4, 2, 3)
    training_step(own, x[0])
    going_on = [own(step) for step in x[1]]
    equal(torch.stack(going_on), snntorch.Leaky(0.9).sequence(x.flatten(0, 1))[0][4:])


# 19
def test_another_batch_size_in_mid_sequence_is_an_error_that_names_the_remedy():
    own = hidden()
    own(drive(4, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(2, 3\).*reset\(net\)"):
        own(drive(2, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(2, 3\).*mem=None"):
        snntorch.Leaky(0.9)(drive(2, 3), drive(4, 3))
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        snntorch.Leaky(0.9)(drive(2, 3), drive(1, 3))
    own.reset_mem()
    own(drive(2, 3))


# 23, 24
def test_a_narrower_mem_is_widened_and_a_wider_one_refused():
    own, x = snntorch.Leaky(0.9), drive(2, 3)
    mem = torch.full((2, 3), 0.25)
    equal(own(x, mem.bfloat16()), own(x, mem))
    assert own(x.double(), mem)[1].dtype == torch.float64
    with pytest.raises(TypeError, match="float64"):
        own(x, mem.double())


# 24
def test_state_and_parameters_move_with_the_module():
    own = hidden(learn_beta=True)
    own(drive(2, 3))
    own.double()
    assert own.beta.dtype == own.threshold.dtype == own.mem.dtype == torch.float64
    assert own(drive(2, 3).double()).dtype == torch.float64
    own.to("meta")
    assert own.beta.device.type == own.mem.device.type == "meta"


# 24
def test_a_hidden_state_follows_the_input_to_its_device():
    own, x = snntorch.make(neurons.LIF(), init_hidden=True), drive(2, 3)
    own(x)
    assert own(x.to("meta")).is_meta
    assert own.mem.is_meta


# 25
# torch itself looks at .grad of the hidden state that enters the second call.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("kw", [{}, {"init_hidden": True, "output": True}, {"time_first": True}])
def test_dynamo_finds_no_graph_break(kw):
    torch._dynamo.reset()
    own, x = snntorch.Leaky(0.9, learn_beta=True, **kw), drive(2, 2, 3)
    assert torch._dynamo.explain(own)(x).graph_break_count == 0

    def two_calls(module):
        snntorch.reset(own)
        own.zero_grad()
        answers = [module(x), module(x)]
        answers[-1][-1].sum().backward()
        return answers, own.beta.grad.clone()

    compiled = torch.compile(own, backend="eager", fullgraph=True)
    torch.testing.assert_close(two_calls(compiled), two_calls(own), rtol=1e-6, atol=1e-6)


def test_repr_shows_the_neuron_and_how_it_is_called():
    text = repr(snntorch.make(neurons.LIF(tau=3.0), init_hidden=True, time_first=True))
    for part in ("LIF(tau=3.0", "init_hidden=True", "time_first=True", "implementation='auto'"):
        assert part in text


def test_a_class_of_its_own_is_three_lines():
    class Trace(snntorch.SpikingModule, describes=neurons.Trace):
        """A linear filter."""

    own, x = Trace(0.5, init_hidden=True, time_first=True), drive(6, 2, 3)
    equal(own(x), spikeloom.run(neurons.Trace(0.5), x)[0])
    with pytest.raises(TypeError, match="dacay"):
        Trace(dacay=0.5)


def test_a_hidden_mem_may_be_set_as_truncated_training_does():
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    results = []
    for lif in (snntorch.Leaky(0.9, init_hidden=True), snn.Leaky(0.9, init_hidden=True)):
        first = x[0].clone().requires_grad_()
        lif(first)
        lif.mem = lif.mem.detach()
        later = x[1].clone().requires_grad_()
        lif(later).sum().backward()
        assert first.grad is None
        lif.mem = torch.full((2, 3), 0.75)
        results.append((lif(x[2]), lif.mem, later.grad))
        lif.mem = torch.zeros(0)
        assert lif(x[3, :1]).shape == (1, 3)
    for own, theirs in zip(*results, strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-6)


def test_setting_mem_leaves_other_states_where_they_are():
    def slow(x, state, p):
        v, a = state
        return v + a, (v + x, a + 1.0)

    neuron = snntorch.make(
        spikeloom.Neuron(slow, state={"v": 0.0, "a": 2.0}), init_hidden=True, output=True
    )
    neuron.mem = torch.ones(1, 2)
    y, a, _ = neuron(torch.zeros(1, 2))
    assert y.tolist() == [[3.0, 3.0]] and a.tolist() == [[3.0, 3.0]]
    neuron.mem = torch.zeros(1, 2)
    assert neuron(torch.zeros(1, 2))[0].tolist() == [[3.0, 3.0]]


def test_a_mem_that_cannot_be_is_refused():
    stateless = snntorch.make(spikeloom.Neuron(lambda x, state, p: (fire(x), ()), state=()))
    with pytest.raises(AttributeError, match="has no state"):
        stateless.mem = torch.zeros(1)
    for lif in (snntorch.Leaky(0.9), hidden()):
        with pytest.raises(TypeError, match=r"mem must be a tensor, got 0\.5"):
            lif.mem = 0.5


@pytest.mark.parametrize("arguments", [{"beta": 0.5}, {"tau": 2.0}])
def test_arguments_beside_a_description_are_refused_with_the_remedy(arguments):
    with pytest.raises(TypeError, match=f"got {next(iter(arguments))}; change it with neuron.rep"):
        snntorch.make(spikeloom.neurons.LIF(), **arguments)
