"""Patterns of ONNX nodes that stand for one operator edgekit has.

``Erf`` exists only inside GELU: ``0.5 x (1 + erf(x / sqrt 2))`` (Hendrycks and Gimpel, 2016), which
exporters before opset 20 write as Div or Mul, Erf, Add and two Mul in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.formats.onnx_context import Context, Op

if TYPE_CHECKING:
    import onnx

Pairs = list[tuple[Op, "onnx.NodeProto | None"]]


def fuse(nodes: Pairs, ctx: Context, outputs: list[str]) -> Pairs:
    """Replace every GELU written out with Erf by one Gelu node."""
    if not any(op.type == "Erf" for op, _ in nodes):
        return nodes
    match = _Matcher(nodes, ctx, outputs)
    for op, _ in nodes:
        if op.type == "Erf":
            match.gelu(op)
    out: Pairs = []
    for op, node in nodes:
        if id(op) in match.replaced:
            out.append((match.replaced[id(op)], None))
        elif id(op) not in match.dropped:
            out.append((op, node))
    return out


class _Matcher:
    def __init__(self, nodes: Pairs, ctx: Context, outputs: list[str]) -> None:
        self.ctx = ctx
        self.outputs = set(outputs)
        self.producer = {o: op for op, _ in nodes for o in op.outputs if o}
        self.users: dict[str, list[Op]] = {}
        for op, _ in nodes:
            for i in op.inputs:
                if i:
                    self.users.setdefault(i, []).append(op)
        self.replaced: dict[int, Op] = {}
        self.dropped: set[int] = set()

    def number(self, name: str | None) -> float | None:
        """The value of a one-element constant."""
        if name is None:
            return None
        v = self.ctx.values.get(name)
        p = self.producer.get(name)
        if v is None and p is not None and p.type == "Constant":
            v = p.attrs.get("value", p.attrs.get("value_float"))
        if v is None or np.size(v) != 1 or np.asarray(v).dtype.kind not in "fiu":
            return None
        return float(np.ravel(v)[0])

    def only_user(self, name: str) -> Op | None:
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def other(self, op: Op, name: str) -> str | None:
        a, b = op.inputs[0], op.inputs[1]
        return b if a == name else a

    def gelu(self, erf: Op) -> None:
        inner = self.producer.get(erf.x)
        if inner is None or inner.type not in ("Div", "Mul") or len(inner.inputs) != 2:
            return
        c = self.number(inner.inputs[1])
        x = inner.inputs[0]
        if c is None and inner.type == "Mul":
            c, x = self.number(inner.inputs[0]), inner.inputs[1]
        want = np.sqrt(2.0) if inner.type == "Div" else np.sqrt(0.5)
        if c is None or x is None or abs(c - want) > 1e-3:
            return
        add = self.only_user(erf.y)
        if add is None or add.type != "Add":
            return
        one = self.number(self.other(add, erf.y))
        if one is None or abs(one - 1) > 1e-6:
            return
        chain, top = [add], add
        missing_x, missing_half = True, True
        dropped = [erf, add]
        while missing_x or missing_half:
            user = self.only_user(top.y)
            if user is None or user.type not in ("Mul", "Div") or len(user.inputs) != 2:
                return
            other = self.other(user, top.y)
            n = self.number(other)
            if user.type == "Div":
                if n != 2.0 or user.inputs[0] != top.y:
                    return
                missing_half = False
            elif n == 0.5 and missing_half:
                missing_half = False
            elif other == x and missing_x:
                missing_x = False
            elif other is not None and missing_x and missing_half and self._half(other, x):
                missing_x = missing_half = False
            else:
                return
            chain.append(user)
            dropped.append(user)
            top = user
        attrs = {"approximate": "none"}
        self.dropped.update(id(d) for d in dropped)
        if len(self.users.get(erf.x, [])) == 1:
            self.dropped.add(id(inner))
        self.replaced[id(top)] = Op(top.name, "Gelu", [x], [top.y], attrs)

    def _half(self, name: str, x: str) -> bool:
        """Whether ``name`` is x * 0.5 or x / 2."""
        p = self.producer.get(name)
        if p is None or p.type not in ("Mul", "Div") or len(p.inputs) != 2:
            return False
        if p.type == "Div":
            return p.inputs[0] == x and self.number(p.inputs[1]) == 2.0
        return any(p.inputs[i] == x and self.number(p.inputs[1 - i]) == 0.5 for i in (0, 1))
