"""What the studies on digits share: data, networks, training, cost on the virtual Cortex-M4.

Data: scikit-learn's handwritten digits (1,797 images of 8x8). ``few`` of the training images are used, so
that there is something to overfit; the rest of them and the held-out images are the test set.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


def data(few: int, seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Training data of ``few`` images (another choice for another seed), test images and labels."""
    from edgekit.compress.train.batches import TrainData
    from edgekit_models.train_digits import data as everything

    x, y, vx, vy = everything()
    order = np.random.default_rng([seed, 5]).permutation(len(x))
    a, b = order[:few], order[few:]
    return TrainData((x[a],), y[a]), np.concatenate([x[b], vx]), np.concatenate([y[b], vy])


def network(convolutions: list[tuple[int, int]], name: str, dense: int = 0) -> Any:
    """A float graph 8x8x1 -> 10: 3x3 convolutions of (channels, stride) and ReLU, mean over positions,
    one dense layer; or with ``dense`` a network of two hidden dense layers (dense, dense // 2)."""
    from edgekit.graph.ir import Graph, Tensor

    g = Graph(name, {}, [], ("x",), ("y",))
    g.add_tensor(Tensor("x", (1, 8, 8, 1), "float32"))
    source, size, width = "x", 8, 1

    def weights(at: str, shape: tuple[int, ...]) -> str:
        return g.add_const(at, np.zeros(shape, np.float32)).name

    for k, (channels, stride) in enumerate(convolutions):
        size = -(-size // stride)
        g.add_tensor(Tensor(f"c{k}", (1, size, size, channels), "float32"))
        g.add_node("CONV_2D", [source, weights(f"c{k}/w", (channels, 3, 3, width)),
                               weights(f"c{k}/b", (channels,))], [f"c{k}"],
                   {"stride": (stride, stride), "padding": "SAME", "dilation": (1, 1),
                    "activation": "RELU"}, f"conv{k}")  # fmt: skip
        source, width = f"c{k}", channels
    features = size * size * width
    if convolutions:
        g.add_tensor(Tensor("mean", (1, width), "float32"))
        g.add_node("MEAN", [source], ["mean"],
                   {"axes": (1, 2), "keep_dims": False}, "mean")  # fmt: skip
        source, features = "mean", width
    else:
        g.add_tensor(Tensor("flat", (1, features), "float32"))
        g.add_node("RESHAPE", [source], ["flat"], {"new_shape": (1, features)}, "flatten")
        source = "flat"
    hidden = [dense, dense // 2] if dense else []
    for k, units in enumerate([*hidden, 10]):
        last = k == len(hidden)
        out = "y" if last else f"d{k}"
        g.add_tensor(Tensor(out, (1, units), "float32"))
        g.add_node("FULLY_CONNECTED", [source, weights(f"{out}/w", (units, features)),
                                       weights(f"{out}/b", (units,))], [out],
                   {"activation": "NONE" if last else "RELU", "keep_num_dims": False},
                   f"dense{k}")  # fmt: skip
        source, features = out, units
    return g.validate()


def accuracy(graph: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which images are right: bool ``[N]``; integer graphs by the reference executor."""
    from edgekit.compress.train.trainer import predict
    from edgekit.data import Dataset, model_inputs
    from edgekit.graph.reference import run

    if graph.is_quantized:
        out = run(graph, model_inputs(graph, Dataset.of(x)))[graph.outputs[0]]
    else:
        out = predict(graph, [x])[0]
    return np.asarray(out.reshape(len(y), -1).argmax(1) == y)


def cost(graph: Any, calibration: np.ndarray) -> tuple[dict[str, int], Any]:
    """Cycles (estimated), flash and RAM on the virtual Cortex-M4, compiled for speed, and the int8 form."""
    from edgekit import api
    from edgekit.data import Dataset
    from edgekit.targets.base import CompileOptions

    with tempfile.TemporaryDirectory() as tmp:
        artifact = api.compile(
            graph, "cortex-m4", Path(tmp) / "a", data=Dataset.of(calibration),
            options=CompileOptions(optimize="speed"),
        )  # fmt: skip
        p = api.profile(artifact)
        reference = api.open_artifact(Path(tmp) / "a").reference
    memory = p["memory"]
    return {
        "cycles": int(p["total"]["cycles"]), "flash": int(memory["flash_bytes"]),
        "ram": int(memory["ram_bytes"]),
    }, reference  # fmt: skip


def mean_se(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error (NaN for a single value)."""
    a = np.array(values)
    return float(a.mean()), float(a.std(ddof=1) / np.sqrt(len(a))) if len(a) > 1 else float("nan")
