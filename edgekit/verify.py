"""Verification: the bytes a device gives against the oracle's, and accuracy where there are labels.

The oracle is TensorFlow Lite Micro's interpreter with its reference kernels where the package is
installed and takes the model, else edgekit's own reference executor, which the tests hold to the same
bytes. Which one it was is part of the result.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgekit.artifact import Artifact
from edgekit.data import Dataset, accuracy, model_inputs, predictions
from edgekit.devices.base import Device
from edgekit.errors import EdgekitError
from edgekit.graph.ir import Graph
from edgekit.targets.base import Backend, Progress
from edgekit.tolerance import TOLERANCES, error_of, judge

#: Outputs of the oracle that are known already, by what they were computed from.
Oracles = dict[str, tuple[list[np.ndarray], str]]

#: Arena the interpreter is given, bytes; generous because it costs nothing on the host.
_ARENA = 32 << 20


def oracle_outputs(
    graph: Graph, inputs: Sequence[np.ndarray], progress: Progress | None = None
) -> tuple[list[np.ndarray], str]:
    """Outputs of an integer graph by the oracle, and its name and version."""
    try:
        return _tflm(graph, inputs, progress)
    except _NotThisWay:
        from edgekit import __version__
        from edgekit.graph.reference import run

        if progress:
            progress(f"reference executor: {len(inputs[0])} samples")
        values = run(graph, list(inputs))
        return [values[o] for o in graph.outputs], f"edgekit reference {__version__}"


class _NotThisWay(Exception):
    """TFLM is not installed, or does not take this model."""


@contextmanager
def _quiet() -> Iterator[None]:
    """What the interpreter writes about operators it lacks goes nowhere: the result says which
    oracle it was. File descriptor 2 itself, because native code writes there."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _tflm(
    graph: Graph, inputs: Sequence[np.ndarray], progress: Progress | None
) -> tuple[list[np.ndarray], str]:
    try:
        from importlib.metadata import version

        from tflite_micro.python.tflite_micro import runtime

        name = f"tflite-micro {version('tflite-micro')}"
    except ImportError:
        raise _NotThisWay from None
    from edgekit.formats import tflite

    if progress:
        progress(f"{name}: {len(inputs[0])} samples")
    try:
        model = tflite.write_bytes(graph)
        with _quiet():
            interpreter = runtime.Interpreter.from_bytes(model, arena_size=_ARENA)
            outputs: list[list[np.ndarray]] = [[] for _ in graph.outputs]
            for k in range(len(inputs[0])):
                for i, values in enumerate(inputs):
                    interpreter.set_input(values[k].reshape(graph.tensor(graph.inputs[i]).shape), i)
                interpreter.invoke()
                for o, collected in enumerate(outputs):
                    collected.append(np.array(interpreter.get_output(o)))
    except (RuntimeError, ValueError, EdgekitError):
        raise _NotThisWay from None
    shapes = [graph.tensor(o).shape for o in graph.outputs]
    stacked = [
        np.stack([v.reshape(s[1:] if s and s[0] == 1 else s) for v in c])
        for c, s in zip(outputs, shapes, strict=True)
    ]
    return stacked, name


