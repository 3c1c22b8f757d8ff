"""The command line: a thin skin over :mod:`edgekit.api`. One module a group of commands; importing it
adds the commands to ``app``, and ``--help`` lists them in this order."""

import importlib

from edgekit.cli.common import app
from edgekit.cli.process import main

for _group in ("main_job", "measuring", "tune", "compression", "prediction", "search", "export"):
    importlib.import_module(f"{__name__}.{_group}")

__all__ = ["app", "main"]
