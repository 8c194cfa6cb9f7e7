"""What must hold before values are encoded: nothing is left in float, and nothing has changed.

Rules replace modules. What a model computes outside of modules, by a call of ``softmax`` in its
``forward``, say, no rule can see, nor what NumPy computes; and a layer that only looks like another
would be replaced by something else. All are found while the first batch of calibration passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode, resolve_name

from spikeloom.convert.las.attention import Attention
from spikeloom.convert.las.layers import Spiking
from spikeloom.convert.las.rules import is_float_place, is_kept, is_under
from spikeloom.outside import LEAVING

__all__ = ["check_same", "nothing_in_float"]

# What spikes have to compute: products of activations, and functions of them.
OPERATIONS = {
    # Products.
    "addbmm", "addmm", "addmv", "baddbmm", "bilinear", "bmm", "chain_matmul", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "dot", "einsum", "inner",
    "linear", "matmul", "mm", "multi_dot", "mv", "outer", "tensordot", "vdot", "vecdot",
    "__matmul__", "__rmatmul__",
    # Norms and attention.
    "batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm",
    "multi_head_attention_forward", "rms_norm", "scaled_dot_product_attention",
    # Functions.
    "celu", "elu", "erf", "exp", "expit", "expm1", "gelu", "glu", "gumbel_softmax",
    "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax",
    "logsigmoid", "logsumexp", "mish", "prelu", "relu", "relu6", "rrelu", "rsqrt", "selu",
    "sigmoid", "silu", "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "threshold",
}  # fmt: skip
SHOWN = 6  # places in an error


class _Calls(TorchFunctionMode):
    """Notes operations that a network calls outside of spiking layers.

    Args:
        network: What is watched.
        exclude: Names of modules that may stay in float.
    """

    def __init__(self, network: nn.Module, exclude: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = {id(module): name for name, module in network.named_modules()}
        self.exclude = exclude
        self.inside: list[nn.Module] = []
        self.found: dict[str, list[str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # torch knows some of them by two names.
        names = {(resolve_name(func) or "").rpartition(".")[2].rstrip("_"), func.__name__}
        watched = names & OPERATIONS or (names & LEAVING if _takes_values(args) else set())
        if watched and not self._allowed():
            name = min(watched)
            module = self.inside[-1]
            place = self.names[id(module)] or "'', the model's own forward"
            called = self.found.setdefault(f"{place} ({type(module).__name__})", [])
            called += [name] if name not in called else []
        return func(*args, **(kwargs or {}))

    def _allowed(self) -> bool:
        """Whether float is in place where the network is now."""
        if not self.inside or isinstance(self.inside[-1], (Spiking, Attention)):
            return True
        name = self.names[id(self.inside[-1])]
        return (
            is_under(name, self.exclude)
            or is_float_place(name)
            or any(is_kept(module) or isinstance(module, Spiking) for module in self.inside)
        )

    def enter(self, module: nn.Module, args: Any) -> None:
        """A hook: a module begins."""
        if id(module) in self.names or isinstance(module, Attention):
            self.inside.append(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """A hook: a module ends, or fails."""
        if self.inside and self.inside[-1] is module:
            self.inside.pop()


def _takes_values(args: Sequence[Any]) -> bool:
    """Whether the first argument may hold activations; sizes and token numbers are whole."""
    return bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point()


@contextmanager
def nothing_in_float(network: nn.Module, exclude: Sequence[str]) -> Iterator[None]:
    """Watch a call of a network whose layers are spiking, and refuse what it computes otherwise.

    Args:
        network: What is called within.
        exclude: Names of modules that may stay in float; ``""`` is the model's own forward.

    Raises:
        TypeError: If such a product or function is called outside of spiking layers, or values are
            taken out of torch there, with the modules that do.
    """
    calls = _Calls(network, exclude)
    # Of all modules, as an attention gets its sites within the call.
    hooks = [
        register_module_forward_pre_hook(calls.enter),
        register_module_forward_hook(calls.leave, always_call=True),
    ]
    try:
        with calls:
            yield
    finally:
        for hook in hooks:
            hook.remove()
    if calls.found:
        places = [f"{place} calls {', '.join(called)}" for place, called in calls.found.items()]
        more = f"; and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        raise TypeError(
            f"model: this is computed in float, outside of the modules that rules convert: "
            f"{'; '.join(places[:SHOWN])}{more}. Use modules such as nn.GELU or "
            f"nn.MultiheadAttention instead, or leave it as it is by naming the modules in exclude"
        )


def check_same(
    expected: dict[str, list[Tensor]], found: dict[str, list[Tensor]], dtype: torch.dtype
) -> None:
    """Refuse a network that computes something else once its layers are replaced.

    Args:
        expected: Outputs of the original's layers, by name; what they lack was replaced as a part
            of something larger.
        found: Those of the replaced layers, before any value is encoded.
        dtype: What they were computed in.

    Raises:
        ValueError: If a layer's output differs by more than rounding, or the original's is NaN or
            infinite.
    """
    # Models of transformers compute some of their layers in float32 whatever their dtype.
    allowed = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    pairs = [
        (name, *pair)
        for name in expected
        for pair in zip(expected[name], found.get(name, ()), strict=False)
    ]
    for name, wanted, given in pairs:
        if not bool(wanted.isfinite().all()):
            raise ValueError(
                f"calibration: {name} of the model itself is NaN or infinite on the first batch"
            )
        distance = float((given - wanted).norm() / wanted.norm().clamp(min=1e-30))
        if not distance <= allowed:
            raise ValueError(
                f"model: with its modules replaced, {name} computes something else, by "
                f"{distance:.1e} of its norm before any value is encoded; a module within looks "
                f"like one that a rule converts, and is not: name it in exclude"
            )
