"""The GPU benchmark: without a GPU it says so, and behind the stand-in all of it runs."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch

import spikeloom
from spikeloom import Neuron, neurons
from tests.kernel import cuda_standin, cuda_text_on_cpu

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "benchmarks" / "gpu"
SPIKELOOM = ("spikeloom", "spikeloom, soft reset, tau 2.7", "spikeloom, learned tau")


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("measure", "layers", "tables", "registers", "instructions"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def run_all(tmp_path, arguments):
    """run.sh with a Python that gets these arguments first."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "OUT": str(tmp_path / "out")}
    environment |= {"SMALL": "1", "PATIENCE": "10", "WHEELS": str(tmp_path / "none")}
    return subprocess.run(
        ["bash", str(FOLDER / "run.sh")], env=environment, capture_output=True, text=True
    )


def read(tmp_path, name):
    return json.loads((tmp_path / "out" / name).read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_fails(tmp_path):
    done = run_all(tmp_path, "")
    assert done.returncode == 3
    assert "the GPU kernel does not run" in done.stdout
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(cuda_text_on_cpu.COMPILER is None, reason="g++ is not installed")
def test_all_of_it_runs_behind_the_standin(tmp_path):
    pytest.importorskip("cupy")
    done = run_all(tmp_path, "-m tests.gpu.rehearsal")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("status 0") == 8, done.stdout
    host = (tmp_path / "out" / "6_host.log").read_text()
    assert "learned tau" in host and "does nothing" in host
    correct = read(tmp_path, "correct.json")
    assert len(correct) == 17 and not any("problem" in row for row in correct)
    assert all(row["spikes_equal"] and row["states_equal"] for row in correct[:-1])
    assert all(row["tau_gradient"] < 1e-6 for row in correct[:-1])
    timing = read(tmp_path, "timing.json")
    timed = {row["name"] for row in timing if "best" in row and row["T"] == 4}
    assert timed >= {"copy", *SPIKELOOM, "snnTorch's own, loop", "Norse's own, loop"}
    assert any(row.get("name") == "torch.compile, hand-written loop" for row in timing)
    assert timing[-1]["what"] == "done"
    network = {row["what"]: row for row in read(tmp_path, "network.json")}
    # What captures graphs of torch's looks for a real GPU: here it may fail, and is then a row.
    assert {"convolutions", "spiking_mlp", "signgd", "las", "done"} < set(network)
    assert not any("problem" in network[part] for part in ("convolutions", "spiking_mlp", "las"))
    assert "| copy |" in (tmp_path / "out" / "gpu.md").read_text()


def test_results_are_written_after_every_row(tmp_path):
    from measure import Notes

    notes = Notes(tmp_path / "rows.json", 10.0)
    for count in (1, 2):
        notes.add(count=count)
        assert len(json.loads((tmp_path / "rows.json").read_text())) == count
    assert 0 < notes.left() < 10


def test_a_candidate_that_fails_is_a_row_and_stops_no_other(tmp_path, monkeypatch):
    import measure

    def fail():
        raise ValueError("out of\nmemory")

    monkeypatch.setattr(measure, "elapsed", lambda call, calls: (call(), 2.0)[1])
    notes = measure.Notes(tmp_path / "rows.json", 10.0)
    best = measure.interleaved(notes, {"broken": fail, "good": lambda: None}, T=4)
    assert best == {"good": 2.0}
    assert notes.rows[0] == {"name": "broken", "problem": "ValueError: out of memory", "T": 4}


def test_the_compiled_loop_is_one_graph_for_every_size():
    import layers

    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    # torch compiles 8 variants of a function and then runs it as it is.
    for count in range(1, 11):
        x = torch.randn(2, count)
        loop = layers.compiled(x, backend)
        assert torch.equal(loop(x.requires_grad_()), layers.hand_written(x))
        assert len(graphs) == count


def test_a_loop_that_is_not_compiled_is_refused(monkeypatch):
    import layers

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    with pytest.raises(RuntimeError, match="made 0 graphs"):
        layers.compiled(torch.randn(2, 3))


def test_the_tables_show_ratios_to_a_copy_and_what_failed(tmp_path):
    import tables

    where = {"what": "inference", "T": 4, "N": 64, "dtype": "float32", "in_cache": True}
    rows = [
        {"what": "device", "name": "a card"},
        {"name": "copy", "best": 0.5, "median": 0.6, **where},
        {"name": "spikeloom", "best": 0.75, "median": 0.8, **where},
        {"name": "another", "problem": "OutOfMemoryError: too much", **where},
        {"what": "done"},
    ]
    (tmp_path / "timing.json").write_text(json.dumps(rows))
    page = tables.page(tmp_path)
    assert "LIF, inference, float32, T=4, N=64 (fits in the L2 cache)" in page
    assert "| spikeloom | 0.7500 | 0.8000 | 1.50 |" in page
    assert "| another | OutOfMemoryError: too much | |" in page
    assert "a card" in page and "Networks" not in page


def test_the_table_of_registers_speaks_of_the_kernels_that_a_call_takes(monkeypatch):
    driver = cuda_standin.install(monkeypatch)
    registers = importlib.import_module("registers")
    texts = []

    def compile_text(text, capability):
        texts.append(text)
        return registers.Binary(b"", 32, 0)

    monkeypatch.setattr(registers, "compile_text", compile_text)
    neuron = registers.NEURONS["LIF, soft reset, tau 2.7"]
    registers.kernels(neuron, "float32", 16, 90)
    spikeloom.run(neuron, torch.randn(16, 64, requires_grad=True))[0].sum().backward()
    assert texts == [launch.text for launch in driver.launches]


def test_every_shipped_neuron_is_in_the_table_of_registers():
    pytest.importorskip("cupy")
    registers = importlib.import_module("registers")
    public = (getattr(neurons, name) for name in neurons.__all__)
    classes = {cls for cls in public if isinstance(cls, type) and issubclass(cls, Neuron)}
    assert classes == {type(neuron) for neuron in registers.NEURONS.values()}


def test_instructions_are_counted_in_the_innermost_loop():
    pytest.importorskip("cupy")
    instructions = importlib.import_module("instructions")
    text = """
backward:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128.CONSTANT R8, desc[UR4][R2.64] ;
.L_x_2:
        /*0020*/                   LDG.E.64.CONSTANT R4, desc[UR4][R2.64] ;
        /*0030*/                   FADD R6, R7, R8 ;
        /*0040*/              @!P0 FADD R6, R6, R5 ;
        /*0050*/                   STG.E.64 desc[UR4][R2.64], R6 ;
        /*0060*/               @P1 BRA `(.L_x_2) ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   BRA `(.L_x_3);
"""
    loop = instructions.time_loop(text)
    assert [i.name.split(".")[0] for i in loop] == ["LDG", "FADD", "FADD", "STG", "BRA"]
    assert [loop[0].bytes, loop[3].bytes] == [8, 8]
    assert instructions.ahead(loop) == [2]


@pytest.mark.skipif(shutil.which("nvdisasm") is None, reason="nvdisasm is not on the PATH")
def test_the_backward_of_lif_in_bfloat16_issues_less_than_its_memory_takes():
    pytest.importorskip("cupy")
    instructions = importlib.import_module("instructions")
    for name in ("LIF", "LIF, soft reset, tau 2.7"):
        for steps in (16, 64):
            (_, back) = instructions.lines_of(name, "bfloat16", steps)
            count, ahead = map(float, back.split("|")[-3:-1])
            assert 0 < count <= 59 and ahead > 20, back


@pytest.mark.skipif(shutil.which("nvdisasm") is None, reason="nvdisasm is not on the PATH")
def test_gradients_are_loaded_long_before_they_are_used_also_across_divisions():
    pytest.importorskip("cupy")
    instructions = importlib.import_module("instructions")
    neuron = instructions.NEURONS["LIF, learned tau"]
    for steps in (16, 64):
        (_, (_, binary, shape)) = instructions.kernels(neuron, "float32", steps, 90)
        loop = instructions.time_loop(instructions.disassembled(binary.code))
        assert median(instructions.ahead(loop)[-shape.segment :]) > 80
