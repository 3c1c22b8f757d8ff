"""Small rewrites after the layout walk: reshapes that meet, dense biases, names."""

from __future__ import annotations

import numpy as np

from edgekit.formats.onnx_context import HIDDEN
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor, unique


def tidy(graph: Graph) -> Graph:
    """Merge reshapes, fold biases and a transposition behind a dense layer; plain names."""
    _merge_reshapes(graph)
    _reshape_later(graph)
    _merge_reshapes(graph)
    _rows(graph)
    _bias(graph)
    _merge_reshapes(graph)
    plain_names(graph)
    return graph


_UNARY = frozenset(
    ["RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "GELU"]
).union(["ABS", "NEG", "EXP", "LOG", "SQRT", "RSQRT", "QUANTIZE", "DEQUANTIZE"])


def _reshape_later(g: Graph) -> None:
    """RESHAPE, element-wise nodes, RESHAPE: the nodes work on the shape before (1-D convolutions)."""
    done: set[str] = set()
    while True:
        producers, users = g.producers(), g.consumers()
        last = next((n for n in g.nodes if n.type == "RESHAPE" and n.name not in done), None)
        if last is None:
            return
        done.add(last.name)
        chain: list[Node] = []
        node: Node | None = producers.get(last.inputs[0] or "")
        while node is not None and node.type != "RESHAPE":
            chain.append(node)
            node = producers.get(node.inputs[0] or "")
        if node is None or not chain or node.inputs[0] is None:
            continue
        shape = g.tensor(node.inputs[0]).shape
        between = [node.outputs[0], *(n.outputs[0] for n in chain)]
        if any(len(users[t]) != 1 or t in g.outputs for t in between):
            continue
        if not all(_works_on(g, n, shape) for n in chain):
            continue
        names = {n.name for n in chain}
        first = chain[-1].name
        source = node.inputs[0]
        g.nodes = [
            n.with_(inputs=(source, *n.inputs[1:])) if n.name == first else n for n in g.nodes
        ]
        for n in g.nodes:
            if n.name in names:
                y = n.outputs[0]
                g.tensors[y] = g.tensor(y).with_(shape=shape)
        g.prune()


def _works_on(g: Graph, node: Node, shape: tuple[int, ...]) -> bool:
    """Whether an element-wise node does the same to its first input in another shape."""
    if node.type in _UNARY:
        return True
    if node.type not in ("ADD", "SUB", "MUL", "DIV", "PRELU") or len(node.inputs) != 2:
        return False
    c = _constant(g, node.inputs[1])
    old = g.tensor(node.inputs[0]).shape
    if c is None or g.tensor(node.outputs[0]).shape != old:
        return False
    return c.elements == 1 or (c.elements == c.shape[-1] == shape[-1] == old[-1])


def _merge_reshapes(g: Graph) -> None:
    """RESHAPE of RESHAPE is one; a RESHAPE that changes nothing is none."""
    changed = True
    while changed:
        changed = False
        producers = g.producers()
        for k, n in enumerate(g.nodes):
            if n.type != "RESHAPE":
                continue
            (x,), (y,) = n.inputs, n.outputs
            assert x is not None
            p = producers.get(x)
            if p is not None and p.type == "RESHAPE":
                g.nodes[k] = n.with_(inputs=p.inputs)
                changed = True
                break
            if g.tensor(x).shape == g.tensor(y).shape and y not in g.outputs:
                g.rename_uses(y, x)
                del g.nodes[k]
                changed = True
                break
        if changed:
            g.prune()


def _only_use(g: Graph, name: str, node: Node) -> bool:
    return name not in g.outputs and [c.name for c in g.consumers()[name]] == [node.name]


def _constant(g: Graph, name: str | None) -> Tensor | None:
    if name is None:
        return None
    t = g.tensor(name)
    return t if t.is_const else None


def _bias(g: Graph) -> None:
    """FULLY_CONNECTED without a bias, then ADD of a float constant vector: its bias."""
    for n in list(g.nodes):
        if n.type != "ADD" or n.attrs["activation"] != "NONE":
            continue
        producers = g.producers()
        for x, c in (n.inputs, n.inputs[::-1]):
            p, v = producers.get(x or ""), _constant(g, c)
            if p is None or v is None or p.type != "FULLY_CONNECTED":
                continue
            w = g.tensor(p.inputs[1])
            if (
                (len(p.inputs) > 2 and p.inputs[2] is not None)
                or not v.is_float
                or v.shape[-1:] != (w.shape[0],)
                or v.elements != w.shape[0]
                or p.attrs["activation"] != "NONE"
                or g.tensor(x).shape != g.tensor(n.outputs[0]).shape
                or not _only_use(g, x or "", n)
            ):
                continue
            assert v.data is not None
            bias = g.add_const(f"{v.name}{HIDDEN}bias", v.data.reshape(-1)).name
            k = next(i for i, m in enumerate(g.nodes) if m.name == n.name)
            g.nodes = [m for m in g.nodes if m.name != p.name]
            g.nodes[k - 1] = p.with_(inputs=(p.inputs[0], p.inputs[1], bias), outputs=n.outputs)
            break
    g.prune()


def _rows(g: Graph) -> None:
    """FULLY_CONNECTED, [RELU], RESHAPE, TRANSPOSE: the dense layer's rows take the order instead."""
    for n in list(g.nodes):
        if n.type != "TRANSPOSE":
            continue
        producers = g.producers()
        chain: list[Node] = []
        node = n
        while True:
            x = node.inputs[0]
            p = producers.get(x or "")
            if p is None or x is None or not _only_use(g, x, node):
                break
            chain.append(p)
            node = p
            if p.type == "FULLY_CONNECTED" or p.type not in ("RESHAPE", "RELU", "RELU6"):
                break
        if (
            not chain
            or chain[-1].type != "FULLY_CONNECTED"
            or sum(c.type == "RESHAPE" for c in chain) != 1
        ):
            continue
        dense = chain[-1]
        reshape = next(c for c in chain if c.type == "RESHAPE")
        w = _constant(g, dense.inputs[1])
        b = _constant(g, dense.inputs[2]) if len(dense.inputs) > 2 else None
        flat = g.tensor(dense.outputs[0]).shape
        shape = g.tensor(reshape.outputs[0]).shape
        perm = n.attrs["perm"]
        if w is None or w.data is None or len(flat) != 2:
            continue
        if shape[0] != flat[0] or perm[0] != 0 or (len(dense.inputs) > 2 and b is None):
            continue
        order = np.arange(flat[1]).reshape(shape[1:]).transpose([p - 1 for p in perm[1:]]).ravel()
        inputs = [dense.inputs[0], _reordered(g, w, order)]
        if b is not None:
            inputs.append(_reordered(g, b, order))
        new_shape = g.tensor(n.outputs[0]).shape
        last = n.inputs[0]
        for i, m in enumerate(g.nodes):
            if m.name == dense.name:
                g.nodes[i] = m.with_(inputs=tuple(inputs))
            elif m.name == reshape.name:
                g.nodes[i] = m.with_attrs(new_shape=new_shape)
        for c in chain:  # what follows the reshape has the new shape
            if c is reshape or chain.index(c) < chain.index(reshape):
                for o in c.outputs:
                    g.tensors[o] = g.tensor(o).with_(shape=new_shape)
        assert last is not None
        if n.outputs[0] in g.outputs:
            k = next(i for i, m in enumerate(g.nodes) if m.name == n.name)
            g.nodes[k] = n.with_(type="RESHAPE", attrs={"new_shape": new_shape})
        else:
            g.rename_uses(n.outputs[0], last)
        g.prune()


def _reordered(g: Graph, t: Tensor, order: np.ndarray) -> str:
    """A constant with its first axis in another order, scales per channel included."""
    assert t.data is not None
    q = t.quant
    if q is not None and q.is_per_channel:
        q = QuantParams(q.scale[order], q.zero_point[order], q.axis)
    data = t.data if t.data.ndim > 1 else t.data.reshape(-1)
    return g.add_const(f"{t.name}{HIDDEN}rows", data[order], q).name


def plain_names(g: Graph) -> None:
    """``x~~nhwc`` becomes ``x`` where that name is free, else ``x_nhwc``."""
    renamed: dict[str, str] = {}
    used = set(g.tensors)
    hidden = [n for n in [*g.outputs, *list(g.tensors)[::-1]] if HIDDEN in n and n not in g.inputs]
    for name in dict.fromkeys(hidden):  # of several with one base, the last one made gets it
        base = name.split(HIDDEN)[0]
        if base and base not in used:
            renamed[name] = base
        else:
            renamed[name] = unique(name.replace(HIDDEN, "_"), used)
        used.add(renamed[name])
    names: dict[str, str] = {}
    for n in g.nodes:
        names[n.name] = unique(n.name.replace(HIDDEN, "_"), set(names.values()))
    if not renamed:
        return
    g.tensors = {
        renamed.get(k, k): t.with_(name=renamed[k]) if k in renamed else t
        for k, t in g.tensors.items()
    }
    g.nodes = [
        n.with_(
            name=names[n.name],
            inputs=tuple(None if i is None else renamed.get(i, i) for i in n.inputs),
            outputs=tuple(renamed.get(o, o) for o in n.outputs),
        )
        for n in g.nodes
    ]
    g.outputs = tuple(renamed.get(o, o) for o in g.outputs)
