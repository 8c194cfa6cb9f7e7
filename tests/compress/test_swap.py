"""Results reach all layers or none, wherever an interrupt strikes."""

import copy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, neurons
from spikeloom.compress import buffers as buffers_module
from spikeloom.compress import compression
from spikeloom.compress import swap as swap_module
from tests.compress.cases import spikes

X = spikes(4, 6, 5)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), SpikingLayer(neurons.LIF()), nn.Linear(4, 3)).eval()


NET = network()
STATS = compress.calibrate(NET, [X])
CALLS = {
    "prune": lambda net: compress.prune(net, STATS, 0.5, "magnitude"),
    "quantize": lambda net: compress.quantize(net, STATS, 3, "rtn"),
}


def same(net, other):
    mine, theirs = net.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


# Where results are made ready and written.
FILES = {Path(module.__file__) for module in (compression, swap_module, buffers_module)}


def interrupted_at_line(call, line):
    """Run a call that is interrupted at so many lines of these files; whether it was."""
    passed, struck = 0, False

    def trace(frame, event, argument):
        nonlocal passed, struck
        if Path(frame.f_code.co_filename) not in FILES:
            return None
        if event == "line":
            passed += 1
            if passed == line:
                struck = True
                raise KeyboardInterrupt
        return trace

    before, handler = sys.gettrace(), signal.getsignal(signal.SIGINT)
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
        signal.signal(signal.SIGINT, handler)
    return struck


@pytest.mark.parametrize("pruned_before", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_line_leaves_the_network_whole(name, pruned_before):
    call, old = CALLS[name], copy.deepcopy(NET)
    if pruned_before:
        compress.quantize(old, STATS, 4, layers=["2"])
        compress.prune(old, STATS, 0.3, layers=["0"])
    new = copy.deepcopy(old)
    call(new)
    line, written, left_alone = 0, 0, 0
    struck = True
    while struck:
        line += 1
        net = copy.deepcopy(old)
        struck = interrupted_at_line(lambda net=net: call(net), line)
        assert same(net, old) or same(net, new), f"half done when interrupted at line {line}"
        written, left_alone = written + same(net, new), left_alone + same(net, old)
        net(X)
        if same(net, old):
            call(net)
            assert same(net, new)
    assert written > 1 and left_alone > 50


class Interrupting(nn.Linear):
    """Sends a signal when it is given a buffer."""

    def register_buffer(self, *args, **options):
        signal.raise_signal(signal.SIGINT)
        super().register_buffer(*args, **options)


@pytest.mark.parametrize("name", CALLS)
def test_a_signal_while_results_are_written_waits_until_all_are(name):
    net, new = copy.deepcopy(NET), copy.deepcopy(NET)
    CALLS[name](new)
    net[0].__class__ = Interrupting
    with pytest.raises(KeyboardInterrupt):
        CALLS[name](net)
    assert same(net, new)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_while_results_are_written_takes_all_back(monkeypatch):
    net = copy.deepcopy(NET)
    compress.quantize(net, STATS, 4)
    old = copy.deepcopy(net)

    def full(self, *args, **options):
        raise MemoryError

    monkeypatch.setattr(net[2], "register_buffer", full)
    with pytest.raises(MemoryError):
        CALLS["prune"](net)
    monkeypatch.undo()
    assert same(net, old) and not net[0]._forward_pre_hooks


def test_a_thread_that_cannot_be_interrupted_prunes_as_well():
    net, new = copy.deepcopy(NET), copy.deepcopy(NET)
    CALLS["prune"](new)
    thread = threading.Thread(target=CALLS["prune"], args=(net,))
    thread.start()
    thread.join()
    assert same(net, new)


SIGNALS = """
import copy, os, signal, threading, time, random
import torch
from torch import nn
from spikeloom import SpikingLayer, compress, neurons

torch.manual_seed(0)
random.seed(0)
torch.set_num_threads(1)
layers = [part for _ in range(8) for part in (nn.Linear(8, 8), SpikingLayer(neurons.LIF()))]
dense = nn.Sequential(*layers).eval()
stats = compress.calibrate(dense, [torch.rand(4, 6, 8)])
new = copy.deepcopy(dense)
start = time.perf_counter()
compress.prune(new, stats, 0.5, "magnitude")
seconds = time.perf_counter() - start
counts = {"old": 0, "new": 0, "half": 0, "interrupted": 0}


def state(net):
    def same(other):
        mine, theirs = net.state_dict(), other.state_dict()
        return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)

    return "old" if same(dense) else "new" if same(new) else "half"


for _ in range(150):
    net = copy.deepcopy(dense)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.3, 1.2) * seconds)
        compress.prune(net, stats, 0.5, "magnitude")
        time.sleep(2 * seconds)
    except KeyboardInterrupt:
        counts["interrupted"] += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    counts[state(net)] += 1
print(counts)
assert not counts["half"] and counts["interrupted"] > 100
"""


@pytest.mark.slow
def test_signals_at_random_times_leave_the_network_whole():
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
