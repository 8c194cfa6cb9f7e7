"""A host as a package: what it lists, what importing it brings along, and how it is missed."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from .host import Host

__all__ = ["CHECKS", "a_missing_host_is_one_clear_error", "importing_it_imports_nothing_foreign"]


def components_are_listed(host: Host) -> None:
    """The host's classes are listed with their method and paper."""
    plugins = import_module("spikeloom.plugins")
    module = getattr(plugins, host.name)
    own = [component for component in plugins.components() if component.host == host.name]
    assert own
    for component in own:
        assert getattr(module, component.name) is component.cls
        assert component.method
        assert component.paper
        assert component.cls.__doc__


FOREIGN = {"cupy", "triton", "nir", "nirtorch", "lava", "torchvision", "matplotlib", "transformers"}


def importing_it_imports_nothing_foreign(host: Host) -> None:
    """The host is imported without other frameworks."""
    others = {"spikingjelly", "snntorch", "norse"} - {host.name}
    _python(
        # torch's compiler brings Triton along, where a release of it is installed
        "import sys, importlib, torch._dynamo, spikeloom.plugins",
        f"importlib.import_module({host.name!r})",
        "before = set(sys.modules)",
        f"importlib.import_module('spikeloom.plugins.{host.name}')",
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}",
        f"assert not new & {FOREIGN | others!r}, new",
    )


def a_missing_host_is_one_clear_error(host: Host) -> None:
    """A framework that is not installed is named with the remedy."""
    remedy = f'pip install "spikeloom[{host.name}]"'
    _python(
        "import sys",
        f"sys.modules[{host.name!r}] = None",  # as if it were not installed
        "import spikeloom, spikeloom.plugins as plugins",
        "plugins.components()",
        f"try: plugins.{host.name}",
        f"except ImportError as error: assert {remedy!r} in str(error), error",
        "else: raise AssertionError('no ImportError')",
    )


def _python(*lines: str) -> None:
    """Run lines in a Python of their own, where nothing is imported yet."""
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CHECKS = (
    components_are_listed,
    importing_it_imports_nothing_foreign,
    a_missing_host_is_one_clear_error,
)
