"""Arguments written as ``name=value``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["called_with", "settings_of"]


def settings_of(argument: str, texts: Iterable[str]) -> dict[str, Any]:
    """Arguments by name; a value that is no Python literal is a word.

    Args:
        argument: What errors call them.
        texts: Such as ``beta=0.9``.
    """
    return dict(_setting(argument, text) for text in texts)


def _setting(argument: str, given: str) -> tuple[str, Any]:
    name, equals, text = given.partition("=")
    if not (equals and name.isidentifier()):
        raise ValueError(f"{argument}: must have the form name=value, got {given!r}")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def called_with(function: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """Call a function or class by name, with an error that lists its arguments if they do not fit.

    Args:
        function: The function or class.
        settings: Its arguments by name.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**settings)
    except TypeError as error:
        name, known = function.__name__, ", ".join(signature.parameters)
        raise TypeError(f"{name}: {error}; give its arguments as name=value: {known}") from error
    return function(**settings)
