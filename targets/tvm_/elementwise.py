"""TIR functions over whole tensors of one shape: int8 ADD and SUB, in vectors, and tables."""

from __future__ import annotations

from typing import Any

from edgekit.graph.ir import Node, QuantParams, Tensor
from edgekit.graph.ops.elementwise import add_multipliers, head_room
from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.conv import flat
from edgekit_targets.tvm_.vector import Expr, at, cast, const, script


def _over(T: Any, elements: int, lanes: int, body: Any) -> None:
    """``body(index, lanes)`` for all elements: whole vectors, then what is left one by one."""
    full, tail = divmod(elements, lanes)
    if full:
        with T.serial(0, full) as i:
            body(i * lanes, lanes)
    if tail:
        with T.serial(0, tail) as i:
            body(i + full * lanes, 1)


def add_function(name: str, node: Node, ins: list[Tensor], out: Tensor, lanes: int) -> Any:
    """int8 (or uint8) ADD or SUB of two tensors of one shape: both inputs to twice the larger
    scale with 20 bits of head room, summed, requantized (TFLite Micro ``add_common.cc``)."""
    from tvm.script.ir_builder import IRBuilder

    T = script()
    qx, qy, qo = _q(ins[0]), _q(ins[1]), _q(out)
    left = head_room(out.dtype)
    mx, my, mo = add_multipliers(qx, qy, qo, left)
    limits = vx.limits(node.attr("activation", "NONE"), qo, out.dtype)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        tensors = [*ins, out]
        args = [T.arg(f"a{i}", T.buffer(t.shape, t.dtype)) for i, t in enumerate(tensors)]
        x, y, z = [flat(T, a, t.shape, t.dtype) for a, t in zip(args, tensors, strict=True)]

        def scaled(b: Any, i: Expr, q: QuantParams, m: tuple[int, int], n: int) -> Expr:
            v = cast(b[at(i, n)], "int32", n) - const(q.zp, "int32", n)
            return T.Bind(vx.multiply(v << const(left, "int32", n), m[0], m[1], n))

        def body(i: Expr, n: int) -> None:
            a, b = scaled(x, i, qx, mx, n), scaled(y, i, qy, my, n)
            total = a + b if node.type == "ADD" else a - b
            value = vx.requantize_const(total, *mo, qo.zp, limits, out.dtype, n)
            T.buffer_store(z, value, [at(i, n)])

        _over(T, out.elements, lanes, body)
    return builder.get()


def _q(t: Tensor) -> QuantParams:
    assert t.quant is not None
    return t.quant
