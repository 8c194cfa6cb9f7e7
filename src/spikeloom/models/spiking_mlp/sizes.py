"""What the network's arguments must satisfy, and the size of the map in every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spikeloom.kernel.values import checked_count

__all__ = ["Size", "check_depths", "check_option", "pair", "stage_sizes"]

Size = tuple[int, int]


def check_depths(depths: Any) -> None:
    """Raise unless there is a sequence with a depth for each stage."""
    if not isinstance(depths, Sequence):
        raise TypeError(
            f"depths: needs one number of blocks for each stage, such as (2, 2), got {depths!r}"
        )
    if not depths:
        raise ValueError("depths: needs one number of blocks for each stage, got none")


def check_option(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raise unless an argument is one of a few words."""
    if value not in options:
        raise ValueError(f"{name}: must be one of {', '.join(options)}; got {value!r}")


def pair(name: str, value: int | Size) -> Size:
    """Height and width of an argument that may give both or one number for both."""
    sides = (value, value) if isinstance(value, int) else value
    if not isinstance(sides, Sequence) or len(sides) != 2:
        raise ValueError(f"{name}: must be an int or (height, width), got {value!r}")
    for side in sides:
        checked_count(name, side)
    return sides[0], sides[1]


def stage_sizes(image: Size, patch: Size, stages: int) -> list[Size]:
    """Height and width of the map in every stage."""
    if image[0] % patch[0] or image[1] % patch[1]:
        raise ValueError(
            f"image_size: {image} does not divide into patches of patch_size={patch}; "
            f"crop or pad the image"
        )
    sizes = [(image[0] // patch[0], image[1] // patch[1])]
    for number in range(1, stages):
        height, width = sizes[-1]
        if height % 2 or width % 2:
            raise ValueError(
                f"depths: stage {number} would halve a map of {height} x {width}, which is odd; "
                f"with image_size={image} and patch_size={patch} use {number} stage(s)"
            )
        sizes.append((height // 2, width // 2))
    return sizes
