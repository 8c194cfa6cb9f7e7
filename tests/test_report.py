"""Reports and whole files."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import torch

from spikeloom.report import Report


def example() -> Report:
    rows = [("fc1", 3, 0.5, True), ("fc2", np.int64(12), torch.tensor(0.25), None)]
    return Report("Title", ("layer", "count", "share", "exact"), rows, ["A note."])


def test_the_table_is_aligned_numbers_to_the_right():
    assert str(example()).split("\n") == [
        "Title",
        "layer  count  share  exact",
        "-----  -----  -----  -----",
        "fc1        3    0.5  yes",
        "fc2       12   0.25  -",
        "A note.",
    ]


def test_markdown_is_one_table_between_title_and_notes():
    report = example()
    report.add("a|b", 1, 2.0, False)
    assert report.to_markdown().split("\n") == [
        "**Title**",
        "",
        "| layer | count | share | exact |",
        "|---|---:|---:|---|",
        "| fc1 | 3 | 0.5 | yes |",
        "| fc2 | 12 | 0.25 | - |",
        "| a\\|b | 1 | 2 | no |",
        "",
        "A note.",
    ]


def test_comma_separated_text_keeps_numbers_in_full():
    report = Report("T", ("layer", "share"), [("a,b", torch.tensor(1 / 3, dtype=torch.float64))])
    report.add("c", None)
    rows = list(csv.reader(io.StringIO(report.to_csv())))
    assert rows == [["layer", "share"], ["a,b", str(1 / 3)], ["c", ""]]


def test_a_notebook_shows_a_table_with_names_as_they_are_written():
    report = Report("Errors < 1", ("layer", "share"), [("<lambda>", 0.5)], ["a & b"])
    text = report._repr_html_()
    assert "<caption>Errors &lt; 1</caption>" in text
    assert '<td style="text-align: left">&lt;lambda&gt;</td>' in text
    assert '<td style="text-align: right">0.5</td>' in text
    assert text.endswith("<p>a &amp; b</p>")


def test_a_data_frame_has_the_columns_and_exact_numbers():
    pytest.importorskip("pandas")
    frame = example().to_pandas()
    assert list(frame.columns) == ["layer", "count", "share", "exact"]
    assert frame["count"].tolist() == [3, 12] and frame["share"].tolist() == [0.5, 0.25]
    assert frame.attrs == {"title": "Title", "notes": ["A note."]}


def test_a_missing_pandas_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        example().to_pandas()


def test_an_empty_report_prints_its_header():
    assert str(Report("T", ("a", "b"))) == "T\na  b\n-  -"


def test_json_keeps_the_numbers_and_turns_nan_into_null():
    report = example()
    report.add("fc3", np.float32(2.0), float("nan"), np.bool_(False))
    rows = json.loads(report.to_json())["rows"]
    assert rows[1] == {"layer": "fc2", "count": 12, "share": 0.25, "exact": None}
    assert rows[2] == {"layer": "fc3", "count": 2.0, "share": None, "exact": False}


def test_json_takes_nested_values_arrays_and_anything_that_has_a_name():
    report = Report("T", ("a",), [({"x": (1, np.arange(2), torch.float32)},)])
    assert json.loads(report.to_json())["rows"] == [{"a": {"x": [1, [0, 1], "torch.float32"]}}]


def test_a_row_must_fit_the_columns():
    with pytest.raises(ValueError, match="2 values needed, one for each of a, b; got 1"):
        Report("T", ("a", "b"), [(1,)])


def test_an_unknown_column_is_named():
    with pytest.raises(ValueError, match="'speed' is not one of layer, count, share, exact"):
        example().column("speed")


def test_saving_writes_what_to_json_returns(tmp_path):
    example().save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "Title"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_the_plot_shows_one_bar_a_row(tmp_path):
    pytest.importorskip("matplotlib")
    figure = example().plot("share", tmp_path / "bars.png")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.5, 0.25]
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_column_of_words_cannot_be_plotted():
    with pytest.raises(ValueError, match="'layer' holds no numbers"):
        example().plot("layer")


def test_a_missing_matplotlib_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install .spikeloom\[plot\]"):
        example().plot("share")


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"path: {tmp_path} is a folder; name the file"):
        example().save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_number_reaches_a_writer_under_column_and_row():
    class Writer:
        def __init__(self):
            self.scalars = []

        def add_scalar(self, tag, value, step):
            self.scalars.append((tag, value, step))

    writer = Writer()
    example().log(writer, step=4, prefix="pruning")
    assert writer.scalars == [
        ("pruning/count/fc1", 3, 4),
        ("pruning/count/fc2", 12, 4),
        ("pruning/share/fc1", 0.5, 4),
        ("pruning/share/fc2", 0.25, 4),
    ]


def test_tensorboard_takes_what_a_report_logs(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        example().log(writer)
    assert any(tmp_path.iterdir())


def test_what_is_no_writer_is_named():
    with pytest.raises(TypeError, match="writer: must have add_scalar"):
        example().log(print)
