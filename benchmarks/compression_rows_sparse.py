"""Rows of ``compression.py`` for sparse training from scratch, on the digits network: masks over weights
(whose cycles stay: no sparse kernel reads them) and over channels (cut out). With labels, three seeds.
Needs no shared data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compression import Row

SECTION = "Sparse from scratch: digits network, labels"
MODEL = str(Path(__file__).resolve().parent.parent / "models" / "digits.tflite")
SEEDS, STEPS = 3, 400


def _images(part: int) -> Any:
    from edgekit.data import Dataset
    from edgekit_models.train_digits import data

    x, y, vx, vy = data()
    return Dataset(
        {"x": vx if part else x}, vy if part else y, f"digits, {'held out' if part else 'train'}"
    )


def rows() -> list[Row]:
    train = {"steps": STEPS, "labels": True}
    kinds: dict[str, dict[str, Any]] = {}
    for method in ("random", "snip", "set", "rigl", "momentum", "dsr", "variational"):
        kinds[f"{method}, 0.2 of the weights"] = {
            "step": "sparse-train",
            "method": method,
            "keep": 0.2,
            "every": 25,
            **train,
        }
    for rewind in ("early", "start", "fresh"):
        kinds[f"lottery {rewind}, 0.2 of the weights, 2 rounds"] = {
            "step": "lottery",
            "keep": 0.2,
            "rounds": 2,
            "rewind": rewind,
            **train,
        }
    for method in ("random", "snip", "variational"):
        kinds[f"{method} channels, 0.5 of the cycles"] = {
            "step": "sparse-channels",
            "method": method,
            "cycles": 0.5,
            **train,
        }
    kinds["gradual channels, 0.5 of the cycles"] = {
        "step": "gradual-channels",
        "cycles": 0.5,
        "labels": True,
        "steps": STEPS,
    }
    kinds["early-bird channels, 0.6 of the channels"] = {
        "step": "early-bird",
        "keep": 0.6,
        "every": 10,
        "multiple": 4,
        **train,
    }
    return [
        Row(f"digits: {name}, seed {seed}", [step], SECTION, MODEL, seed=seed,
            data=lambda: _images(0), val=lambda: _images(1), split="held-out digits")
        for seed in range(SEEDS) for name, step in kinds.items()
    ]  # fmt: skip
