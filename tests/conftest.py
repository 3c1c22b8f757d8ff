"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with development models and data (``zoo/``, ``data/``), or skip."""
    path = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
    if not (path / "zoo").is_dir():
        pytest.skip("no shared models and data: set EDGEKIT_SHARED to a folder with zoo/ and data/")
    return path
