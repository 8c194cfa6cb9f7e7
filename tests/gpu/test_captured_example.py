"""The documentation's example of a captured graph, behind the stand-in for CUDA."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel import cuda_text_on_cpu

ROOT = Path(__file__).parents[2]

BEFORE = """
import torch
from spikeloom.kernel.choose import unusable
from spikeloom.kernel.cuda_device import Kernel

torch.cuda.is_available = lambda: True
assert not unusable("cuda")  # which launches an empty kernel
launch, launches = Kernel.launch, []


def counted(self, *arguments):
    launches.append(self)
    launch(self, *arguments)


Kernel.launch = counted
"""

AFTER = """
assert len(launches) == 4, "a step is one kernel forward and one backward"
assert len(set(launches)) == 2, "what is captured was loaded by the first call"
assert x.grad.shape == x.shape
"""


@pytest.mark.skipif(cuda_text_on_cpu.COMPILER is None, reason="g++ is not installed")
def test_a_step_is_two_launches_before_and_in_the_capture(tmp_path):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    page = (ROOT / "docs" / "kernel.md").read_text(encoding="utf-8")
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "CUDAGraph" in block
    )
    script = tmp_path / "example.py"
    script.write_text(BEFORE + example + AFTER, encoding="utf-8")
    command = [sys.executable, "-m", "tests.gpu.rehearsal", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
