"""The GPU benchmark measures on a GPU or not at all."""

import runpy
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).parents[2] / "examples" / "benchmarks" / "gpu.py"


def test_without_a_gpu_it_says_so_and_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="no CUDA device"):
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    assert not list(tmp_path.iterdir())
