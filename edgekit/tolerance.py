"""What an engine's outputs are held to: the oracle's bytes, or a stated tolerance.

*Exact* engines are integer engines of ours: one differing byte and verification fails. Engines that
hand the model to somebody else's runtime are *tolerance* engines: int8 there is rounded differently
layer by layer (XNNPACK on an 8-layer residual network: up to 59 steps on a softmax output, 3 % of
the classes, accuracy unchanged), floats are summed in another order. The limits below are what such
an engine must keep, and they are printed with every verification.

- ``error``: for integer outputs the root mean square of the difference, as a share of the range that
  the output's type can represent; for float outputs the largest difference as a share of the
  reference's largest magnitude.
- ``argmax``: share of samples with the reference's class, where the output is a classification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.graph.ir import Graph


@dataclass(frozen=True)
class Tolerance:
    error: float
    argmax: float


TOLERANCES: Mapping[str, Tolerance] = {
    "int8": Tolerance(error=0.03, argmax=0.95),
    "float16": Tolerance(error=0.01, argmax=0.98),
    "tf32": Tolerance(error=0.01, argmax=0.98),  # 10 bits of mantissa, as float16 has
    "float32": Tolerance(error=1e-4, argmax=0.99),
}


def precision_of(graph: Graph) -> str:
    """``int8`` when any tensor is quantized, else ``float32``."""
    return "int8" if any(t.quant is not None for t in graph.tensors.values()) else "float32"


def judge(
    graph: Graph,
    precision: str,
    expected: Sequence[np.ndarray],
    got: Sequence[np.ndarray],
    classifies: bool,
) -> dict[str, Any]:
    """The ``criterion`` of a verification by tolerance, with ``passed``.

    classifies: there are labels; otherwise a graph that ends in SOFTMAX counts as a classifier.
    """
    from edgekit.data import predictions

    limit = TOLERANCES[precision]
    errors = [
        error_of(np.asarray(e).reshape(g.shape), g) for e, g in zip(expected, got, strict=True)
    ]
    agreement = None
    producer = graph.producers().get(graph.outputs[0])
    if classifies or (producer is not None and producer.type == "SOFTMAX"):
        which = next((i for i, g in enumerate(got) if predictions(g) is not None), None)
        if which is not None:
            same = predictions(np.asarray(expected[which])) == predictions(got[which])
            agreement = float(np.mean(same))
    error = max(errors)
    integer = not np.issubdtype(got[0].dtype, np.floating)
    return {
        "exact": False,
        "precision": precision,
        "measure": "rms difference / range of the output's type"
        if integer
        else "largest difference / largest magnitude of the reference",
        "error": error if np.isfinite(error) else None,
        "error_limit": limit.error,
        "argmax_agreement": agreement,
        "argmax_limit": limit.argmax,
        "passed": bool(error <= limit.error and (agreement is None or agreement >= limit.argmax)),
    }


def error_of(expected: np.ndarray, got: np.ndarray) -> float:
    """The figure that a tolerance limits: relative to the type's range or the largest magnitude."""
    difference = got.astype(np.float64) - expected.astype(np.float64)
    if np.issubdtype(got.dtype, np.integer):
        info = np.iinfo(got.dtype)
        return float(np.sqrt(np.mean(difference**2)) / (int(info.max) - int(info.min)))
    largest = float(np.abs(expected).max(initial=0.0))
    worst = float(np.abs(difference).max(initial=0.0))
    return worst / largest if largest else worst
