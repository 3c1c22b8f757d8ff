"""ADD, pooling, MEAN, SUM and functions of one byte for 64-bit Arm cores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops.pool import mean_multiplier
from edgekit.targets.schema import Target

from ..contract import KernelCall
from . import ref_elementwise, ref_quant
from .dsp_pool import pool_call, refused_window
from .mve_add import linear_form
from .neon_common import LANES, MAX_EXP, features, initializer, reject_common
from .ref_common import product, wrap32

_RANK = 20
_MAX_ROWS = 256  #: inputs whose sum stays inside 16 bits
_REF = "lut_s8_ref"
_TABLES = {v.op: v for v in (*ref_elementwise.VARIANTS, *ref_quant.VARIANTS) if v.name == _REF}


def _form(node: Node, graph: Graph) -> tuple[int, int, int, int] | None:
    tensors = (*(graph.tensor(n) for n in node.inputs[:2] if n), graph.outs(node)[0])
    x, y, out = ((t.quant.s, t.quant.zp) for t in tensors if t.quant is not None)
    return linear_form(x, y, out, node.attrs["activation"])


@dataclass(frozen=True)
class NeonAdd:
    name: str = "add_s8_linear_neon"
    op: str = "ADD"
    rank: int = _RANK

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        x, y, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
        if x.is_const or y.is_const or x.shape != y.shape:
            return "the operands are not two activations of one shape"
        if nm.activation_range(node.attrs["activation"], out.quant, "int8") != (-128, 127):
            return "the activation clamps inside the int8 range"
        if _form(node, graph) is None:
            return "no linear form gives the quantized sum of every pair of bytes"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        form = _form(node, graph)
        assert form is not None
        fields = dict(zip(("a", "b", "c", "shift"), form, strict=True))
        return KernelCall(
            variant=self.name,
            sources=(f"neon/{self.name}.c",),
            header="ek_neon.h",
            params_type="ek_neon_add_params",
            params=initializer({"count": graph.outs(node)[0].elements, **fields}),
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {{in1}}, {{out0}});",
            inplace=((0, 0), (1, 0)),
        )


@dataclass(frozen=True)
class NeonPool:
    name: str
    op: str
    rank: int = _RANK

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is None and self.op == "AVERAGE_POOL_2D":
            reason = refused_window(node, graph)
        if reason is not None:
            return reason
        x = graph.tensor(node.inputs[0])
        if x.shape[0] != 1 or x.shape[3] < LANES:
            return f"a batch of {x.shape[0]} of {x.shape[3]} channels does not fill vectors"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        return pool_call(self.name, "neon", "ek_neon.h", node, graph)


def _sum_fields(node: Node, graph: Graph) -> dict[str, int]:
    """``ek_neon_sum_params`` of a MEAN or SUM; the multipliers are the portable kernel's."""
    x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
    assert x.quant is not None and y.quant is not None
    rows = product([x.shape[a] for a in set(node.attrs["axes"])])
    if node.type == "MEAN":
        mult, shift = mean_multiplier(x.quant.s, y.quant.s, rows)
    else:
        mult, shift = nm.quantize_multiplier(x.quant.s / y.quant.s)
    return {
        "rows": rows,
        "channels": x.elements // rows,
        "zero_sum": int(wrap32(np.asarray(x.quant.zp * rows))),
        "mult": int(mult),
        "shift": int(shift),
        "out_zp": y.quant.zp,
    }


@dataclass(frozen=True)
class NeonSum:
    op: str
    name: str = "sum_s8_neon"
    rank: int = _RANK

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        x = graph.tensor(node.inputs[0])
        reduced = sorted(node.attrs["axes"])
        rows = product([x.shape[a] for a in reduced])
        if any(d > 1 for a, d in enumerate(x.shape[: reduced[-1]]) if a not in reduced):
            return "an axis in front of a reduced one stays"
        if rows > _MAX_ROWS or x.elements // rows < LANES:
            return f"sums of {rows} rows of {x.elements // rows} values"
        shift = _sum_fields(node, graph)["shift"]
        if not -MAX_EXP <= shift <= -1:
            return f"the output multiplier is shifted right by {-shift}; 1 to {MAX_EXP} are exact"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        return KernelCall(
            variant=self.name,
            sources=(f"neon/{self.name}.c",),
            header="ek_neon.h",
            params_type="ek_neon_sum_params",
            params=initializer(_sum_fields(node, graph)),
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {{out0}});",
        )


@dataclass(frozen=True)
class NeonLut:
    op: str
    name: str = "lut_s8_neon"
    rank: int = _RANK

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        if "neon" not in features(target):
            return f"code for {target.name} has no 64-bit Advanced SIMD"
        if graph.outs(node)[0].elements < LANES:
            return f"{graph.outs(node)[0].elements} elements do not fill a vector"
        try:
            _TABLES[self.op].lower(node, graph, target)
        except (UnsupportedError, GraphError) as e:
            return str(e)
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        call = _TABLES[self.op].lower(node, graph, target)
        return replace(
            call,
            variant=self.name,
            sources=(f"neon/{self.name}.c",),
            header="ek_neon.h",
            call=call.call.replace(f"ek_{_REF}(", f"ek_{self.name}("),
        )


VARIANTS = [
    NeonAdd(),
    NeonPool("average_pool_s8_neon", "AVERAGE_POOL_2D"),
    NeonPool("max_pool_s8_neon", "MAX_POOL_2D"),
    NeonSum("MEAN"),
    NeonSum("SUM"),
    *(NeonLut(op) for op in sorted(_TABLES)),
]
