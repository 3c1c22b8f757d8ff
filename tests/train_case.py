"""What the tests of training share: the digits network, its data, damage to repair."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import edgekit_models
from edgekit import formats
from edgekit.graph.ir import Graph
from edgekit.graph.reference import run

FOLDER = Path(edgekit_models.__file__).parent


def digits() -> Graph:
    return formats.load(FOLDER / "digits.tflite")


def unlabelled():  # type: ignore[no-untyped-def]
    """200 training images without labels."""
    from edgekit.compress.train.batches import TrainData

    with np.load(FOLDER / "digits.npz") as d:
        return TrainData((d["calibration_x"].astype(np.float32),))


def held_out() -> tuple[np.ndarray, np.ndarray]:
    with np.load(FOLDER / "digits.npz") as d:
        return d["val_x"].astype(np.float32), d["val_y"].astype(np.int64)


def accuracy_of(graph: Graph) -> float:
    """On the 360 held-out images, by the reference executor; integer graphs too."""
    from edgekit.data import Dataset, model_inputs

    x, y = held_out()
    out = run(graph, model_inputs(graph, Dataset.of(x)))[graph.outputs[0]]
    return float((out.reshape(len(y), -1).argmax(1) == y).mean())


def damaged(graph: Graph, share: float, seed: int = 0) -> Graph:
    """Weights with multiplicative noise."""
    rng = np.random.default_rng(seed)
    out = graph.copy()
    for t in graph.constants():
        if t.data is not None and t.is_float and t.data.ndim > 1:
            noisy = t.data * (1 + share * rng.normal(size=t.shape))
            out.tensors[t.name] = t.with_(data=noisy.astype(np.float32))
    return out
