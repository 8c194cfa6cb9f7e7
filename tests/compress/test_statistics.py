import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, neurons
from tests.compress.cases import spikes


@pytest.fixture(scope="module")
def stats():
    torch.manual_seed(0)
    tau = torch.tensor([2.0, 4.0, 4.0, 2.0])
    net = nn.Sequential(nn.Linear(6, 4), SpikingLayer(neurons.LIF(tau)), nn.Linear(4, 2)).eval()
    return compress.calibrate(net, [spikes(5, 3, 6)])


def test_saved_statistics_are_loaded_as_they_were(stats, tmp_path):
    path = tmp_path / "stats.safetensors"
    stats.save(path)
    loaded = compress.Statistics.load(path)
    assert list(loaded) == list(stats)
    for name, layer in stats.items():
        other = loaded[name]
        assert other.facts == layer.facts
        for mine, theirs in ((layer.spiking, other.spiking), (layer.plain, other.plain)):
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs, strict=True):
                assert torch.equal(a.rows, b.rows) and torch.equal(a.hessian, b.hessian)
    assert torch.equal(loaded["0"].row_scale, stats["0"].row_scale)
    assert loaded["2"].row_scale is None


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, str(path))
    with pytest.raises(ValueError, match=r"not written by Statistics\.save"):
        compress.Statistics.load(path)
    path.write_text("a note")
    with pytest.raises(ValueError, match=r"other\.safetensors is no whole safetensors file"):
        compress.Statistics.load(path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        compress.Statistics.load(tmp_path / "nothing")


def test_a_failed_save_leaves_the_old_file(stats, tmp_path, monkeypatch):
    path = tmp_path / "stats.safetensors"
    path.write_bytes(b"old")

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        stats.save(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_table_names_layers_neurons_and_decays(stats):
    assert str(stats).splitlines()[2:] == [
        "0           6     4  1       0.5 to 0.75 (2)      5        3",
        "2           4     2  -       0                    5        3",
    ]
