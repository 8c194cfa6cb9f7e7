"""The command ``spikeloom``: a thin file for each subcommand, over the library's own functions.

It is a package of its own because ``import spikeloom`` brings torch, and ``spikeloom --help`` and
the shell's completion should not wait for it. No module here imports torch or spikeloom at its
top; a command does when it runs.
"""

from spikeloom_cli.app import app, main

__all__ = ["app", "main"]
