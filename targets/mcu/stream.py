"""Row streaming: the widest layers computed a few rows at a time, so that none of them is ever whole.

A run of layers that only look at neighbouring rows is cut into stripes: each layer computes the rows
its readers need for the stripe, keeps the rows that the next stripe reads again, and forgets the rest.
Nothing is computed twice (unlike the patches of MCUNetV2, Lin et al. 2021, whose borders overlap);
the price is copying the kept rows. The result is an ordinary graph of smaller layers, slices and
concatenations along the rows, which the planner lays out without copies where it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, Tensor

from .contract import KernelCall
from .memory import lower_bound, make_buffers, mergeable, pack

_WINDOWED = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D")
_ELEMENTWISE = (
    *("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC"),
    *("TANH", "HARD_SWISH", "LEAKY_RELU", "PRELU", "ABS", "GELU", "QUANTIZE"),
)
LONGEST = 12  #: layers in one stream
STRIPE_ROWS = (1, 2, 3, 4, 6, 8, 16)
MOST_STRIPES = 32
ROUNDS = 3  #: streams in one graph
NEAR = 1.03
PACKED = 3  #: candidates that are packed
WORTH = 0.85  #: a stream has to bring the peak below this share of what it was

Range = tuple[int, int]


def _window(node: Node, graph: Graph) -> tuple[int, int, tuple[int, int, int, int]]:
    """(rows of the window, stride, (top, bottom, left, right)) of a windowed node."""
    a = node.attrs
    x = graph.tensor(node.inputs[0])
    if node.type.endswith("POOL_2D"):
        kernel, dilation = tuple(a["filter"]), (1, 1)
    else:
        w = graph.tensor(node.inputs[1])
        kernel, dilation = w.shape[1:3], tuple(a["dilation"])
    pads, _ = nm.conv_padding((x.shape[1], x.shape[2]), kernel, a["stride"], a["padding"], dilation)
    top, bottom, left, right = (int(p) for p in pads)
    return (kernel[0] - 1) * dilation[0] + 1, int(a["stride"][0]), (top, bottom, left, right)


def _acts(node: Node, graph: Graph) -> list[str]:
    return [i for i in node.inputs if i is not None and not graph.tensor(i).is_const]


def streamable(node: Node, graph: Graph) -> bool:
    """Whether the node's output rows depend on neighbouring input rows only."""
    names = [*_acts(node, graph), *node.outputs]
    tensors = [graph.tensor(n) for n in names]
    if any(len(t.shape) != 4 or t.shape[0] != 1 for t in tensors) or len(node.outputs) != 1:
        return False
    if node.type in _WINDOWED:
        return len(names) == 2
    if node.type == "CONCATENATION":
        return node.attrs["axis"] == 3 and len(names) == len(node.inputs) + 1
    if node.type not in _ELEMENTWISE:
        return False
    rows = {t.shape[1] for t in tensors}
    consts = [t for t in graph.ins(node) if t is not None and t.is_const]
    return len(rows) == 1 and all(len(t.shape) < 3 or t.shape[-3] == 1 for t in consts)


def _needs(node: Node, graph: Graph, rows: Range) -> Range:
    """Input rows that the output rows are computed from."""
    if node.type not in _WINDOWED:
        return rows
    reach, stride, (top, *_rest) = _window(node, graph)
    height = graph.tensor(node.inputs[0]).shape[1]
    first = min(max(0, rows[0] * stride - top), height)
    return first, min(height, max(first, (rows[1] - 1) * stride - top + reach))


@dataclass(frozen=True)
class _Schedule:
    """By tensor, stripe by stripe: end, the rows made so far; keep, the first row still read."""

    end: Mapping[str, Sequence[int]]
    keep: Mapping[str, Sequence[int]]


