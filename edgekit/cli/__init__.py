"""The command line: a thin skin over :mod:`edgekit.api`. One module a group of commands; importing it
adds the commands to ``app``."""

from edgekit.cli import compression, main_job  # noqa: F401 - adds its commands
from edgekit.cli.common import app
from edgekit.cli.process import main

__all__ = ["app", "main"]
