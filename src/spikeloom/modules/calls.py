"""Every call of a module, by its forward or by a method that its class has beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from spikeloom.modules.identity import methods_of

__all__ = ["named_as", "watched_calls"]

# A method that takes another's place on a module keeps that one's name, but says who put it there:
# see :func:`spikeloom.modules.override_of`.
named_as = functools.partial(functools.wraps, assigned=("__name__", "__qualname__", "__doc__"))

# Receives positional and named arguments and whether they hold a whole sequence; what it returns,
# if anything, takes their place.
Before = Callable[[Any, Any, bool], tuple[Any, Any] | None]
After = Callable[[Any], None]


@contextmanager
def watched_calls(
    module: nn.Module, before: Before, after: After = lambda output: None
) -> Iterator[None]:
    """Hear of every call of a module for as long as the block runs.

    A call inside a call of the same module, as a ``forward`` makes it, is not told again.

    Args:
        module: Any module.
        before: Called with what the module is called with.
        after: Called with what it returns, or with None when it raises.
    """
    running = 0

    def enter(args: Any, kwargs: Any, whole: bool) -> Any:
        nonlocal running
        running += 1
        return before(args, kwargs, whole) if running == 1 else None

    def leave(output: Any) -> None:
        nonlocal running
        if running == 1:
            after(output)
        running -= 1

    def wrapped(method: Callable[..., Any], whole: bool) -> Callable[..., Any]:
        @named_as(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            output = None
            args, kwargs = enter(args, kwargs, whole) or (args, kwargs)
            try:
                output = method(*args, **kwargs)
            finally:
                leave(output)
            return output

        return call

    with ExitStack() as stack:
        for name, whole in methods_of(module).items():
            if name == "forward":
                _hook(module, stack, enter, leave)
            else:
                own = vars(module)
                earlier = own.get(name)
                own[name] = wrapped(getattr(module, name), whole)
                stack.callback(_put_back, own, name, earlier)
        yield


def _put_back(own: dict[str, Any], name: str, earlier: Any) -> None:
    """Undo a replaced method, on which another watcher may have been before."""
    if earlier is None:
        del own[name]
    else:
        own[name] = earlier


def _hook(
    module: nn.Module, stack: ExitStack, enter: Callable[..., Any], leave: Callable[[Any], None]
) -> None:
    """Watch ``forward``, whose manner may change between two calls, by hooks."""
    before = module.register_forward_pre_hook(
        lambda module, args, kwargs: enter(args, kwargs, methods_of(module)["forward"]),
        with_kwargs=True,
    )
    after = module.register_forward_hook(
        lambda module, args, output: leave(output), always_call=True
    )
    stack.callback(before.remove)
    stack.callback(after.remove)
