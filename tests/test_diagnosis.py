"""The doctor, and the command line that asks it."""

import json
import os
import subprocess
import sys

import pytest

import spikeloom
from spikeloom import cli, diagnosis
from spikeloom.kernel import choose


def found(report, what):
    return dict(zip(report.column("what"), report.column("found"), strict=True))[what]


def test_the_doctor_names_versions_and_what_runs():
    report = spikeloom.doctor()
    assert found(report, "spikingjelly") == "2.0.0"
    assert found(report, "device cpu") == "llvm"
    assert "ran, and equals eager" in str(report)


def test_the_doctor_says_how_to_get_what_is_missing(monkeypatch):
    monkeypatch.setitem(diagnosis.PACKAGES, "no_such_package", ("dreams", "pip install dreams"))
    monkeypatch.setitem(choose.MISSING, "llvm", "llvmlite is not installed")
    shown = str(spikeloom.doctor())
    assert "dreams: pip install dreams" in shown
    assert "eager" in shown and "llvmlite is not installed" in shown


def test_the_doctor_reports_a_kernel_that_fails(monkeypatch):
    def broken(*arguments, **keywords):
        raise OSError("no executable memory")

    monkeypatch.setattr(diagnosis, "run", broken)
    assert "llvm failed: OSError: no executable memory" in str(spikeloom.doctor())


def test_the_command_line_prints_table_or_json(capsys):
    assert cli.main(["doctor"]) == 0
    assert "device cpu" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "spikeloom doctor"


def test_the_command_line_prints_generated_source(capsys):
    assert cli.main(["source", "LIF", "--target", "llvm"]) == 0
    assert "define void @forward" in capsys.readouterr().out


ARGUMENTS = {
    "Leaky": ["beta=0.9", "reset_mechanism=zero"],
    "FewSpike": ["theta=[2, 1]", "h=[2, 1]", "d=(2, 1)"],
    "LinearHG": ["edges=[0, 1]", "rises=[1]", "constants=[0]"],
    "ElasticBiSpike": ["alpha=0.8"],
    "SignGDBits": ["bias=0.0", "offset=1.0", "function=gelu"],
    "SignTracker": ["schedule=[0.5, 0.25]", "steps=2"],
    "Trace": ["decay=0.5", "synaptic_decay=None"],
    "Alpha": ["alpha=0.9", "beta=0.8"],
    "Lapicque": ["R=5.0", "C=0.2"],
    "Synaptic": ["alpha=0.9", "beta=0.8"],
}
# Its tables are neurons themselves.
IN_PYTHON_ONLY = {"HG"}


def offered():
    found = {name: getattr(spikeloom.neurons, name) for name in spikeloom.neurons.__all__}
    return {
        name
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, spikeloom.Neuron)
    }


@pytest.mark.parametrize("name", sorted(offered() - IN_PYTHON_ONLY))
def test_the_command_line_takes_the_arguments_of_every_neuron(name, capsys):
    assert cli.main(["source", name, *ARGUMENTS.get(name, [])]) == 0
    assert "__global__" in capsys.readouterr().out


def test_arguments_reach_the_generated_source(capsys):
    texts = []
    for mechanism in ("zero", "'none'"):
        assert cli.main(["source", "Leaky", "beta=0.9", f"reset_mechanism={mechanism}"]) == 0
        texts.append(capsys.readouterr().out)
    wanted = spikeloom.neurons.Leaky(0.9, reset_mechanism="none")
    assert texts[0] != texts[1] == spikeloom.source(wanted) + "\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["Lif"], "neuron: must be one of ALIF, EIF, HG, IAF, IF, "),
        (["Exponential"], "neuron: must be one of ALIF, EIF, HG, IAF, IF, "),
        (["surrogate"], "neuron: must be one of ALIF, EIF, HG, IAF, IF, "),
        (["Leaky"], "Leaky: missing a required argument: 'beta'; give its arguments as name=value"),
        (["HG"], "HG: missing a required argument: 'boundaries'"),
        (["HG", "boundaries=[]", "tables=[{}]"], "tables[0] must have theta, h and d, got dict"),
        (["LIF", "tua=2"], "LIF: got an unexpected keyword argument 'tua'; give its arguments"),
        (["LIF", "tau=0.5"], "LIF: tau is in steps and must be at least 1, got 0.5"),
        (["LIF", "tau=two"], "LIF: tau must be a number or a tensor, got 'two'"),
        (["LIF", "2.0"], "arguments: must have the form name=value, got '2.0'"),
        (["LIF", "--dtype", "int8"], "dtype: must be one of"),
    ],
)
def test_the_command_line_explains_what_it_refuses(arguments, message, capsys):
    assert cli.main(["source", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("spikeloom: ") and message in captured.err
    assert not captured.out


def test_the_command_line_knows_its_version_and_its_commands(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"spikeloom {spikeloom.__version__}\n"
    with pytest.raises(SystemExit):
        cli.main(["dance"])


def test_the_doctor_lists_a_framework_that_is_a_checkout_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "checked_out.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(diagnosis.PACKAGES, "checked_out", ("host", "pip install checked_out"))
    assert found(spikeloom.doctor(), "checked_out") == "no version"


@pytest.mark.parametrize("host", ["spikingjelly", "snntorch", "norse"])
def test_the_doctor_outlives_a_missing_framework(host, monkeypatch):
    monkeypatch.setitem(sys.modules, host, None)
    report = spikeloom.doctor()
    assert found(report, host) is None
    assert f'pip install "spikeloom[{host}]"' in str(report)


@pytest.mark.parametrize("arguments", [["source", "LIF"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    """As in ``spikeloom source LIF | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "spikeloom", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
