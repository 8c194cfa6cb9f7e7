"""What processes send each other arrives as it was, and is no more than that."""

import pytest
import torch

from spikeloom.calibrate import Batch
from spikeloom.sent import packed, unpacked


def test_of_a_part_of_a_tensor_only_the_part_is_sent():
    whole = torch.arange(1 << 16).view(256, 256)
    for part in (whole[3:5], whole[:, 7], whole[::100, ::100], whole.T[:2]):
        content = packed(Batch((part,), {"also": [part]}))
        found = unpacked(content)
        assert torch.equal(found.args[0], part) and torch.equal(found.kwargs["also"][0], part)
        assert len(content) < 16 * part.numel() + 2048


@pytest.mark.parametrize("value", [None, 3, "text", (torch.ones(2), {"a": torch.ones(0)})], ids=str)
def test_anything_arrives_as_it_was(value):
    assert str(unpacked(packed(value))) == str(value)


def test_what_has_no_values_arrives_without():
    assert unpacked(packed(torch.ones(3, device="meta"))).is_meta
