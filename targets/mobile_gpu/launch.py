"""The launch plan: kernels in order, their geometry and arguments, buffers, weights.

``plan.txt`` is what the runner reads, ``plan.json`` says the same for people and for ``edgekit``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import json_text

from . import buffers
from .buffers import Life
from .generate import sources
from .lower import Launch, Lowering

KERNELS, WEIGHTS, PLAN, LAYERS = "kernels.cl", "weights.bin", "plan.txt", "plan.json"
FILES = (KERNELS, WEIGHTS, PLAN, LAYERS)
#: Constants in the weights file begin at multiples of it.
_ALIGN = 64


def write(lo: Lowering, folder: Path) -> dict[str, Any]:
    """Write the files; returns ``plan.json``'s document."""
    text, functions = sources(lo.launches, lo.limits)
    offsets, blob = _pack(lo)
    plan = buffers.plan(lifetimes(lo))
    constants = {name: k for k, name in enumerate(offsets)}

    def argument(launch: Launch, k: int) -> str:
        arg = launch.kernel.args[k]
        return f"c{constants[arg.name]}" if arg.constant else f"b{plan.place[arg.name]}"

    rows = []
    for launch, function in zip(lo.launches, functions, strict=True):
        kernel = launch.kernel
        assert kernel.grid is not None
        rows.append(
            {
                "function": function.name,
                "nodes": [n.name for n in launch.nodes],
                "ops": [n.type for n in launch.nodes],
                "global": list(kernel.grid.size),
                "local": list(kernel.grid.local),
                "local_memory_bytes": kernel.local_bytes,
                "arguments": [argument(launch, k) for k in function.order],
                "reads": [a.name for a in kernel.args if not a.constant][:-1],
                "weights": [a.name for a in kernel.args if a.constant],
                "writes": _tensor(lo, plan, launch.writes),
            }
        )
    document = {
        "buffers": list(plan.sizes),
        "peak_bytes": plan.peak,
        "unshared_bytes": plan.total,
        "constants": [
            {"name": n, "offset": o, "bytes": size, "dtype": lo.weights[n][0].dtype}
            for n, (o, size) in offsets.items()
        ],
        "inputs": [_tensor(lo, plan, i) for i in lo.graph.inputs],
        "outputs": [_tensor(lo, plan, o) for o in lo.graph.outputs],
        "tensors": [
            {**_tensor(lo, plan, t.name), "first": t.first, "last": t.last} for t in lifetimes(lo)
        ],
        "kernels": rows,
    }
    (folder / KERNELS).write_text(text, "ascii")
    (folder / WEIGHTS).write_bytes(blob)
    (folder / PLAN).write_text(_runner_text(document), "ascii")
    (folder / LAYERS).write_text(json_text(document), "utf-8")
    return document


def lifetimes(lo: Lowering) -> list[Life]:
    """When each tensor with a buffer is needed; inputs from the start, outputs to the end. Inputs
    of a next inference are written after the outputs have been read."""
    last = len(lo.launches) - 1
    first: dict[str, int] = dict.fromkeys(lo.graph.inputs, 0)
    final: dict[str, int] = dict.fromkeys(lo.graph.inputs, 0)
    for step, launch in enumerate(lo.launches):
        for arg in launch.kernel.args:
            if not arg.constant:
                first.setdefault(arg.name, step)
                final[arg.name] = step
    for name in lo.graph.outputs:
        final[lo.root(name)] = last
    return [Life(t, _bytes(lo, t), first[t], final[t]) for t in first]


def _bytes(lo: Lowering, name: str) -> int:
    t = lo.graph.tensor(name)
    return t.elements * lo.storage(t).itemsize


def _tensor(lo: Lowering, plan: buffers.Plan, name: str) -> dict[str, Any]:
    t, root = lo.graph.tensor(name), lo.root(name)
    return {
        "tensor": name,
        "shape": list(t.shape),
        "stored": lo.storage(lo.graph.tensor(root)).dtype,
        "buffer": plan.place[root],
        "bytes": _bytes(lo, root),
    }


def _pack(lo: Lowering) -> tuple[dict[str, tuple[int, int]], bytes]:
    """Constants that kernels read: name -> (offset, bytes), and the file."""
    used = {a.name for x in lo.launches for a in x.kernel.args if a.constant}
    offsets: dict[str, tuple[int, int]] = {}
    blob = bytearray()
    for name, (_, data) in lo.weights.items():
        if name not in used:
            continue
        blob += bytes(-len(blob) % _ALIGN)
        little = data.astype(data.dtype.newbyteorder("<"), copy=False)
        offsets[name] = (len(blob), data.nbytes)
        blob += np.ascontiguousarray(little).tobytes()
    return offsets, bytes(blob)


def _runner_text(document: Mapping[str, Any]) -> str:
    def port(t: Mapping[str, Any]) -> str:
        return f"{t['buffer']} {t['bytes']}"

    lines = ["edgekit-opencl-plan 1", f"buffers {len(document['buffers'])}"]
    lines += [str(n) for n in document["buffers"]]
    lines.append(f"constants {len(document['constants'])}")
    lines += [f"{c['offset']} {c['bytes']}" for c in document["constants"]]
    for key in ("inputs", "outputs"):
        lines.append(f"{key} {len(document[key])}")
        lines += [port(t) for t in document[key]]
    lines.append(f"kernels {len(document['kernels'])}")
    for k in document["kernels"]:
        sizes = " ".join(str(n) for n in (*k["global"], *k["local"]))
        args = " ".join(k["arguments"])
        lines.append(
            f"{k['function']} {sizes} {port(k['writes'])} {len(k['arguments'])} {args}".rstrip()
        )
    return "\n".join(lines) + "\n"