def _schedule(
    graph: Graph, nodes: Sequence[Node], exports: Sequence[str], stripes: int
) -> _Schedule:
    made = {n.outputs[0]: n for n in nodes}
    end: dict[str, list[int]] = {t: [] for t in made}
    starts: dict[str, list[int]] = {t: [] for t in made}
    for k in range(stripes):
        last = k == stripes - 1
        for node in reversed(nodes):
            t = node.outputs[0]
            height = graph.tensor(t).shape[1]
            before = end[t][-1] if end[t] else 0
            readers = [r for r in nodes if t in r.inputs]
            want = before
            first = height
            for reader in readers:
                o = reader.outputs[0]
                rows = (end[o][k - 1] if k else 0, end[o][k])
                if rows[0] < rows[1]:
                    need = _needs(reader, graph, rows)
                    want, first = max(want, need[1]), min(first, need[0])
            if t in exports and last:
                want = height
            elif not readers:
                want = max(want, -(-height * (k + 1) // stripes))
            end[t].append(min(want, height))
            starts[t].append(first)
    keep = {}
    for t, firsts in starts.items():
        later, kept = graph.tensor(t).shape[1], []
        for first in reversed([*firsts[1:], later]):
            later = min(later, first)
            kept.append(later)
        keep[t] = kept[::-1]
    return _Schedule(end, keep)


class _Emitter:
    """Writes the stripes of one segment into a graph."""

    def __init__(self, source: Graph, out: Graph) -> None:
        self.source, self.out = source, out
        self.windows: dict[str, tuple[str, Range]] = {}  #: tensor -> what holds it now, which rows
        self.origin: dict[str, str] = {}  #: piece of a layer -> the layer
        self.last = ""

    def _tensor(self, like: Tensor, rows: int, label: str) -> str:
        shape = (1, rows, *like.shape[2:])
        return self.out.add_tensor(like.with_(name=f"{like.name}/{label}", shape=shape)).name

    def _add(
        self, node: Node, kind: str, inputs: list[str | None], out: str, **attrs: object
    ) -> None:
        name = f"{node.name}/{out.rpartition('/')[2]}"
        self.last = self.out.add_node(kind, inputs, [out], attrs, name=name).name

    def cut(self, node: Node, tensor: str, rows: Range, label: str) -> str:
        """The rows of a tensor: the tensor or window itself where they are all of it, else a copy."""
        like = self.source.tensor(tensor)
        name, have = self.windows.get(tensor, (tensor, (0, like.shape[1])))
        if have == rows:
            return name
        if not have[0] <= rows[0] < rows[1] <= have[1]:
            raise AssertionError(f"rows {rows} of '{tensor}' are not in its window {have}")
        part = self._tensor(like, rows[1] - rows[0], label)
        shape = self.out.tensor(name).shape
        begin = (0, rows[0] - have[0], 0, 0)
        end = (1, rows[1] - have[0], *shape[2:])
        self._add(
            node, "STRIDED_SLICE", [name], part,
            begin=begin, end=end, strides=(1, 1, 1, 1), shrink_axes=(),
        )  # fmt: skip
        return part

    def piece(self, node: Node, rows: Range, label: str) -> str:
        """Rows of a node's output."""
        out = self._tensor(self.source.tensor(node.outputs[0]), rows[1] - rows[0], label)
        need = _needs(node, self.source, rows)
        inputs: list[str | None] = []
        for k, i in enumerate(node.inputs):
            if i is None or self.source.tensor(i).is_const:
                inputs.append(i)
            else:
                inputs.append(self.cut(node, i, need, f"{label}.in{k}"))
        attrs = dict(node.attrs)
        if node.type in _WINDOWED:
            reach, stride, (top, _bottom, left, right) = _window(node, self.source)
            above = need[0] - (rows[0] * stride - top)
            below = (rows[1] - 1) * stride - top + reach - need[1]
            attrs["padding"] = (above, max(0, below), left, right)
        self._add(node, node.type, inputs, out, **attrs)
        self.origin[self.last] = node.name
        return out

    def join(self, node: Node, parts: list[str], tensor: str, label: str) -> str:
        like = self.source.tensor(tensor)
        rows = sum(self.out.tensor(p).shape[1] for p in parts)
        out = self._tensor(like, rows, label) if label else tensor
        self._add(node, "CONCATENATION", list(parts), out, axis=1, activation="NONE")
        return out


def stream(graph: Graph, first: int, last: int, rows: int) -> tuple[Graph, dict[str, str]] | None:
    """``graph`` with nodes ``first``..``last`` computed ``rows`` rows of the last one at a time, and
    piece of a layer -> the layer. None where that is not possible or is one stripe only."""
    nodes = graph.nodes[first : last + 1]
    if not all(streamable(n, graph) for n in nodes):
        return None
    height = graph.tensor(nodes[-1].outputs[0]).shape[1]
    stripes = -(-height // rows)
    if not 1 < stripes <= MOST_STRIPES:
        return None
    inside = {n.name for n in nodes}
    readers = graph.consumers()
    exports = [
        n.outputs[0]
        for n in nodes
        if n.outputs[0] in graph.outputs or any(r.name not in inside for r in readers[n.outputs[0]])
    ]
    if nodes[-1].outputs[0] not in exports:
        return None
    schedule = _schedule(graph, nodes, exports, stripes)
    out = graph.copy()
    out.nodes = list(graph.nodes[:first])
    emit = _Emitter(graph, out)
    pieces: dict[str, list[str]] = {n.outputs[0]: [] for n in nodes}
    final_reader = {
        t: max((k for k, n in enumerate(nodes) if t in n.inputs), default=-1) for t in pieces
    }
    carried: dict[str, tuple[str, Range]] = {}
    for k in range(stripes):
        for index, node in enumerate(nodes):
            t = node.outputs[0]
            made = (schedule.end[t][k - 1] if k else 0, schedule.end[t][k])
            window = carried.pop(t, None)
            if made[0] < made[1]:
                part = emit.piece(node, made, f"{k}")
                pieces[t].append(part)
                if window is None:
                    window = part, made
                else:
                    joined = emit.join(node, [window[0], part], t, f"{k}.window")
                    window = joined, (window[1][0], made[1])
            if window is not None:
                emit.windows[t] = window
            for i in dict.fromkeys([*_acts(node, graph), t]):
                if i not in pieces or final_reader[i] != index or k == stripes - 1:
                    continue
                kept = (schedule.keep[i][k], schedule.end[i][k])
                if kept[0] < kept[1] and i in emit.windows:
                    carried[i] = emit.cut(node, i, kept, f"{k}.kept"), kept
    for node in nodes:
        t = node.outputs[0]
        if t in exports:
            if len(pieces[t]) > 1:
                emit.join(node, pieces[t], t, "")
            else:  # all of it came with the first stripe
                out.nodes = [
                    n.with_(outputs=(t,))
                    if n.outputs == (pieces[t][0],)
                    else n.with_(inputs=tuple(t if i == pieces[t][0] else i for i in n.inputs))
                    for n in out.nodes
                ]
    out.nodes += graph.nodes[last + 1 :]
    out.prune()
    return out.validate(), emit.origin


def peak(graph: Graph, calls: Mapping[str, KernelCall]) -> tuple[int, int]:
    """(least bytes any layout of ``graph`` needs, the step that needs them)."""
    return min(
        (lower_bound(make_buffers(graph, calls, m)) for m in ((), mergeable(graph, calls))),
        key=lambda p: p[0],
    )


def streamed(
    graph: Graph,
    calls: Mapping[str, KernelCall],
    near: float = NEAR,
    progress: Callable[[str], None] | None = None,
) -> Graph:
    """``graph`` with the streams that lower its peak most, or ``graph`` itself.

    near: so many times the least peak may be spent on fewer stripes (which cost code, copies, and
    the speed of kernels that want many rows). calls: the nodes' kernels of least scratch; a stripe
    is taken to need as much scratch as its layer. Greedy: the best stream through the peak, then
    again, up to ``ROUNDS`` times.
    """
    calls = dict(calls)
    whole = {n.name for n in graph.nodes}
    for _ in range(ROUNDS):
        now, at = peak(graph, calls)
        at = min(max(at, 0), len(graph.nodes) - 1)
        found: list[tuple[int, int, Graph, dict[str, str]]] = []
        for first in range(max(0, at - LONGEST + 1), at + 1):
            for last in range(at, min(len(graph.nodes), first + LONGEST)):
                run = graph.nodes[first : last + 1]
                if len(run) < 2 or any(n.name not in whole for n in run):
                    continue
                for rows in STRIPE_ROWS:
                    made = stream(graph, first, last, rows)
                    if made is None:
                        continue
                    cost, _ = peak(made[0], {**calls, **_parts(calls, made[1])})
                    if cost < now * WORTH:
                        found.append((cost, len(made[0].nodes), *made))
        if not found:
            return graph
        # the bound says which to look at; how well the pieces really pack decides
        least = min(f[0] for f in found)
        found = [f for f in found if f[0] <= least * near]
        found.sort(key=lambda f: (f[1], f[0], f[2].nodes[0].name))
        packed = [
            (pack(make_buffers(f[2], {**calls, **_parts(calls, f[3])}))[0], f)
            for f in found[:PACKED]
        ]
        least = min(size for size, _ in packed)
        best = next(f for size, f in packed if size <= least * NEAR)
        if progress:
            progress(f"streaming rows: {now:,} to {best[0]:,} bytes")
        graph = best[2]
        calls |= _parts(calls, best[3])
        whole &= {n.name for n in graph.nodes}
    return graph


def _parts(calls: Mapping[str, KernelCall], origin: Mapping[str, str]) -> dict[str, KernelCall]:
    """The call of its layer for every stripe; slices and joins cost nothing but their bytes."""
    return {made: calls[node] for made, node in origin.items() if node in calls}
