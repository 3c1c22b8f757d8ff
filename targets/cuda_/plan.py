"""The launch plan: where every tensor lies, and what is launched with which addresses.

One arena in the GPU's memory holds all activations, planned by lifetime (the planner of the ``mcu``
family); weights lie in a second allocation. The runner reads the plan as text
(``runtime/runner.c``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import ToolchainError
from edgekit.graph.ir import Graph
from edgekit_targets.cuda_.lower import Lowered, Value
from edgekit_targets.mcu.memory import Buffer, pack

ALIGN = 256  #: what cudaMalloc promises; vector loads need 16


@dataclass(frozen=True)
class Launch:
    """kernel: its name in the module. order: which of the step's arguments each parameter is."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    order: tuple[int, ...]


@dataclass(frozen=True)
class Planned:
    text: str
    arena_bytes: int
    buffers: list[dict[str, Any]]


def pack_weights(lowered: Lowered) -> tuple[bytes, dict[tuple[int, int], int]]:
    """(file, (step, argument) -> offset); equal constants are stored once."""
    data = bytearray()
    offsets: dict[tuple[int, int], int] = {}
    known: dict[bytes, int] = {}
    for i, step in enumerate(lowered.steps):
        for k, v in enumerate(step.args):
            if v.constant is None:
                continue
            raw = v.constant.tobytes()
            if raw not in known:
                data.extend(b"\0" * (-len(data) % ALIGN))
                known[raw] = len(data)
                data.extend(raw)
            offsets[i, k] = known[raw]
    return bytes(data), offsets


def _lives(lowered: Lowered, graph: Graph) -> dict[str, tuple[Value, int, int]]:
    """Buffer -> (its value, first step, last step)."""
    lives: dict[str, tuple[Value, int, int]] = {}

    def touch(v: Value, step: int) -> None:
        if v.constant is not None:
            return
        _, first, last = lives.get(v.name, (v, step, step))
        lives[v.name] = (v, min(first, step), max(last, step))

    for name in graph.inputs:
        touch(lowered.values[name], -1)
    for i, step in enumerate(lowered.steps):
        for v in step.args:
            touch(v, i)
    for name in graph.outputs:
        touch(_output(lowered, graph, name), len(lowered.steps))
    return lives


def _output(lowered: Lowered, graph: Graph, name: str) -> Value:
    value = lowered.values.get(name)
    if value is None:
        raise ToolchainError(f"output '{name}' is a constant, which the cuda engine cannot give")
    return value


def make(
    lowered: Lowered,
    graph: Graph,
    launches: Mapping[str, Launch],
    weights: tuple[int, Mapping[tuple[int, int], int]],
    trace: bool = False,
) -> Planned:
    """trace: every tensor keeps a place of its own, and all of them are outputs."""
    lives = _lives(lowered, graph)
    outputs: Sequence[str] = traced(graph) if trace else graph.outputs
    end = len(lowered.steps)
    buffers = [
        Buffer(n, v.nbytes, -1 if trace else first, end if trace else last, align=ALIGN)
        for n, (v, first, last) in lives.items()
    ]
    arena, offsets = pack(buffers)
    size, places = weights
    lines = ["edgekit-cuda 1", f"arena {arena}", f"weights {size}", f"steps {end}"]
    for name in graph.inputs:
        v = lowered.values[name]
        lines.append(f"input {offsets[v.name]} {v.nbytes}")
    for name in outputs:
        v = _output(lowered, graph, name)
        lines.append(f"output {offsets[v.name]} {v.nbytes}")
    for i, step in enumerate(lowered.steps):
        la = launches[step.function]
        words = [la.kernel, *map(str, (*la.grid, *la.block)), str(len(la.order))]
        for k in la.order:
            v = step.args[k]
            where = f"a{offsets[v.name]}" if v.constant is None else f"w{places[i, k]}"
            words.append(where)
        lines.append("launch " + " ".join(words))
    rows = [
        {
            "name": b.name,
            "offset": offsets[b.name],
            "bytes": b.bytes,
            "first": b.first,
            "last": b.last,
            "tensors": [b.name],
        }
        for b in sorted(buffers, key=lambda b: (offsets[b.name], b.first, b.name))
    ]
    return Planned("\n".join(lines) + "\n", arena, rows)


def traced(graph: Graph) -> list[str]:
    """The tensors that the tracing plan gives, in execution order."""
    return [o for n in graph.nodes for o in n.outputs]


def from_stored(raw: bytes, values: Sequence[Value], samples: int) -> list[np.ndarray]:
    """The runner's output file -> one array a value, samples stacked; halves become float32."""
    width = sum(v.nbytes for v in values)
    table = np.frombuffer(raw, np.uint8).reshape(samples, width)
    out, at = [], 0
    for v in values:
        part = np.ascontiguousarray(table[:, at : at + v.nbytes]).view(v.stored)
        at += v.nbytes
        part = part.astype(np.float32) if v.stored == "float16" else part
        out.append(part.reshape(samples, *v.shape))
    return out
