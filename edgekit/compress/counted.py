"""What a layer costs at other channel counts: counted on the target's own core, not scaled by MACs.

Narrow layers cost more a MAC than wide ones: what a kernel does once for each input or output channel
(gathering columns, the transforms of Winograd's algorithm, requantization) is shared by fewer products.
So each layer is cut to a grid of widths, every cut is counted as a layer of its own with its fastest
kernel, and between the points the cost is interpolated, which is exact for the form all kernels have
within one variant: ``a + b in + c out + d in out``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekit.compress.groups import is_grouped
from edgekit.compress.slicing import slice_channels
from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.targets.schema import Target

#: Widths an axis is counted at.
_POINTS = 4


@dataclass(frozen=True, eq=False)
class Grid:
    """Cycles of one layer. ins, outs: widths, ascending, the last one the uncut width; a single entry in
    ``ins`` where the input's width does not matter (an image; depthwise, which has one width).
    cycles: float ``[ins, outs]``."""

    ins: np.ndarray
    outs: np.ndarray
    cycles: np.ndarray

    @property
    def full(self) -> float:
        return float(self.cycles[-1, -1])

    def __call__(self, width_in: np.ndarray, width_out: np.ndarray) -> np.ndarray:
        """Cycles, of the common shape of the two: bilinear between the points."""
        i, s = _place(self.ins, np.asarray(width_in, float))
        j, t = _place(self.outs, np.asarray(width_out, float))
        ii, jj = np.minimum(i + 1, len(self.ins) - 1), np.minimum(j + 1, len(self.outs) - 1)
        c = self.cycles
        low = c[i, j] * (1 - t) + c[i, jj] * t
        high = c[ii, j] * (1 - t) + c[ii, jj] * t
        return np.maximum(low * (1 - s) + high * s, 0.0)


def _place(points: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the cell and the position in it, [0, 1] within the grid."""
    if len(points) == 1:
        return np.zeros(width.shape, np.int64), np.zeros(width.shape)
    cell = np.clip(np.searchsorted(points, width, side="right") - 1, 0, len(points) - 2)
    return cell, (width - points[cell]) / (points[cell + 1] - points[cell])


def widths_of(full: int, multiple: int) -> list[int]:
    """At most ``_POINTS`` multiples between the narrowest and the full width."""
    if full <= multiple:
        return [full]
    steps = np.linspace(multiple, full, _POINTS) / multiple
    return sorted({min(full, int(k) * multiple) for k in np.round(steps)} | {full})


def count_layers(
    integer: Graph,
    count: Callable[[Graph], Mapping[str, float]],
    multiple: int,
    nodes: Iterable[str],
) -> dict[str, Grid]:
    """Grids of the named nodes of a quantized graph, those with constant weights and one channel axis in
    and out; others are left out. count: a graph of single nodes -> cycles by node name."""
    bag = Graph("layers", {}, [], (), ())
    plans: dict[str, tuple[list[int], list[int]]] = {}
    for name in nodes:
        node = integer.node(name)
        if not _countable(node, integer):
            continue
        x, y = integer.tensor(node.inputs[0]), integer.tensor(node.outputs[0])
        outs = widths_of(y.shape[-1], multiple)
        ins = [x.shape[-1]]
        if node.type != "DEPTHWISE_CONV_2D" and x.shape[-1] > multiple:
            ins = widths_of(x.shape[-1], multiple)
        plans[name] = ins, outs
        for i in ins:
            for o in outs:
                _add(bag, integer, node, i, o)
    if not plans:
        return {}
    bag.inputs = tuple(n.inputs[0] or "" for n in bag.nodes)
    bag.outputs = tuple(n.outputs[0] for n in bag.nodes)
    found = count(bag)
    grids = {}
    for name, (ins, outs) in plans.items():
        cells = [[found.get(_name(name, i, o)) for o in outs] for i in ins]
        if all(c is not None for row in cells for c in row):
            grids[name] = Grid(np.array(ins), np.array(outs), np.array(cells, float))
    return grids