def verify(
    artifact: Artifact,
    backend: Backend,
    device: Device,
    data: Dataset,
    progress: Progress | None = None,
    oracles: Oracles | None = None,
) -> dict[str, Any]:
    """The document of ``verify --json``. oracles: kept between artifacts of one model and ``data``.

    ``samples``, ``mismatched_bytes`` and ``max_abs_diff`` (stored values) over all outputs;
    ``accuracy`` of the device and ``reference_accuracy`` of the model it came from (both 0..1, by the
    first output that holds classes; null without labels or classes); ``verified``: what was run (a
    backend that cannot run what it deploys says so in ``Compiled.details["verified"]``, a device that
    executes something else in its info's ``details["verified"]``); ``oracle``;
    ``first_divergent_layer`` (null when all bytes agree): the first layer, in execution order, of
    the first differing sample whose bytes differ. ``passed``: no byte differs, or for an engine that
    is not exact, ``criterion`` (:mod:`edgekit.tolerance`) is met.
    """
    reference = artifact.reference
    inputs = model_inputs(reference, data)
    files = artifact.manifest["files"]
    key = str(files.get("reference.ekg", files["graph.ekg"]))
    oracles = {} if oracles is None else oracles
    if key not in oracles:
        oracles[key] = oracle_outputs(reference, inputs, progress)
    expected, oracle = oracles[key]
    if progress:
        progress(f"{device.name}: {len(inputs[0])} samples")
    got = backend.run(artifact, device, inputs, progress=progress).outputs
    mismatched, largest, bad = 0, 0.0, -1
    for e, g in zip(expected, got, strict=True):
        same = e.reshape(g.shape)
        differs = (np.ascontiguousarray(same).view(np.uint8) !=
                   np.ascontiguousarray(g).view(np.uint8))  # fmt: skip
        mismatched += int(differs.sum())
        if differs.any():
            diff = np.abs(same.astype(np.float64) - g.astype(np.float64))
            largest = max(largest, float(np.nanmax(diff)))
            rows = differs.reshape(len(g), -1).any(axis=1)
            first = int(np.argmax(rows))
            bad = first if bad < 0 else min(bad, first)
    labels = data.y
    source = artifact.source
    criterion: dict[str, Any] = {"exact": True, "passed": mismatched == 0}
    if not artifact.details.get("exact", True):
        precision = artifact.details["precision"]
        criterion = judge(reference, precision, expected, got, labels is not None)
    if labels is None:
        ours = theirs = None
    else:
        which = next((i for i, g in enumerate(got) if predictions(g) is not None), 0)
        ours = accuracy(got[which], labels)
        theirs = (
            accuracy(expected[which], labels)
            if source is None
            else accuracy(_float_output(source, data, which), labels)
        )
    return {
        "device": device.name,
        "target": artifact.target.name,
        "engine": artifact.engine,
        "verified": device.info().details.get("verified")
        or artifact.details.get("verified", "the deployed program, run on the device"),
        "oracle": oracle,
        "samples": len(inputs[0]),
        "passed": criterion["passed"],
        "criterion": criterion,
        "bytes": int(sum(g.nbytes for g in got)),
        "mismatched_bytes": mismatched,
        "max_abs_diff": _plain(largest),
        "accuracy": ours,
        "reference_accuracy": theirs,
        "reference": "the float source model"
        if source is not None
        else "the quantized source model",
        "data": data.source,
        "first_divergent_layer": None
        if bad < 0
        else first_divergence(artifact, backend, device, [a[bad : bad + 1] for a in inputs], bad),
    }


def _plain(value: float) -> float | int | None:
    """For JSON: whole numbers as such, None for what is no number."""
    if not np.isfinite(value):
        return None
    return value if value % 1 else int(value)


def _float_output(source: Graph, data: Dataset, which: int) -> np.ndarray:
    from edgekit.graph.reference import run

    return run(source, model_inputs(source, data))[source.outputs[which]]


def first_divergence(
    artifact: Artifact,
    backend: Backend,
    device: Device,
    inputs: Sequence[np.ndarray],
    sample: int,
) -> dict[str, Any] | None:
    """Compare every layer of one sample with the reference executor on the compiled graph. The layers
    of an engine that is not exact diverge where they are beyond its tolerance."""
    from edgekit.graph.reference import run

    graph = artifact.graph
    expected = run(graph, list(inputs), keep="all")
    traced = backend.run(artifact, device, inputs, trace_layers=True).layers
    if not traced:
        why = f"no layer trace: engine '{artifact.engine}' does not tell its layers apart"
        return {"sample": sample, "layer": None, "tensor": None, "reason": why}
    exact = artifact.details.get("exact", True)
    limit = None if exact else TOLERANCES[artifact.details["precision"]].error
    for name, value in traced[0].items():
        want = expected[name].reshape(value.shape)
        if np.array_equal(want, value) or (limit is not None and error_of(want, value) <= limit):
            continue
        differs = want != value
        distance = np.abs(want.astype(np.float64) - value.astype(np.float64))
        at = int(np.argmax(differs) if exact else np.argmax(np.nan_to_num(distance, nan=np.inf)))
        where = np.unravel_index(at, value.shape)
        node = graph.producers().get(name)
        return {
            "sample": sample,
            "layer": None if node is None else node.name,
            "op": None if node is None else node.type,
            "tensor": name,
            "mismatched": int(differs.sum()),
            "elements": int(value.size),
            "index": [int(i) for i in where],
            "expected": want[where].item(),
            "got": value[where].item(),
            "examples": [
                {
                    "index": [int(i) for i in np.unravel_index(k, value.shape)],
                    "expected": want.flat[k].item(),
                    "got": value.flat[k].item(),
                }
                for k in map(int, np.flatnonzero(differs)[:5])
            ],
        }
    return {
        "sample": sample,
        "layer": None,
        "tensor": None,
        "reason": "every layer agrees with the compiled graph; the graph differs from its reference"
        if exact
        else "every layer is within the tolerance",
    }
