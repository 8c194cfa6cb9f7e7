"""What files and folders hold."""

import json

import pytest
import torch
from safetensors.torch import save_file

from spikeloom.inspection import inspect
from spikeloom.report import Report


def test_zeros_of_pruned_weights_are_shown(tmp_path):
    save_file({"fc.weight": torch.tensor([0.0, 1.0, 0.0, 2.0])}, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert inspect(path).rows == [("fc.weight", "float32", "[4]", 0.5)]


def test_a_saved_report_comes_back_as_it_was(tmp_path):
    report = Report("Pruned", ("layer", "zeros"), [("fc1", 0.9), ("fc2", None)], ["2 layers"])
    report.save(tmp_path / "report.json")
    assert str(inspect(tmp_path / "report.json")) == str(report)
    assert str(inspect(tmp_path)) == str(report)


def test_a_report_without_rows_is_read(tmp_path):
    Report("Empty", ("a", "b")).save(tmp_path / "report.json")
    assert inspect(tmp_path / "report.json").title == "Empty"


def test_statistics_are_shown_as_they_print(tmp_path):
    from torch import nn

    from spikeloom import SpikingLayer, compress, neurons

    net = nn.Sequential(nn.Linear(3, 2), SpikingLayer(neurons.LIF())).eval()
    stats = compress.calibrate(net, [torch.rand(4, 2, 3)])
    stats.save(tmp_path / "stats.safetensors")
    assert str(inspect(tmp_path / "stats.safetensors")).endswith(str(stats))


def test_what_is_damaged_or_unknown_is_refused(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0")
    (tmp_path / "other.json").write_text(json.dumps({"rows": []}))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.txt").write_text("hello")
    for name, message in [
        ("cut.safetensors", "no whole safetensors file"),
        ("other.json", "holds no report"),
        ("list.json", "holds no report"),
        ("text.txt", "cannot tell what"),
        ("", "cannot tell what the folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            inspect(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        inspect(tmp_path / "absent")
