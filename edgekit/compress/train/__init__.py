"""Training for compression: fine-tuning, distillation, quantization-aware and sparse training.

Every function takes and returns graphs; torch is imported only when one is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.compress.train.options import TrainOptions

if TYPE_CHECKING:
    from edgekit.compress.train.batches import TrainData
    from edgekit.compress.train.trainer import Diverged, Trained, train

_WHERE = {
    "TrainData": "batches",
    "Diverged": "trainer",
    "Trained": "trainer",
    "train": "trainer",
}

__all__ = ["Diverged", "TrainData", "TrainOptions", "Trained", "train"]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is asked for."""
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
