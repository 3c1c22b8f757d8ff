"""The command line: a thin skin over :mod:`edgekit.api`. One module a group of commands; importing it
adds the commands to ``app``."""

from edgekit.cli import compression, main_job, tune  # noqa: F401 - they add their commands
from edgekit.cli.common import app
from edgekit.cli.process import main

__all__ = ["app", "main"]
