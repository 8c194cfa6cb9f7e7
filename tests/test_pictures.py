"""Rasters, and the pictures of reports."""

import sys

import pytest
import torch

from spikeloom import pictures
from spikeloom.report import Report
from spikeloom.sweep import Sweep

to_rgba = pytest.importorskip("matplotlib.colors").to_rgba


def marks(axes):
    """Colour, step and neuron of every mark."""
    found = set()
    for collection in axes.collections:
        for segment in collection.get_segments():
            time, neuron = segment[0][0], (segment[0][1] + segment[1][1]) / 2
            found.add((to_rgba(collection.get_color())[0] > 0.5, int(time), round(neuron)))
    return found


def test_a_raster_has_a_mark_for_each_spike():
    spikes = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [2.0, 0.0, 0.0]])
    (axes,) = pictures.raster(spikes).axes
    assert marks(axes) == {(False, 0, 0), (True, 1, 1), (False, 2, 0)}


def test_a_raster_of_a_batch_shows_the_sample_that_is_asked_for():
    spikes = torch.zeros(4, 2, 2, 3)
    spikes[3, 1, 1, 2] = 1.0
    assert not marks(pictures.raster(spikes).axes[0])
    assert marks(pictures.raster(spikes, sample=1).axes[0]) == {(False, 3, 5)}


def test_layers_stand_one_above_the_other_and_large_ones_are_thinned(tmp_path):
    layers = {"small": torch.ones(2, 3), "large": torch.ones(2, 500)}
    figure = pictures.raster(layers, tmp_path / "raster.png", title="Two layers")
    assert [axes.get_ylabel() for axes in figure.axes] == ["small", "large\n200 of 500"]
    assert len({neuron for _, _, neuron in marks(figure.axes[1])}) == 200
    assert (tmp_path / "raster.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_raster_is_refused():
    with pytest.raises(TypeError, match="spikes: neuron must be a tensor, got list"):
        pictures.raster([[1]])
    with pytest.raises(ValueError, match=r"must have shape \[T, N\] or \[T, batch, ...\]"):
        pictures.raster({"a": torch.ones(3)})
    with pytest.raises(ValueError, match="sample: neuron has 2 samples, got 2"):
        pictures.raster(torch.ones(3, 2, 4), sample=2)


def test_a_missing_matplotlib_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (
        lambda: pictures.raster(torch.ones(2, 2)),
        lambda: Report("T", ("a", "b"), [("x", 1)]).plot(),
    ):
        with pytest.raises(ImportError, match=r'needs matplotlib: pip install "spikeloom\[plot\]"'):
            draw()


def test_a_report_with_several_columns_of_numbers_is_a_heat_map(tmp_path):
    rows = [("fc1", "a", 2.0, None), ("fc2", "b", 4.0, 0.5)]
    figure = Report("T", ("layer", "kind", "spikes", "error"), rows).plot(path=tmp_path / "m.png")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["spikes", "error"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fc1", "fc2"]
    assert [text.get_text() for text in axes.texts] == ["2", "4", "0.5"]
    shares = axes.images[0].get_array()
    assert shares[0][0] == 0.5 and shares[1].tolist() == [1.0, 1.0]


def test_a_report_with_one_column_of_numbers_is_bars():
    figure = Report("T", ("layer", "share"), [("a", 0.5), ("b", 0.25)]).plot()
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.5, 0.25]


def test_a_report_without_numbers_has_no_picture():
    with pytest.raises(ValueError, match="column: the report holds no numbers to plot"):
        Report("T", ("layer", "kind"), [("a", "b")]).plot()


def test_a_sweep_is_a_curve_for_each_method():
    rows = [("LAS", 8, 0.1), ("LAS", 4, 1.0), ("SignGD", 4, 2.0)]
    (axes,) = Sweep("Error", ("method", "steps", "error"), rows).plot().axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert curves == {"LAS": [[4, 1.0], [8, 0.1]], "SignGD": [[4, 2.0]]}
    assert axes.get_yscale() == "log"
