"""A NIR graph as a table and as a picture."""

import nir
import numpy as np
import pytest

from spikeloom import export


def recurrent():
    one = np.ones(2, "float32")
    lif = nir.LIF(tau=2e-4 * one, r=one, v_leak=0 * one, v_threshold=np.array([1, 2], "float32"))
    weight = nir.Linear(weight=np.eye(2, dtype="float32"))
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    edges = [("input", "lif"), ("lif", "again"), ("again", "lif"), ("lif", "output")]
    return nir.NIRGraph({**ends, "lif": lif, "again": weight}, edges)


def test_every_node_has_a_row_from_the_input_on():
    report = export.describe(recurrent())
    assert report.column("node") == ["input", "lif", "again", "output"]
    assert report.column("feeds") == ["lif", "again, output", "lif", ""]
    assert "v_threshold [2] 1...2" in report.column("parameters")[1]
    assert "4 nodes, 4 edges, 14 parameters" in report.notes


def test_nodes_of_a_nested_graph_have_dotted_names():
    inner = recurrent()
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    outer = nir.NIRGraph({**ends, "block": inner}, [("input", "block"), ("block", "output")])
    names = export.describe(outer).column("node")
    assert {"block", "block.lif", "block.again"} <= {*names}


def test_a_node_that_no_input_reaches_comes_last():
    graph = recurrent()
    graph.nodes = {"lost": nir.Flatten({"input": np.array([2])}), **graph.nodes}
    assert {*export.describe(graph).column("node")[-2:]} == {"lost", "output"}


def test_a_picture_has_a_box_for_each_node_and_an_arrow_for_each_edge(tmp_path):
    pytest.importorskip("matplotlib")
    figure = export.draw(recurrent(), tmp_path / "net.svg")
    texts = figure.axes[0].texts
    labels = [text.get_text() for text in texts if text.get_text()]
    arrows = [text for text in texts if getattr(text, "arrow_patch", None) is not None]
    assert labels == ["input\nInput", "lif\nLIF", "again\nLinear", "output\nOutput"]
    assert len(arrows) == 4
    assert "<svg" in (tmp_path / "net.svg").read_text()


@pytest.mark.parametrize("function", [export.describe, export.draw])
def test_what_is_no_graph_is_named(function):
    with pytest.raises(TypeError, match=r"graph: must be a nir\.NIRGraph, got str"):
        function("net.nir")
