"""Portable CONV_2D and FULLY_CONNECTED that unpack weights of 4-bit codes as they read them: numbers
(int4), or a codebook of up to 16 values. No RAM for unpacked layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from . import REF_RANK
from .lowbit_codes import Codes, as_int8, is_low_bit, weights_of
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


VARIANTS = [
    RefCodes("conv2d_w4_ref", "CONV_2D", REF_RANK),
    RefCodes("fully_connected_w4_ref", "FULLY_CONNECTED", REF_RANK),
]
