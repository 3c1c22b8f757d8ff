"""Portable CONV_2D and FULLY_CONNECTED that unpack weights of 4-bit codes as they read them: numbers
(int4), or a codebook of up to 16 values. No RAM for unpacked layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from . import REF_RANK
from .lowbit_codes import Codes, as_int8, is_low_bit, weights_of
from .ref_common import lowered
from .ref_conv import _direct, _fully_connected


def four_bits(node: Node, graph: Graph) -> tuple[np.ndarray, Codes]:
    """The layer's weights and their codes of 4 bits; UnsupportedError where there are none."""
    t = weights_of(node, graph)
    codes = None if t is None or t.data is None else Codes.of(t.data)
    if t is None or t.data is None or codes is None or codes.bits > 4:
        raise UnsupportedError("the weights have more than 16 different values")
    return t.data, codes.of_four_bits()


def table_argument(codes: Codes) -> tuple[str, tuple[ConstArray, ...]]:
    """What a call has for the table, and the constant."""
    if codes.table is None:
        return "NULL", ()
    return "{c.table}", (ConstArray("table", "int8_t", codes.table),)


def rows_of(node: Node, graph: Graph) -> tuple[dict[str, object], tuple[ConstArray, ...]]:
    """A fully connected layer, or a convolution of one pixel and stride 1, as rows of ``ek_fc_params``:
    the parameters, and the constants besides the weights. UnsupportedError for other layers."""
    call = (_direct if node.type == "CONV_2D" else _fully_connected)(node, graph)
    x, w, y = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
    if node.type == "CONV_2D" and (
        w.shape[1:3] != (1, 1)
        or tuple(node.attrs["stride"]) != (1, 1)
        or w.shape[3] != x.shape[3]
        or x.shape[1:3] != y.shape[1:3]
    ):
        raise UnsupportedError("not a convolution of one pixel and stride 1")
    assert y.quant is not None
    lo, hi = nm.activation_range(node.attrs["activation"], y.quant, "int8")
    fields: dict[str, object] = {
        "rows": y.elements // w.shape[0],
        "in_c": w.elements // w.shape[0],
        "out_c": w.shape[0],
        "out_zp": y.quant.zp,
        "act_min": lo,
        "act_max": hi,
    }
    return fields, tuple(c for c in call.consts if c.name != "weights")


@dataclass(frozen=True)
class RefCodes:
    name: str
    op: str
    rank: int

    def concerns(self, node: Node, graph: Graph) -> bool:
        return is_low_bit(node, graph)

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        try:
            self.lower(node, graph, target)
        except (UnsupportedError, GraphError) as e:
            return str(e)
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        w, codes = four_bits(node, graph)
        like = _direct if node.type == "CONV_2D" else _fully_connected
        call = like(node, as_int8(node, graph))
        table, consts = table_argument(codes)
        rows = w.reshape(w.shape[0], -1)
        packed = ConstArray("codes", "uint8_t", codes.pack(rows).reshape(-1))
        consts = (packed, *consts, *(c for c in call.consts if c.name != "weights"))
        conv = node.type == "CONV_2D"
        last = ", {scratch}" if conv else ""
        return replace(
            call,
            variant=self.name,
            sources=(f"ref/{self.name}.c",),
            header="ek_lowbit.h",
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {{c.codes}}, {table}, {{c.bias}}, {{c.mult}}, "
                f"{{c.shift}}, {{out0}}{last});"
            ),
            consts=consts,
            scratch_bytes=2 * (-(-rows.shape[1] // 8) * 8) if conv else 0,
        )


def ternary_words(codes: np.ndarray) -> np.ndarray:
    """``[O, K]`` of -1, 0, 1 as uint32 ``[O * K / 16]``: 2 bits each, rows in whole words."""
    rows = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 16))).astype(np.int64) & 3
    words = rows.reshape(-1, 16) << (2 * np.arange(16))
    return np.bitwise_or.reduce(words, axis=1).astype(np.uint32)


@dataclass(frozen=True)
class RefTernary:
    op: str
    name: str = "rows_s8_ternary_ref"
    rank: int = REF_RANK + 2

    def concerns(self, node: Node, graph: Graph) -> bool:
        return is_low_bit(node, graph)

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        try:
            self.lower(node, graph, target)
        except (UnsupportedError, GraphError) as e:
            return str(e)
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        t = weights_of(node, graph)
        if t is None or t.data is None:
            raise UnsupportedError("the weights are not constant")
        size = np.abs(t.data.astype(np.int64))
        unit = int(size.max(initial=0))
        if np.any((size != 0) & (size != unit)):
            raise UnsupportedError("the weights have more than two values besides 0")
        fields, consts = rows_of(node, as_int8(node, graph))
        codes = np.sign(t.data.reshape(t.shape[0], -1))
        words = ConstArray("codes", "uint32_t", ternary_words(codes))
        return lowered(
            self.name,
            "ek_lowbit.h",
            f"&{{p}}, {{in0}}, {{c.codes}}, {unit}, {{c.bias}}, {{c.mult}}, {{c.shift}}, {{out0}}",
            "ek_fc_params",
            fields,
            (words, *consts),
        )


VARIANTS: list[RefCodes | RefTernary] = [
    RefTernary("FULLY_CONNECTED"),
    RefTernary("CONV_2D"),
    RefCodes("conv2d_w4_ref", "CONV_2D", REF_RANK),
    RefCodes("fully_connected_w4_ref", "FULLY_CONNECTED", REF_RANK),
]
