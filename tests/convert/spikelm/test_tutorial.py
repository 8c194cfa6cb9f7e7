"""The tutorial of SpikeLM runs as written."""

from pathlib import Path

import pytest

from tests.examples.markdown import python_blocks

PAGE = Path(__file__).parents[3] / "docs" / "tutorials" / "spikelm.md"


def test_the_tutorial_runs_as_written(capsys):
    pytest.importorskip("transformers")
    names = {"__name__": "page"}
    for block in python_blocks(PAGE):
        exec(compile("\n" * (block.line - 1) + block.code, PAGE, "exec"), names)
    assert "encoder.layer.1.output.dense" in capsys.readouterr().out
    assert sorted({round(float(y), 4) for y in names["y"].unique()}) == [-0.8, 0.0, 0.8]
    assert names["again"](names["ids"]).logits.shape == (8, 16, 100)
    fed = [site for site in names["merged"].modules() if getattr(site, "feeds", ())]
    assert fed and all(site.neuron.unit_spikes for site in fed)
