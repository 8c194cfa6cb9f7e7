"""Convert trained networks beyond ReLU to spikes with signGD, without retraining.

    python examples/signgd_digits.py                        # four networks, one seed, minutes
    python examples/signgd_digits.py --seeds 0 1 2 --plot signgd.png
    python examples/signgd_digits.py --net mixer --steps 8 16

8x8 digits (scikit-learn), 1347 to train and calibrate on, 450 to test on. Three convolutional
networks with max-pooling (GELU, LeakyReLU, ReLU) and an MLP-Mixer with LayerNorm and GELU are
trained as usual and converted:

    fitted       spikeloom: reach and schedule fitted to the calibration data for each T
    published    the published chains of nodes, scales and schedule (0.15 * 0.95**t)
    rate coding  SpikingJelly's RateCodingRecipe (99.9 %), which knows ReLU only

Test accuracy in percent, median over seeds, and the squared logit error relative to the ANN's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from beyond_relu.comparison import compare
from beyond_relu.networks import Mixer, cnn
from beyond_relu.training import Data
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


def load(seed: int) -> Data:
    """Images [n, 1, 8, 8] in [0, 1] and their classes."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    parts = train_test_split(
        pixels, torch.tensor(labels), test_size=450, stratify=labels, random_state=seed
    )
    return Data(*parts)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "gelu": lambda: cnn(nn.GELU),
    "leaky": lambda: cnn(lambda: nn.LeakyReLU(0.1)),
    "relu": lambda: cnn(nn.ReLU),
    "mixer": Mixer,
}

if __name__ == "__main__":
    compare(__doc__, NETWORKS, load, steps=[4, 8, 16, 32], epochs=40)
