"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# A verdict on a commit must not depend on the dice: the examples of the property tests are the
# same in every run, unless one asks for new ones (``HYPOTHESIS_PROFILE=explore make quick``).
settings.register_profile("fixed", derandomize=True, database=None)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with development models and data (``zoo/``, ``data/``), or skip."""
    path = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
    if not (path / "zoo").is_dir():
        pytest.skip("no shared models and data: set EDGEKIT_SHARED to a folder with zoo/ and data/")
    return path
