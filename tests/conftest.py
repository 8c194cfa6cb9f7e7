"""What every test shares."""

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# torch tells some warnings once a process: which test fails must not depend on the order.
torch.set_warn_always(True)
pytest.register_assert_rewrite("spikeloom.plugins.contract")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)
