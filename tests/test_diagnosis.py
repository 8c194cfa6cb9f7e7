"""The doctor, and the command line that asks it."""

import json

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


def test_the_command_line_explains_a_bad_name(capsys):
    assert cli.main(["source", "Lif"]) == 2
    assert "neuron: one of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["dance"])
