"""A small study to test with: the digits network that comes with the project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekit import api
from edgekit.data import Dataset, load_dataset
from edgekit.search.folder import StudyFolder
from edgekit.search.space import Fidelity
from edgekit.search.study import SearchOptions, make_study

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "digits.tflite"
DATA = f"{ROOT}/models/digits.npz:calibration_x"
VAL = f"{ROOT}/models/digits.npz:val_x,val_y"
LIGHT = Fidelity(samples=60, rows=1500, ridge=1e-2)


def data(samples: int = 60) -> Dataset:
    return load_dataset(DATA).head(samples)


def val(samples: int = 120) -> Dataset:
    return load_dataset(VAL).head(samples)


def study(out: Path, *, budgets: tuple[str, ...] = ("accuracy_drop<=3",), target: str = "x86-64-host",
          checks: Dataset | None = None, **options: Any) -> StudyFolder:  # fmt: skip
    """options: of :class:`SearchOptions`; small enough for a test unless they say otherwise. LiteRT on
    this machine needs no compiler; its clock decides nothing, MACs do."""
    settings: dict[str, Any] = {
        "trials": 8, "quick": LIGHT, "thorough": LIGHT, "multiple": 8, "importance_samples": 60,
        "optimize": ("balanced",), "predictor": False, "engines": ("litert-int8",), "objective": "macs",
    }  # fmt: skip
    return make_study(
        api.load(MODEL), target, data(), checks or val(), out, budgets=budgets,
        options=SearchOptions(**{**settings, **options}),
    )  # fmt: skip


def cli(*args: str, timeout: float = 600, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit.cli", *args], capture_output=True, text=True,
        timeout=timeout, check=False, cwd=ROOT, env={**os.environ, **env},
    )  # fmt: skip
