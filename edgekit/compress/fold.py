"""Constant folding and the removal of operators that do nothing.

Both leave every output byte as it was: integer constants are computed by the reference executor,
and an operator counts as doing nothing only when shape, dtype and quantization stay the same.
"""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph, Node

#: Folded constants larger than this many times their inputs are left as operators (a PAD or RESIZE
#: of a constant would otherwise trade a few bytes of flash for many).
_MAX_GROWTH = 4


def fold_constants(graph: Graph) -> Graph:
    """Replace nodes whose inputs are all constants by their results."""
    from edgekit.graph.reference import run_node

    g = graph.copy()
    kept: list[Node] = []
    for node in g.nodes:
        ins = g.ins(node)
        present = [t for t in ins if t is not None]
        if not present or not all(t.is_const for t in present):
            kept.append(node)
            continue
        size = sum(t.nbytes for t in present)
        if sum(t.nbytes for t in g.outs(node)) > max(64, _MAX_GROWTH * size):
            kept.append(node)
            continue
        if any(o in g.outputs for o in node.outputs):
            kept.append(node)  # a graph output has to be produced by something
            continue
        try:
            values = run_node(node, g, {t.name: t.data for t in present if t.data is not None})
        except UnsupportedError:
            kept.append(node)
            continue
        for name, value in zip(node.outputs, values, strict=True):
            g.tensors[name] = g.tensor(name).with_(data=value)
    g.nodes = kept
    g.prune()
    return g


#: Bytes of flash that a branch which always says the same may take as a constant beyond the weights
#: it no longer needs.
_BRANCH_BYTES = 4096


def fold_constant_branches(graph: Graph) -> Graph:
    """Replace integer tensors that are the same for every input by constants, and compute what
    follows from them alone; the graph itself where nothing is saved or the constants are too large."""
    from edgekit.compress.intervals import analyse

    bounds = analyse(graph)
    g = graph.copy()
    made = {o for n in g.nodes for o in n.outputs}
    for name in made - set(g.outputs):
        t = g.tensor(name)
        if t.dtype == "int8" and t.shape and bounds[name].constant.all():
            value = np.broadcast_to(bounds[name].lo.astype(t.dtype), t.shape)
            g.tensors[name] = t.with_(data=np.ascontiguousarray(value))
    g.nodes = [n for n in g.nodes if not all(g.tensor(o).is_const for o in n.outputs)]
    if len(g.nodes) == len(graph.nodes):
        return graph
    split = {o for n in g.nodes for o in n.outputs if g.tensor(o).is_const}
    for name in split:  # one of several outputs of a node: still produced by it
        g.tensors[name] = graph.tensor(name)
    g.prune()
    g = fold_constants(g)
    before = sum(t.nbytes for t in graph.constants())
    if sum(t.nbytes for t in g.constants()) > before + _BRANCH_BYTES:
        return graph
    return g.validate()


def drop_identities(graph: Graph) -> Graph:
    """Drop operators that return their input unchanged, and TRANSPOSE / RESHAPE pairs that cancel."""
    g = graph.copy()
    changed = True
    while changed:
        changed = False
        producers = g.producers()
        for node in list(g.nodes):
            source = _unchanged(node, g) or _cancels(node, g, producers)
            if source is None:
                continue
            out = node.outputs[0]
            if out in g.outputs and (source in g.inputs or source in g.outputs
                                     or g.tensor(source).is_const):  # fmt: skip
                continue  # outputs keep their own names and producers
            if out in g.outputs:
                _rename_producer(g, source, out)
            else:
                g.rename_uses(out, source)
            g.nodes = [n for n in g.nodes if n.name != node.name]
            g.prune()
            changed = True
            break
    return g


def _rename_producer(g: Graph, old: str, new: str) -> None:
    """Let the node that made ``old`` make ``new`` instead (``new`` is a graph output's name)."""
    g.nodes = [
        n.with_(
            inputs=tuple(new if i == old else i for i in n.inputs),
            outputs=tuple(
                new if o == old else o for o in n.outputs if o != new or old in n.outputs
            ),
        )
        if (old in n.inputs or old in n.outputs) and new not in n.outputs
        else n
        for n in g.nodes
    ]
    g.tensors[new] = g.tensor(old).with_(name=new)


def _same_type(g: Graph, a: str, b: str) -> bool:
    x, y = g.tensor(a), g.tensor(b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if x.quant is None or y.quant is None:
        return x.quant is y.quant or x.is_float
    return x.quant.same_as(y.quant)


def _unchanged(node: Node, g: Graph) -> str | None:
    """The input that the node's output equals, or None."""
    if len(node.outputs) != 1 or not node.inputs or node.inputs[0] is None:
        return None
    x, y = node.inputs[0], node.outputs[0]
    if not _same_type(g, x, y):
        return None
    a = node.attrs
    identity = {
        "RESHAPE": True,
        "SQUEEZE": True,
        "QUANTIZE": not g.tensor(x).is_float,
        "TRANSPOSE": tuple(a.get("perm", ())) == tuple(range(len(g.tensor(x).shape))),
        "PAD": all(tuple(p) == (0, 0) for p in a.get("paddings", ())),
        "STRIDED_SLICE": all(s == 1 for s in a.get("strides", ())),
        "SPLIT": True,
        "CONCATENATION": len(node.inputs) == 1 and a.get("activation", "NONE") == "NONE",
        "RESIZE_NEAREST_NEIGHBOR": True,
        "RESIZE_BILINEAR": True,
    }
    return x if identity.get(node.type, False) else None


def _cancels(node: Node, g: Graph, producers: dict[str, Node]) -> str | None:
    """For the second of two TRANSPOSEs (or RESHAPEs, or DEQUANTIZE then QUANTIZE) that cancel: the
    first one's input."""
    if len(node.outputs) != 1 or not node.inputs or node.inputs[0] is None:
        return None
    first = producers.get(node.inputs[0])
    if first is None or first.inputs[0] is None:
        return None
    pair = (first.type, node.type)
    source = first.inputs[0]
    if pair == ("TRANSPOSE", "TRANSPOSE"):
        p, q = first.attrs["perm"], node.attrs["perm"]
        if tuple(p[i] for i in q) != tuple(range(len(q))):
            return None
    elif pair not in (("RESHAPE", "RESHAPE"), ("DEQUANTIZE", "QUANTIZE")):
        return None
    return source if _same_type(g, source, node.outputs[0]) else None
