"""edgekit: the best network for the device it has to run on.

``import edgekit`` is cheap; the verbs of the command line live in :mod:`edgekit.api` and are
reachable here lazily (``edgekit.deploy(...)``).
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_VERBS = (
    "load",
    "inspect",
    "compile",
    "run",
    "profile",
    "verify",
    "deploy",
    "emulate",
    "report",
    "doctor",
    "targets",
    "devices",
)


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        from edgekit import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgekit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *_VERBS]
