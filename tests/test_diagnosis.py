"""The doctor."""

import sys

import pytest

import spikeloom
from spikeloom import diagnosis
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
