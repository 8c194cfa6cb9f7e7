"""The face detectors of MTCNN (Zhang et al., 2016), with the weights that facenet-pytorch ships.

P-Net looks at 12x12 pixels, R-Net at 24x24, O-Net at 48x48. Each tells how likely a crop is a face,
and how the crop has to move to become the face's box; O-Net also where eyes, nose and mouth are.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .packages import file_of

__all__ = ["SIZES", "crops", "detector"]

# Pixels of the crops that a detector looks at.
SIZES = {"pnet": 12, "rnet": 24, "onet": 48}
# Of each detector: convolutions as channels, kernel, and kernel of the pooling behind them, 0 for
# none; the width of a dense layer, 0 for none; how many numbers each head tells.
FORMS: dict[str, tuple[list[tuple[int, int, int]], int, dict[int, int]]] = {
    "pnet": ([(10, 3, 2), (16, 3, 0), (32, 3, 0)], 0, {1: 2, 2: 4}),
    "rnet": ([(28, 3, 3), (48, 3, 3), (64, 2, 0)], 128, {1: 2, 2: 4}),
    "onet": ([(32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)], 256, {1: 2, 2: 4, 3: 10}),
}
# Photographs to calibrate on, and others that calibration has not seen.
SHOWN = ("china.jpg", "coffee.png", "chelsea.png")
UNSEEN = ("flower.jpg", "astronaut.png", "rocket.jpg")


class Columns(nn.Module):
    """All values behind each other, along width, height and channels: what the weights expect."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)


class Detector(nn.Module):
    """Convolutions, each with a PReLU and a pooling or none, and heads that tell of the crop.

    Its layers are named as in the files of weights.

    Args:
        kind: Of the files: "pnet", "rnet" or "onet".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        convolutions, hidden, heads = FORMS[kind]
        trunk: OrderedDict[str, nn.Module] = OrderedDict()
        width = 3
        for place, (outer, kernel, pool) in enumerate(convolutions, start=1):
            trunk[f"conv{place}"] = nn.Conv2d(width, outer, kernel)
            trunk[f"prelu{place}"] = nn.PReLU(outer)
            if pool:
                trunk[f"pool{place}"] = nn.MaxPool2d(pool, 2, ceil_mode=True)
            width = outer
        place = len(convolutions) + 1
        if hidden:
            trunk["columns"] = Columns()
            trunk[f"dense{place}"] = nn.Linear(9 * width, hidden)
            trunk[f"prelu{place}"] = nn.PReLU(hidden)
            named = {f"dense{place + 1}_{i}": nn.Linear(hidden, n) for i, n in heads.items()}
        else:
            named = {f"conv{place}_{i}": nn.Conv2d(width, n, 1) for i, n in heads.items()}
        self.trunk, self.heads = nn.Sequential(trunk), nn.ModuleDict(named)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of no face and of a face, four numbers of the box, and O-Net's points."""
        x = self.trunk(x)
        face, *places = (head(x).flatten(1) for head in self.heads.values())
        return face.softmax(1), *places


def detector(kind: str) -> nn.Module:
    """A pretrained detector."""
    model = Detector(kind)
    weights = torch.load(file_of("facenet_pytorch", f"data/{kind}.pt"), weights_only=True)
    for part, is_head in ((model.trunk, False), (model.heads, True)):
        part.load_state_dict({k: v for k, v in weights.items() if ("_" in k) == is_head})
    return model.eval()


def crops(kind: str, seed: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Crops to calibrate on, and others of other photographs; half of them show faces.

    Args:
        kind: Of the detector.
        seed: Of the places.
        count: How many either part has.
    """
    draw = np.random.default_rng(seed)
    shown, unseen = faces(draw, count // 2)
    parts = []
    for names, part in ((SHOWN, shown), (UNSEEN, unseen)):
        pictures = [photograph(name) for name in names]
        others = [cut(pictures[i % len(pictures)], draw) for i in range(count - len(part))]
        every = [scaled(picture, SIZES[kind]) for picture in [*part, *others]]
        parts.append(torch.stack([every[i] for i in draw.permutation(len(every))]))
    return parts[0], parts[1]


def faces(draw: np.random.Generator, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two parts of the hundred faces, 25x25 and grey, that scikit-image ships."""
    faces = np.load(file_of("skimage", "data/lfw_subset.npy"))[:100]
    order = draw.permutation(len(faces))
    grey = [np.uint8(255 * np.stack([faces[i]] * 3, -1)) for i in order]
    return grey[:count], grey[count : 2 * count]


def photograph(name: str) -> np.ndarray:
    if name in ("china.jpg", "flower.jpg"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(name)
    return np.asarray(Image.open(file_of("skimage", f"data/{name}")).convert("RGB"))


def cut(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A square somewhere in a photograph."""
    size = int(draw.integers(24, 200))
    top, left = (int(draw.integers(0, length - size)) for length in picture.shape[:2])
    return picture[top : top + size, left : left + size]


def scaled(picture: np.ndarray, size: int) -> Tensor:
    """As the detectors take it: a square of the size, numbers of about -1 to 1."""
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
    return (torch.tensor(np.asarray(image)).permute(2, 0, 1).float() - 127.5) / 128
