"""From NCHW with explicit transposes to NHWC without: one lazy walk over the graph.

Every value of the original graph (*logical*) is represented by a *physical* tensor and a
permutation, ``logical = transpose(physical, perm)``. A TRANSPOSE node only changes the permutation;
element-wise nodes, reductions, concatenations, slices and the like work on the physical tensor with
their axes renamed; only a node that cares about the order of its axes forces a real TRANSPOSE. A
reshape keeps going where it merges or splits axes that stayed neighbours; flattening a permuted
feature map is remembered as a permutation of the features, which the next dense layer absorbs into
its weights.

A 4-D input becomes NHWC unless that needs more transposes; a 4-D output in NHWC order stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.formats.onnx_axes import (
    Perm,
    identity,
    inverse,
    physical_shape,
    product,
    reshape_groups,
    with_ones,
    without,
)
from edgekit.formats.onnx_context import HIDDEN, TO_NCHW
from edgekit.formats.onnx_tidy import tidy
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor, unique

#: Longest flattened feature map whose order is carried on; beyond, a TRANSPOSE is emitted.
MAX_FEATURES = 1 << 20

_UNARY = frozenset(
    [
        "LOGISTIC",
        "TANH",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "HARD_SWISH",
        "ABS",
        "EXP",
        "LOG",
        "NEG",
        "SQRT",
        "RSQRT",
        "LEAKY_RELU",
        "GELU",
        "QUANTIZE",
        "DEQUANTIZE",
    ]
)
_BINARY = frozenset(
    ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU"]
)
_LAST_AXIS = frozenset(["SOFTMAX", "LAYER_NORM"])


@dataclass(frozen=True)
class Layout:
    """logical = transpose(tensor, perm); for ``index``: logical[:, j] = tensor[:, index[j]]."""

    tensor: str
    perm: Perm
    index: tuple[int, ...] | None = None

    @property
    def plain(self) -> bool:
        return self.index is None and self.perm == tuple(range(len(self.perm)))


def to_nhwc(graph: Graph, output_names: dict[str, str], *, nchw: bool = True) -> Graph:
    """The same network with NHWC feature maps and the fewest transposes found.

    output_names: tensor of ``graph`` -> name that the output must have. nchw: whether the model's
    images are NCHW (ONNX's habit); else its inputs and outputs stay as they are.
    """
    images = [i for i in graph.inputs if nchw and len(graph.tensor(i).shape) == 4]
    flipped = set(images)
    best = _Walk(graph, flipped, output_names, nchw).run()
    cost = transposed(best)
    for i in images:
        if cost == 0:
            break
        other = _Walk(graph, flipped - {i}, output_names, nchw).run()
        if transposed(other) < cost:
            best, cost, flipped = other, transposed(other), flipped - {i}
    return best


def transposed(graph: Graph) -> int:
    """Elements that TRANSPOSE nodes move."""
    return sum(graph.tensor(n.outputs[0]).elements for n in graph.nodes if n.type == "TRANSPOSE")


class _Walk:
    def __init__(
        self, graph: Graph, flipped: set[str], output_names: dict[str, str], nchw: bool
    ) -> None:
        self.nchw = nchw
        self.src = graph
        self.flipped = flipped
        self.output_names = output_names
        self.out = Graph(graph.name, {}, [], (), (), dict(graph.metadata))
        self.at: dict[str, Layout] = {}
        self.const_nodes: dict[str, Tensor] = {}  # DEQUANTIZE of a constant, not yet emitted
        self.cache: dict[tuple, str] = {}
        self.taken: set[str] = set()

    # -- driving -------------------------------------------------------------------------------

    def run(self) -> Graph:
        g = self.src
        inputs = []
        for i in g.inputs:
            t = g.tensor(i)
            perm = tuple(range(len(t.shape)))
            if i in self.flipped:
                perm = TO_NCHW
                self.out.metadata[f"input_layout:{i}"] = "NHWC (from NCHW)"
            self.out.add_tensor(t.with_(shape=physical_shape(t.shape, perm)))
            self.at[i] = Layout(i, perm)
            inputs.append(i)
        self.out.inputs = tuple(inputs)
        for node in g.nodes:
            self._node(node)
        outputs = []
        for o in g.outputs:
            outputs.append(self._output(o, self.output_names.get(o, o)))
        self.out.outputs = tuple(outputs)
        self.out.prune()
        return tidy(self.out)

    def _output(self, logical: str, name: str) -> str:
        lay = self._layout(logical)
        t = self.src.tensor(logical)
        if self.nchw and lay.index is None and len(t.shape) == 4 and lay.perm == TO_NCHW:
            physical = lay.tensor
            self.out.metadata[f"output_layout:{name}"] = "NHWC (from NCHW)"
        else:
            physical = self.want(logical, tuple(range(len(t.shape))))
        if physical == name:
            return name
        produced = any(physical in n.outputs for n in self.out.nodes)
        if not produced or physical in self.output_names.values() or name in self.out.tensors:
            p = self.out.tensor(physical)
            if name in self.out.tensors:
                self._rename(name, unique(f"{name}{HIDDEN}inner", self.out.tensors))
            self.out.tensors[name] = p.with_(name=name, data=None)
            self._add(Node(name, "RESHAPE", (physical,), (name,), {"new_shape": p.shape}))
            return name
        self._rename(physical, name)
        return name

    def _rename(self, old: str, new: str) -> None:
        out = self.out
        out.tensors[new] = out.tensors.pop(old).with_(name=new)
        out.nodes = [
            n.with_(
                inputs=tuple(new if i == old else i for i in n.inputs),
                outputs=tuple(new if o == old else o for o in n.outputs),
            )
            for n in out.nodes
        ]
        out.inputs = tuple(new if i == old else i for i in out.inputs)
        out.outputs = tuple(new if o == old else o for o in out.outputs)
        for k, lay in self.at.items():
            if lay.tensor == old:
                self.at[k] = Layout(new, lay.perm, lay.index)
        self.cache = {k: new if v == old else v for k, v in self.cache.items() if k[0] != old}

    # -- representations -----------------------------------------------------------------------

    def _const(self, logical: str) -> Tensor | None:
        """The constant behind a value: itself, or what a DEQUANTIZE of a constant reads."""
        if logical in self.const_nodes:
            return self.const_nodes[logical]
        t = self.src.tensor(logical)
        return t if t.is_const else None

    def _layout(self, logical: str) -> Layout:
        if logical not in self.at:
            self.at[logical] = Layout(
                self._emit_const(logical, lambda a: a, None, ()),
                tuple(range(len(self.src.tensor(logical).shape))),
            )
        return self.at[logical]

    def _emit_const(self, logical: str, change, axes: Perm | None, key: tuple) -> str:
        """A constant after ``change``; ``axes``: axis i of the result was axis axes[i]."""
        k = ("const", logical, key)
        if k in self.cache:
            return self.cache[k]
        c = self._const(logical)
        assert c is not None and c.data is not None
        q = c.quant
        if q is not None and q.is_per_channel and axes is not None:
            q = QuantParams(q.scale, q.zero_point, axes.index(q.axis))
        data = np.ascontiguousarray(change(c.data))
        name = self.out.add_const(c.name, data, q).name
        if logical in self.const_nodes:
            t = self.src.tensor(logical)
            y = self.out.add_tensor(t.with_(shape=data.shape)).name
            self._add(Node(y, "DEQUANTIZE", (name,), (y,), {}))
            name = y
        self.cache[k] = name
        return name

    def want(self, logical: str, perm: Perm) -> str:
        """A physical tensor with logical = transpose(it, perm); emits what is missing."""
        if self._const(logical) is not None:
            inv = inverse(perm)
            return self._emit_const(logical, lambda a: a.transpose(inv), inv, perm)
        lay = self._layout(logical)
        physical = lay.tensor
        if lay.index is not None:
            physical = self._ungathered(lay)
        rel = tuple(lay.perm[i] for i in inverse(perm))
        return self._transposed(physical, rel)

    def _ungathered(self, lay: Layout) -> str:
        key = (lay.tensor, "index", lay.index)
        if key not in self.cache:
            t = self.out.tensor(lay.tensor)
            assert lay.index is not None
            self.cache[key] = self._emit(
                "GATHER", [lay.tensor], {"axis": 1, "indices": lay.index}, t, f"{t.name}{HIDDEN}i"
            )
        return self.cache[key]

    def _transposed(self, x: str, perm: Perm) -> str:
        if perm == tuple(range(len(perm))):
            return x
        if (x, perm) not in self.cache:
            t = self.out.tensor(x)
            shape = tuple(t.shape[p] for p in perm)
            y = t.with_(shape=shape)
            moved = [p for p in perm if t.shape[p] != 1]
            if moved == sorted(moved):
                attrs: dict = {"new_shape": shape}
                self.cache[(x, perm)] = self._emit("RESHAPE", [x], attrs, y, f"{x}{HIDDEN}r")
            else:
                self.cache[(x, perm)] = self._emit(
                    "TRANSPOSE", [x], {"perm": perm}, y, f"{x}{HIDDEN}t"
                )
        return self.cache[(x, perm)]

    # -- emitting ------------------------------------------------------------------------------

    def _add(self, node: Node) -> None:
        name = unique(node.name, self.taken)
        self.taken.add(name)
        self.out.nodes.append(node.with_(name=name))

    def _emit(self, type: str, inputs: list, attrs: dict, like: Tensor, name: str) -> str:
        y = self.out.add_tensor(like.with_(name=name, data=None)).name
        self._add(Node(name, type, tuple(inputs), (y,), attrs))
        return y

    def _copy(
        self, node: Node, inputs: list[str | None], attrs: dict, perms: Sequence[Perm]
    ) -> None:
        """Emit ``node`` on physical inputs; output k gets the permutation ``perms[k]``."""
        outs = []
        for o, perm in zip(node.outputs, perms, strict=True):
            t = self.src.tensor(o)
            y = self.out.add_tensor(t.with_(shape=physical_shape(t.shape, perm))).name
            self.at[o] = Layout(y, perm)
            outs.append(y)
        self._add(node.with_(inputs=tuple(inputs), outputs=tuple(outs), attrs=attrs))

    # -- nodes ---------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        a = dict(node.attrs)
        x = node.inputs[0]
        assert x is not None
        if node.type == "DEQUANTIZE" and self.src.tensor(x).is_const:
            self.const_nodes[node.outputs[0]] = self.src.tensor(x)
            return
        if node.type == "RESHAPE":
            self._reshape(x, node.outputs[0])
            return
        if node.type == "TRANSPOSE":
            if self._const(x) is not None:
                self._layout(x)
            lay = self._layout(x)
            if lay.index is not None:
                lay = Layout(self._ungathered(lay), lay.perm)
            self.at[node.outputs[0]] = Layout(lay.tensor, tuple(lay.perm[p] for p in a["perm"]))
            return
        if node.type in _UNARY:
            lay = self._layout(x)
            self._copy(node, [lay.tensor], a, [lay.perm])
            self._keep_index(node.outputs[0], lay.index)
        elif node.type in _BINARY:
            self._binary(node, a)
        elif node.type == "FULLY_CONNECTED":
            self._dense(node, a)
        elif node.type in ("MEAN", "SUM", "REDUCE_MAX"):
            self._reduce(node, a, a["axes"], a["keep_dims"])
        elif node.type == "ARG_MAX":
            self._reduce(node, a, (a["axis"],), False)
        elif node.type in ("CONCATENATION", "SPLIT", "GATHER", "PAD", "STRIDED_SLICE"):
            self._axes(node, a)
        elif node.type in _LAST_AXIS:
            lay = self._layout(x)
            last = len(lay.perm) - 1
            perm = lay.perm if lay.perm[last] == last else tuple(range(last + 1))
            rest = [None if i is None else self._layout(i).tensor for i in node.inputs[1:]]
            self._copy(node, [self.want(x, perm), *rest], a, [perm])
        elif node.type == "BATCH_MATMUL":
            self._batch_matmul(node, a)
        else:
            self._plain(node, a)

    def _plain(self, node: Node, a: dict) -> None:
        ins = [
            None if i is None else self.want(i, identity(self.src.tensor(i))) for i in node.inputs
        ]
        self._copy(node, ins, a, [identity(self.src.tensor(o)) for o in node.outputs])

    def _keep_index(self, name: str, index: tuple[int, ...] | None) -> None:
        if index is not None:
            lay = self.at[name]
            self.at[name] = Layout(lay.tensor, lay.perm, index)

    def _binary(self, node: Node, a: dict) -> None:
        out = self.src.tensor(node.outputs[0])
        rank = len(out.shape)
        names = [i for i in node.inputs if i is not None]
        live = [i for i in names if self._const(i) is None]
        lays = [self._layout(i) for i in live]
        index = next((lay.index for lay in lays if lay.index is not None), None)
        if index is not None:
            if rank == 2 and all(
                lay.index == index or self.src.tensor(i).shape[-1:] in ((), (1,))
                for i, lay in zip(live, lays, strict=True)
            ):
                ins = [self._indexed(i, index) for i in names]
                self._copy(node, list(ins), a, [identity(out)])
                self._keep_index(node.outputs[0], index)
                return
            perm: Perm = identity(out)
        else:
            full = [
                (self.src.tensor(i).elements, not lay.plain, -k, lay.perm)
                for k, (i, lay) in enumerate(zip(live, lays, strict=True))
                if len(lay.perm) == rank
            ]
            perm = max(full)[3] if full else identity(out)
        self._copy(node, [self._aligned(i, rank, perm) for i in names], a, [perm])

    def _indexed(self, logical: str, index: tuple[int, ...]) -> str:
        """The operand of an element-wise node on a flattened feature map in order ``index``."""
        c = self._const(logical)
        if c is None:
            return self._layout(logical).tensor
        if c.elements == 1 or c.shape[-1] == 1:
            return self._layout(logical).tensor
        inv = inverse(index)
        axes = tuple(range(len(c.shape)))
        return self._emit_const(logical, lambda v: v[..., list(inv)], axes, ("index", index))

    def _aligned(self, logical: str, rank: int, perm: Perm) -> str:
        """An operand of an element-wise node, broadcast rules kept under ``perm``."""
        t = self.src.tensor(logical)
        n = len(t.shape)
        if perm == tuple(range(rank)):
            return self.want(logical, identity(t))
        if t.elements == 1 and self._const(logical) is not None:
            return self._layout(logical).tensor
        if self._const(logical) is None:
            if n < rank:
                wide = f"{logical}{HIDDEN}rank{rank}"
                if wide not in self.at:
                    self.src.tensors[wide] = t.with_(name=wide, shape=(1,) * (rank - n) + t.shape)
                    self._reshape(logical, wide)
                logical = wide
            return self.want(logical, perm)
        inv = inverse(perm)
        shape = (1,) * (rank - n) + t.shape
        moved = tuple(shape[i] for i in inv)
        lead = next((k for k, d in enumerate(moved) if d != 1), rank - 1)
        c = self._const(logical)
        assert c is not None
        if c.quant is not None and c.quant.is_per_channel:
            lead = 0
        axes = tuple(i - (rank - n) for i in inv)
        return self._emit_const(
            logical,
            lambda v: v.reshape(shape).transpose(inv).reshape(moved[lead:]),
            axes,
            ("aligned", rank, perm),
        )

    def _dense(self, node: Node, a: dict) -> None:
        x, w = node.inputs[0], node.inputs[1]
        assert x is not None and w is not None
        lay = self._layout(x)
        bias = [None if i is None else self._layout(i).tensor for i in node.inputs[2:]]
        last = len(lay.perm) - 1
        out = self.src.tensor(node.outputs[0])
        if lay.index is not None and self._const(w) is not None:
            inv = list(inverse(lay.index))
            weights = self._emit_const(w, lambda v: v[:, inv], (0, 1), ("columns", lay.index))
            self._copy(node, [lay.tensor, weights, *bias], a, [identity(out)])
            return
        keep = a["keep_num_dims"] and lay.index is None and lay.perm[last] == last
        perm = lay.perm if keep else tuple(range(last + 1))
        weights = self._layout(w).tensor if self._const(w) else self.want(w, (0, 1))
        ins = [self.want(x, perm), weights, *bias]
        self._copy(node, list(ins), a, [perm if a["keep_num_dims"] else identity(out)])

    def _reduce(self, node: Node, a: dict, axes: Sequence[int], keep: bool) -> None:
        x = node.inputs[0]
        assert x is not None
        lay = self._layout(x)
        perm = lay.perm
        physical = self.want(x, perm)
        renamed = tuple(sorted(perm[i] for i in axes))
        attrs = {**a, "axes": renamed} if "axes" in a else {**a, "axis": renamed[0]}
        out_perm = perm if keep else without(perm, axes)
        self._copy(node, [physical], attrs, [out_perm])

    def _axes(self, node: Node, a: dict) -> None:
        names = [i for i in node.inputs if i is not None]
        live = [i for i in names if self._const(i) is None] or names[:1]
        lays = [self._layout(i) for i in live]
        if (
            node.type == "CONCATENATION"
            and a["axis"] == 1
            and any(lay.index is not None for lay in lays)
            and len(live) == len(names)
        ):
            self._concat_features(node, a, lays)
            return
        votes: dict[Perm, int] = {}
        for i, lay in zip(live, lays, strict=True):
            votes[lay.perm] = votes.get(lay.perm, 0) + self.src.tensor(i).elements
        perm = max(votes, key=lambda p: (votes[p], p != tuple(range(len(p)))))
        inv = inverse(perm)
        perms = [perm] * len(node.outputs)
        if "axis" in a:
            a["axis"] = perm[a["axis"]]
        if node.type == "PAD":
            a["paddings"] = tuple(a["paddings"][i] for i in inv)
        if node.type == "STRIDED_SLICE":
            for key in ("begin", "end", "strides"):
                a[key] = tuple(a[key][i] for i in inv)
            shrink = a["shrink_axes"]
            a["shrink_axes"] = tuple(sorted(perm[i] for i in shrink))
            perms = [without(perm, shrink)]
        self._copy(node, [self.want(i, perm) for i in names], a, perms)

    def _concat_features(self, node: Node, a: dict, lays: list[Layout]) -> None:
        ins: list[str | None] = [self._transposed(lay.tensor, lay.perm) for lay in lays]
        index: list[int] = []
        offset = 0
        for lay in lays:
            n = self.out.tensor(lay.tensor).shape[1]
            index.extend(offset + j for j in (lay.index or range(n)))
            offset += n
        self._copy(node, ins, a, [(0, 1)])
        self._keep_index(node.outputs[0], tuple(index))

    def _batch_matmul(self, node: Node, a: dict) -> None:
        ins: list[str | None] = []
        for i, key in zip(node.inputs, ("adj_x", "adj_y"), strict=True):
            assert i is not None
            n = len(self.src.tensor(i).shape)
            swapped = (*range(n - 2), n - 1, n - 2)
            if self._const(i) is None and self._layout(i).perm == swapped:
                a[key] = not a[key]
                ins.append(self.want(i, swapped))
            else:
                ins.append(self.want(i, tuple(range(n))))
        self._copy(node, ins, a, [identity(self.src.tensor(node.outputs[0]))])

    # -- reshape -------------------------------------------------------------------------------

    def _reshape(self, x: str, y: str) -> None:
        """Reshape under a permutation: groups of neighbouring axes move as one."""
        lay = self._layout(x)
        old, new = self.src.tensor(x).shape, self.src.tensor(y).shape
        like = self.src.tensor(y)
        if old == new:
            self.at[y] = lay
            return
        if lay.index is not None:
            lay = Layout(self._ungathered(lay), lay.perm)
        if lay.plain:
            t = self._emit("RESHAPE", [lay.tensor], {"new_shape": new}, like, y)
            self.at[y] = Layout(t, identity(like))
            return
        groups = reshape_groups(old, new)
        groups.sort(key=lambda g: max(lay.perm[i] for i in g[0]))  # axes gather at the last
        order = [i for g in groups for i in g[0]]
        now = sorted(order, key=lambda i: lay.perm[i])
        out_order = with_ones([o for g in groups for o in g[1]], new)
        out_perm = inverse(out_order)
        physical = lay.tensor
        if (
            order != now
            and len(new) == 2
            and new[1] <= MAX_FEATURES
            and out_order == [0, 1]
            and new[1] == product(old[i] for i in groups[-1][0])
        ):
            first = [i for i in now if i not in groups[-1][0]]
            if now[: len(first)] == first and first == order[: len(first)]:
                rest = now[len(first) :]
                sizes = [old[i] for i in rest]
                wanted = [rest.index(i) for i in groups[-1][0]]
                index = np.arange(new[1]).reshape(sizes).transpose(wanted).ravel()
                t = self._emit("RESHAPE", [physical], {"new_shape": new}, like, y)
                self.at[y] = Layout(t, (0, 1), tuple(int(v) for v in index))
                return
        if order != now:
            ones = [i for i in range(len(old)) if old[i] == 1]
            physical = self._transposed(physical, tuple(lay.perm[i] for i in [*ones, *order]))
        shape = tuple(new[i] for i in out_order)
        t = self._emit("RESHAPE", [physical], {"new_shape": shape}, like.with_(shape=shape), y)
        self.at[y] = Layout(t, out_perm)
