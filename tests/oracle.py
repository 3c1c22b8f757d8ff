"""TensorFlow Lite Micro's reference kernels as the oracle: the ``tflite-micro`` package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgekit.graph.ir import Graph

_ARENA = 4 << 20


def interpreter(model: bytes, arena: int = _ARENA):
    """A TFLM interpreter of ``model``; skips the test where the package is missing."""
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime",
        reason="the oracle (PyPI package tflite-micro, x86-64 Linux) is not installed",
    )
    return runtime.Interpreter.from_bytes(model, arena_size=arena)


def run_tflm(
    model: bytes, inputs: Sequence[np.ndarray], *, arena: int = _ARENA
) -> list[np.ndarray]:
    """Outputs of ``model`` for a batch: every input ``[samples, ...]`` (axis 0 of 1 replaced).

    Inputs whose declared shape does not start with 1 carry the samples in an axis of their own.
    Returns arrays of the same form.
    """
    itp = interpreter(model, arena)
    from ai_edge_litert import schema_py_generated as schema

    outputs = schema.Model.GetRootAsModel(model, 0).Subgraphs(0).OutputsLength()
    samples = inputs[0].shape[0] if inputs else 1
    results: list[list[np.ndarray]] = []
    for i in range(samples):
        for k, x in enumerate(inputs):
            shape = tuple(itp.get_input_details(k)["shape"])
            itp.set_input(np.ascontiguousarray(x[i]).reshape(shape), k)
        itp.invoke()
        results.append([np.array(itp.get_output(k)) for k in range(outputs)])
    out = []
    for parts in zip(*results, strict=True):
        joined = np.stack(parts)
        out.append(joined[:, 0] if parts[0].ndim and parts[0].shape[0] == 1 else joined)
    return out


def graph_to_tflm(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Write ``graph`` as .tflite and run it in TFLM; arrays as in :func:`run_tflm`."""
    from edgekit.formats.tflite import write_bytes

    model = write_bytes(graph)
    arena = _ARENA
    largest = max((t.elements for t in graph.tensors.values() if not t.is_const), default=1)
    return run_tflm(model, inputs, arena=max(arena, 64 * largest))
