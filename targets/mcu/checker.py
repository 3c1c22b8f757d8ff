"""Proof that a memory plan is sound, by other means than the planner's.

The checker knows nothing of buffers and lifetimes: it plays the graph step by step on a map of the
arena, in which every byte remembers which tensor wrote it last. A read that finds a foreign byte, or
an output that lands on a byte still needed and not allowed to be overwritten, is a defect.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.errors import EdgekitError
from edgekit.graph.ir import Graph, Node

from .contract import KernelCall


class PlanError(EdgekitError):
    """A memory plan that would corrupt data: a defect of the planner, never of the model."""

    exit_code = 1


def check_plan(
    graph: Graph,
    calls: Mapping[str, KernelCall],
    arena_bytes: int,
    offsets: Mapping[str, int],
    scratch: Mapping[str, int],
    align: int = 8,
) -> None:
    """Raise PlanError unless running ``graph`` in this layout keeps every value intact.

    offsets: tensor -> byte offset; scratch: node -> byte offset. Within a node, all outputs, the
    scratch and all inputs are distinct, except for in-place pairs, which coincide exactly or not at
    all, and for a concatenation whose inputs already lie where it would put them.
    """
    ids = {name: k + 1 for k, name in enumerate(offsets)}
    owner = np.zeros(arena_bytes, np.int32)

    def span(name: str, at: int, size: int) -> slice:
        if at < 0 or at % align or at + size > arena_bytes:
            raise PlanError(
                f"memory plan: '{name}' ({size} bytes at {at}) is misaligned or outside the "
                f"arena of {arena_bytes} bytes"
            )
        return slice(at, at + size)

    def of(name: str) -> slice:
        if name not in offsets:
            raise PlanError(f"memory plan: tensor '{name}' has no place")
        return span(name, offsets[name], graph.tensor(name).nbytes)

    def intact(name: str, when: str, rows: slice | None = None) -> None:
        bytes_ = owner[of(name)]
        if not np.all((bytes_ if rows is None else bytes_[rows]) == ids[name]):
            raise PlanError(f"memory plan: tensor '{name}' is overwritten before {when}")

    for name in graph.inputs:
        if np.any(owner[of(name)]):
            raise PlanError(f"memory plan: graph input '{name}' overlaps another input")
        owner[of(name)] = ids[name]

    for node in graph.nodes:
        ins = [i for i in node.inputs if i is not None and not graph.tensor(i).is_const]
        for i in ins:
            intact(i, f"node '{node.name}' reads it", _rows(graph, node))
        call = calls.get(node.name)
        in_place = _lies_there(graph, node, offsets)
        shared = {(node.inputs[i], node.outputs[o]) for i, o in (call.inplace if call else ())}
        busy: list[tuple[str, slice]] = []
        for i in dict.fromkeys(ins):
            whole, rows = of(i), _rows(graph, node)
            if rows is not None:  # the rest of it may be gone already
                whole = slice(whole.start + rows.start, whole.start + rows.stop)
            busy.append((i, whole))
        parts: list[tuple[str, slice]] = [(o, of(o)) for o in node.outputs]
        if call is not None and call.scratch_bytes:
            if node.name not in scratch:
                raise PlanError(f"memory plan: the scratch of node '{node.name}' has no place")
            at = span(f"scratch of {node.name}", scratch[node.name], call.scratch_bytes)
            parts.append(("scratch", at))
        for k, (name, where) in enumerate(parts):
            for other, there in [*busy, *parts[:k]]:
                if where.start >= there.stop or there.start >= where.stop:
                    continue
                if (other, name) in shared and where.start == there.start:
                    continue
                if in_place and other in ins and name in node.outputs:
                    continue
                raise PlanError(
                    f"memory plan: node '{node.name}' would overwrite '{other}' with '{name}'"
                )
        for name, where in reversed(parts):  # outputs last: they survive the node
            owner[where] = ids.get(name, -1) if name != "scratch" else -1
    for name in graph.outputs:
        if not graph.tensor(name).is_const:
            intact(name, "the caller reads it")


def _lies_there(graph: Graph, node: Node, offsets: Mapping[str, int]) -> bool:
    """Whether a concatenation's inputs are, byte for byte, its output's bytes."""
    if node.type != "CONCATENATION":
        return False
    result = graph.tensor(node.outputs[0])
    outer = result.shape[: node.attrs["axis"]]
    at = offsets.get(node.outputs[0], -1)
    for t in graph.ins(node):
        if t is None or offsets.get(t.name) != at or t.dtype != result.dtype:
            return False
        if t.quant is not result.quant and (t.quant is None or not t.quant.same_as(result.quant)):
            return False
        at += t.nbytes
    return all(d == 1 for d in outer) and node.attrs.get("activation", "NONE") == "NONE"


def _rows(graph: Graph, node: Node) -> slice | None:
    """The bytes of its input that a slice along the outermost dimension reads, found by slicing the
    numbers of the input's bytes; None for every other node."""
    if node.type != "STRIDED_SLICE":
        return None
    x, a = graph.tensor(node.inputs[0]), node.attrs
    size = np.dtype(x.dtype).itemsize
    numbers = np.arange(x.elements).reshape(x.shape)
    taken = numbers[
        tuple(slice(b, e, s) for b, e, s in zip(a["begin"], a["end"], a["strides"], strict=True))
    ].reshape(-1)
    if taken.size == 0 or any(s < 1 for s in a["strides"]) or np.any(np.diff(taken) != 1):
        return None
    return slice(int(taken[0]) * size, (int(taken[-1]) + 1) * size)
