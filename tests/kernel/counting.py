"""Modes that list what torch is asked to compute."""

from collections import Counter

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Unknown(TorchDispatchMode):
    """Elements computed by each operation, views aside; it is not known as a counter."""

    IGNORED = ("detach", "select", "slice", "expand", "view", "alias", "unsqueeze", "squeeze")

    def __init__(self):
        super().__init__()
        self.elements = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if isinstance(out, Tensor) and name not in self.IGNORED:
            self.elements[name] += out.numel()
        return out


class Listing(Unknown):
    """The same, known for a counter by its package."""

    __module__ = "spikingjelly.activation_based.op_counter.listing"
