"""Every call of a neuron module, by its forward or by its method ``sequence``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["watched_calls"]

# Receives positional and named arguments and whether it was ``sequence`` that was called; what it
# returns, if anything, takes their place.
Before = Callable[[Any, Any, bool], tuple[Any, Any] | None]
After = Callable[[Any], None]


@contextmanager
def watched_calls(
    module: nn.Module, before: Before, after: After = lambda output: None
) -> Iterator[None]:
    """Hear of every call of a neuron for as long as the block runs.

    Args:
        module: The neuron.
        before: Called with what the neuron is called with.
        after: Called with what it returns.
    """

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return before(args, kwargs, False)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        after(output)

    hooks = (
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, with_kwargs=True),
    )
    method = getattr(module, "sequence", None)  # spikeloom's snnTorch neurons have it
    if callable(method):

        @functools.wraps(method)
        def sequence(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = before(args, kwargs, True) or (args, kwargs)
            output = method(*args, **kwargs)
            after(output)
            return output

        vars(module)["sequence"] = sequence
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if callable(method):
            del vars(module)["sequence"]
