"""Float operators without an integer form, written as ones that have it.

TFLite's int8 kernels hold no division worth using, but most divisions in networks are by a constant or
by a norm:

* ``x / c`` is ``x * (1 / c)``;
* ``x / sqrt(y)`` is ``x * rsqrt(y)``, and ``x / max(sqrt(y), e)`` (a normalization that guards against
  zero) is ``x * rsqrt(max(y, e * e))``.

The values stay the same up to float rounding. Divisions by anything else are left as they are.

Copies that only spell out a broadcast (``expand`` before an elementwise operator, which readers see as
a CONCATENATION of one tensor with itself) go first.
"""

from __future__ import annotations

import numpy as np

from edgekit.graph.ir import Graph, Node, Tensor


def lower(graph: Graph) -> Graph:
    """Rewrite what can be; the result has the same inputs, outputs and values."""
    g = graph.copy()
    while _drop_expand(g):
        pass
    for node in list(g.nodes):
        if node.type == "DIV" and all(t is not None and t.is_float for t in g.ins(node)):
            factor = _reciprocal(g, node)
            if factor is not None:
                new = node.with_(type="MUL", inputs=(node.inputs[0], factor))
                g.nodes = [new if n.name == node.name else n for n in g.nodes]
    g.toposort()
    g.prune()
    return g.validate()


_BROADCASTING = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"})


def _drop_expand(g: Graph) -> bool:
    """Let one elementwise node read the tensor itself in place of its copies side by side."""
    producers = g.producers()
    for node in g.nodes:
        if node.type not in _BROADCASTING:
            continue
        for i, name in enumerate(node.inputs):
            made = producers.get(name or "")
            if made is None or made.type != "CONCATENATION" or len(set(made.inputs)) != 1:
                continue
            if made.attr("activation", "NONE") != "NONE" or made.inputs[0] is None:
                continue
            source = g.tensor(made.inputs[0])
            other = g.tensor(node.inputs[1 - i])
            if source.shape[made.attrs["axis"]] != 1 or source.is_const:
                continue
            if np.broadcast_shapes(source.shape, other.shape) != g.tensor(node.outputs[0]).shape:
                continue
            inputs = (source.name, other.name) if i == 0 else (other.name, source.name)
            g.nodes = [node.with_(inputs=inputs) if n.name == node.name else n for n in g.nodes]
            g.prune()
            return True
    return False


def _reciprocal(g: Graph, node: Node) -> str | None:
    """The tensor that holds one over the divisor, made where it is not there yet; None: no such form."""
    divisor = g.tensor(node.inputs[1])
    if divisor.data is not None:
        with np.errstate(divide="ignore", over="ignore"):
            inverse = (1.0 / divisor.data.astype(np.float64)).astype(divisor.dtype)
        if not np.all(np.isfinite(inverse)):
            return None
        return g.add_const(f"{divisor.name}_inverse", inverse).name
    producers = g.producers()
    made = producers.get(divisor.name)
    if made is not None and made.type == "SQRT":
        return _rsqrt(g, made.inputs[0] or "", made.name)
    if made is None or made.type != "MAXIMUM":
        return None
    root, least = (g.tensor(i) for i in made.inputs)
    if root.data is not None:
        root, least = least, root
    squared = producers.get(root.name)
    if least.data is None or (least.data < 0).any() or squared is None or squared.type != "SQRT":
        return None
    y = g.tensor(squared.inputs[0])
    bound = g.add_const(f"{least.name}_squared", np.square(least.data))
    clamped = g.add_tensor(Tensor(f"{y.name}_at_least", divisor.shape, y.dtype))
    g.add_node("MAXIMUM", [y.name, bound.name], [clamped.name], name=made.name)
    return _rsqrt(g, clamped.name, squared.name)


def _rsqrt(g: Graph, name: str, stem: str) -> str:
    t = g.tensor(name)
    out = g.add_tensor(Tensor(f"{name}_rsqrt", t.shape, t.dtype))
    g.add_node("RSQRT", [name], [out.name], name=f"{stem}_reciprocal")
    return out.name
