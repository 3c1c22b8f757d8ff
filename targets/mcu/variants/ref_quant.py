"""Portable QUANTIZE and DEQUANTIZE: float32, int8, uint8, int16, int32."""

from __future__ import annotations

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, Tensor

from ..contract import KernelCall
from .ref_common import RefVariant, lowered, output, required, scaled, shared_buffers
from .ref_elementwise import byte_table, table_call

HEADER = "ek_quant.h"
_TYPES = {"int8": "EK_S8", "uint8": "EK_U8", "int16": "EK_S16", "int32": "EK_S32"}


def _type(t: Tensor, *allowed: str) -> str:
    names = allowed or tuple(_TYPES)
    if t.dtype not in names:
        raise UnsupportedError(
            f"tensor '{t.name}' is {t.dtype}; the kernel takes {', '.join(names)}"
        )
    return _TYPES[t.dtype]


def _float_fields(n: int, integers: Tensor) -> dict[str, object]:
    q = scaled(integers)
    # a hexadecimal literal is exact
    return {"n": n, "type": _type(integers), "zp": q.zp, "scale": f"{q.s.hex()}f"}


def _requantize(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    in_type, out_type = _type(x), _type(y)
    mult, shift = nm.quantize_multiplier(scaled(x).s / scaled(y).s)
    fields = {
        "n": x.elements,
        "in_type": in_type,
        "out_type": out_type,
        "in_zp": scaled(x).zp,
        "out_zp": scaled(y).zp,
        "mult": mult,
        "shift": shift,
    }
    inplace = shared_buffers(node, graph)
    call = "&{p}, {in0}, {out0}"
    return lowered("requantize_ref", HEADER, call, "ek_requantize_params", fields, inplace=inplace)


def _quantize_float(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    if x.dtype != "float32":
        raise UnsupportedError(f"tensor '{x.name}' is {x.dtype}; the kernel takes float32")
    _type(y, "int8", "uint8", "int16")
    fields = _float_fields(x.elements, y)
    call = "&{p}, {in0}, {out0}"
    return lowered("quantize_f32_ref", HEADER, call, "ek_float_params", fields)


def _quantize_bytes(node: Node, graph: Graph) -> KernelCall:
    return table_call(node, graph, byte_table(node, graph))


def _dequantize(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    if y.dtype != "float32":
        raise UnsupportedError(f"tensor '{y.name}' is {y.dtype}; the kernel gives float32")
    if x.is_float:
        raise UnsupportedError(f"tensor '{x.name}' is {x.dtype}; the kernel takes integers")
    fields = _float_fields(x.elements, x)
    call = "&{p}, {in0}, {out0}"
    return lowered("dequantize_f32_ref", HEADER, call, "ek_float_params", fields)


VARIANTS = [
    RefVariant("lut_s8_ref", "QUANTIZE", _quantize_bytes, rank=95),
    RefVariant("quantize_f32_ref", "QUANTIZE", _quantize_float),
    RefVariant("requantize_ref", "QUANTIZE", _requantize),
    RefVariant("dequantize_f32_ref", "DEQUANTIZE", _dequantize),
]
