"""``edgekit inspect``: what a model is, and how much of it is needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.compress import simplify, total_macs, total_parameters
from edgekit.errors import EdgekitError, UnsupportedError
from edgekit.graph.ir import Graph, Tensor
from edgekit.graph.ops import macs


def describe(graph: Graph) -> dict[str, Any]:
    """The document of ``inspect --json``.

    ``ops[]`` in execution order; ``macs``, ``parameters`` as the model stands; ``live_*`` after
    fusing and dead-channel elimination; ``dead_channels[]`` by tensor; ``unsupported[]`` with
    ``node``, ``op``, ``reason`` for what the reference executor cannot compute.
    """
    unsupported = _unsupported(graph)
    live: dict[str, Any] = {}
    try:
        s = simplify(graph, fold_float=True)
        live = {
            "live_macs": s.macs,
            "live_parameters": s.parameters,
            "dead_channels": s.to_json()["removed_channels"],
        }
    except UnsupportedError:
        live = {"live_macs": None, "live_parameters": None, "dead_channels": []}
    return {
        "name": graph.name,
        "format": graph.metadata.get("format"),
        "quantization": _quantization(graph),
        "inputs": [_tensor(graph.tensor(i)) for i in graph.inputs],
        "outputs": [_tensor(graph.tensor(o)) for o in graph.outputs],
        "ops": [
            {
                "name": n.name,
                "op": n.type,
                "inputs": [None if t is None else _short(t) for t in graph.ins(n)],
                "outputs": [_short(t) for t in graph.outs(n)],
                "macs": macs(n, graph),
                "parameters": sum(t.elements for t in graph.ins(n) if t is not None and t.is_const),
                "attributes": dict(n.attrs),
            }
            for n in graph.nodes
        ],
        "op_counts": _counts(graph),
        "macs": total_macs(graph),
        "parameters": total_parameters(graph),
        "parameter_bytes": sum(t.nbytes for t in graph.constants()),
        "activation_bytes": sum(graph.tensor(o).nbytes for n in graph.nodes for o in n.outputs),
        **live,
        "unsupported": unsupported,
        "metadata": dict(graph.metadata),
    }


def _counts(graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for n in graph.nodes:
        counts[n.type] = counts.get(n.type, 0) + 1
    return dict(sorted(counts.items()))


def _tensor(t: Tensor) -> dict[str, Any]:
    q = t.quant
    return {
        "name": t.name,
        "shape": list(t.shape),
        "dtype": t.dtype,
        "scale": None if q is None else q.s,
        "zero_point": None if q is None else q.zp,
    }


def _short(t: Tensor) -> str:
    return f"{t.dtype}[{','.join(map(str, t.shape))}]"


def _quantization(graph: Graph) -> str:
    kinds = {t.dtype for n in graph.nodes for t in graph.outs(n)}
    weights = {
        ("per-channel" if t.quant.is_per_channel else "per-tensor")
        for t in graph.constants()
        if t.quant is not None and t.dtype in ("int8", "uint8")
    }
    integer = kinds & {"int8", "uint8", "int16"}
    if not integer:
        return "float"
    text = "+".join(sorted(integer))
    if kinds & {"float32", "float16"}:
        text += " with float parts"
    return f"{text}, {' and '.join(sorted(weights))} weights" if weights else text


def _unsupported(graph: Graph) -> list[dict[str, str]]:
    """Try every node once on a sample of ones: the reference says what it cannot do, and why."""
    from edgekit.graph.reference import run_node

    values: dict[str, np.ndarray] = {}
    missing = []
    for i in graph.inputs:
        t = graph.tensor(i)
        values[i] = np.ones(t.shape, t.dtype)
    for n in graph.nodes:
        try:
            results = run_node(n, graph, values)
        except EdgekitError as e:
            missing.append({"node": n.name, "op": n.type, "reason": str(e)})
            results = [np.ones(t.shape, t.dtype) for t in graph.outs(n)]
        for name, v in zip(n.outputs, results, strict=True):
            values[name] = v
    return missing
