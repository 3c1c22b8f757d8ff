"""Checkpoints: one file, written aside and renamed, read without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from edgekit.errors import InputError


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at once: a kill leaves the old one or the new one, never half of one."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temp, "wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temp, path)
    except OSError as e:
        raise InputError(
            f"checkpoint '{path.name}' cannot be written ({e.strerror or e}); "
            "a work folder with room would be accepted"
        ) from None
    finally:
        temp.unlink(missing_ok=True)


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The state, or None where there is none for this ``key``; InputError for a damaged file."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)  # of a run that was killed while writing
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a damaged file makes the reader raise nearly anything
        raise InputError(
            f"checkpoint '{path.name}' cannot be read ({type(e).__name__}); "
            "remove it to train from the start"
        ) from None
    return state if isinstance(state, dict) and state.get("key") == key else None