def _countable(node: Node, g: Graph) -> bool:
    if node.type not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") or len(node.inputs) < 2:
        return False
    x, w, y = g.tensor(node.inputs[0]), g.tensor(node.inputs[1]), g.tensor(node.outputs[0])
    if not w.is_const or x.is_const or (node.type == "CONV_2D" and is_grouped(node, g)):
        return False
    if node.type == "DEPTHWISE_CONV_2D":
        return x.shape[-1] == y.shape[-1]
    return x.shape[-1] == w.shape[-1] and y.shape[-1] == w.shape[0]


def _name(node: str, width_in: int, width_out: int) -> str:
    return f"{node}@{width_in}x{width_out}"


def _add(bag: Graph, g: Graph, node: Node, width_in: int, width_out: int) -> None:
    """The node with its first channels only, and tensors of its own."""
    name = _name(node.name, width_in, width_out)
    x, w, y = g.tensor(node.inputs[0]), g.tensor(node.inputs[1]), g.tensor(node.outputs[0])
    out = np.arange(y.shape[-1]) < width_out
    if node.type == "DEPTHWISE_CONV_2D":
        width_in, w = width_out, slice_channels(w, out, 3)
    else:
        inside = np.arange(x.shape[-1]) < width_in
        w = slice_channels(slice_channels(w, out, 0), inside, len(w.shape) - 1)
    inputs: list[str | None] = [f"{name}/x", f"{name}/w"]
    bag.tensors[f"{name}/x"] = replace(x, name=f"{name}/x", shape=(*x.shape[:-1], width_in))
    bag.tensors[f"{name}/w"] = _stretched(w).with_(name=f"{name}/w")
    bag.tensors[f"{name}/y"] = replace(y, name=f"{name}/y", shape=(*y.shape[:-1], width_out))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        b = slice_channels(g.tensor(node.inputs[2]), out, 0)
        bag.tensors[f"{name}/b"] = b.with_(name=f"{name}/b")
        inputs.append(f"{name}/b")
    bag.nodes.append(node.with_(name=name, inputs=tuple(inputs), outputs=(f"{name}/y",)))


def _stretched(w: Tensor) -> Tensor:
    """Weights that fill their range again, as those of a cut network that is quantized anew will: some
    kernels take a slower path where sums of weights are large."""
    assert w.data is not None
    q = w.quant
    if q is None or w.dtype != "int8" or bool(np.any(q.zero_point)):
        return w
    axes = tuple(a for a in range(w.data.ndim) if a != q.axis)
    most = np.maximum(np.abs(w.data.astype(np.int64)).max(axis=axes, keepdims=True), 1)
    data = np.round(w.data * (127.0 / most)).astype(np.int8)
    scale = (q.scale * (most.reshape(-1) / 127.0)).astype(np.float32)
    return w.with_(data=data, quant=QuantParams(scale, q.zero_point, q.axis))


def layer_grids(
    graph: Graph,
    target: Target,
    inputs: Sequence[np.ndarray],
    multiple: int,
    cycles: Mapping[str, float],
    progress: Callable[[str], None] | None = None,
) -> dict[str, Grid]:
    """Grids of the layers of a float graph, in the unit of ``cycles`` (by node name, of the uncut
    network: :func:`.cost.layer_cycles`); empty for a target on which single nodes cannot be counted."""
    from edgekit.compress.ptq import quantize
    from edgekit.targets.base import CountsNodes
    from edgekit.targets.registry import get_backend

    backend = get_backend(target.family)
    if not isinstance(backend, CountsNodes):
        return {}
    integer = quantize(graph, [a[:32] for a in inputs])
    there = {n.name for n in integer.nodes}
    try:
        found = count_layers(
            integer, lambda g: backend.count_nodes(g, target, progress), max(4, multiple),
            [n for n, c in cycles.items() if c > 0 and n in there],
        )  # fmt: skip
    except UnsupportedError:  # a cut shape that no kernel takes: shares of MACs have to do
        return {}
    return {
        n: replace(g, cycles=g.cycles * (cycles[n] / g.full))
        for n, g in found.items()
        if g.full > 0
    }
