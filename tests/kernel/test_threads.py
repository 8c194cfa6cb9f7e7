"""Threads that help with a call: used where they exist, never waited for where they do not."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

import spikeloom
from spikeloom.kernel import threads

# Enough for two threads; made and compared by NumPy, because torch has threads of its own, which
# do not survive a fork.
SETUP = """
import atexit, os, signal, sys, threading
import numpy as np
import torch
import spikeloom

torch.set_num_threads(2)
x = torch.from_numpy(np.random.default_rng(0).random((16, 1 << 16), dtype=np.float32) * 2)

def spikes():
    with torch.no_grad():
        return spikeloom.run(spikeloom.neurons.LIF(), x)[0].numpy()

def say(found, expected):
    print("same" if found.any() and (found == expected).all() else "other", flush=True)
"""


def output_of(script):
    code = SETUP + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("used_before", [False, True])
def test_a_call_at_exit_runs(used_before):
    script = """
        expected = spikes()
        atexit.register(lambda: say(spikes(), expected))
    """
    if not used_before:
        script = """
            def last():
                found = spikes()
                torch.set_num_threads(1)
                say(found, spikes())

            atexit.register(last)
        """
    assert output_of(script) == ["same"]


def test_a_call_of_a_thread_that_outlives_the_main_one_runs():
    script = """
        expected = spikes()

        def late():
            threading.main_thread().join()
            say(spikes(), expected)

        threading.Thread(target=late).start()
    """
    assert output_of(script) == ["same"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs_and_has_threads_again():
    script = """
        expected = spikes()
        child = os.fork()
        if not child:
            signal.alarm(60)  # a child that waits for ever would outlive the test
            before = threading.active_count()
            found = spikes()
            say(found, expected)
            print(before, threading.active_count(), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        say(spikes(), expected)
    """
    assert output_of(script) == ["same", "1", "2", "same"]


def test_parts_are_done_once_each_with_whatever_threads_come(monkeypatch):
    def nobody(*_):
        raise RuntimeError("can't start new thread")

    for submit in (None, nobody, lambda *_: None):
        if submit is not None:
            monkeypatch.setattr(threads._pool(), "submit", submit)
        done = []
        threads.share_out(range(7), done.append, 3)
        assert sorted(done) == list(range(7))
    threads._pool.cache_clear()


def test_an_error_of_a_helper_is_raised():
    def part(number):
        raise MemoryError(f"part {number}")

    with pytest.raises(MemoryError, match="part"):
        threads.share_out(range(4), part, 2)


def test_two_threads_give_the_bits_of_one():
    x = torch.from_numpy(np.random.default_rng(0).random((8, 1 << 16), dtype=np.float32) * 2)
    found, before = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            tau = torch.tensor(3.0, requires_grad=True)
            given = x.clone().requires_grad_()
            y, _ = spikeloom.run(spikeloom.neurons.LIF(tau), given)
            found.append((y, *torch.autograd.grad(y.sum(), (given, tau))))
    finally:
        torch.set_num_threads(before)
    for results in zip(*found, strict=True):
        assert all(torch.equal(result, results[0]) for result in results)
