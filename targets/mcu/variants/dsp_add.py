"""ADD of two activations of one shape for cores with the DSP extension."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops.elementwise import add_multipliers, head_room
from edgekit.targets.schema import Target

from ..contract import KernelCall
from .dsp_common import MAX_EXP, initializer, reject_common, wrap32

_HALF = (1 << 30, 0)  #: the multiplier 1/2, which the operand of the larger scale always has


#: Elements from which making the table pays (8 instructions an entry, 16 saved an element).
_TABLE_ELEMENTS = 256


@dataclass(frozen=True)
class DspAdd:
    """table: through a table of one operand's values, made in 1 KiB of scratch at run time."""

    table: bool
    rank: int
    op: str = "ADD"

    @property
    def name(self) -> str:
        return "add_s8_table_dsp" if self.table else "add_s8_dsp"

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        x, y, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
        if x.is_const or y.is_const:
            return "an operand is constant"
        if x.shape != y.shape:
            return f"the shapes {list(x.shape)} and {list(y.shape)} differ"
        assert x.quant is not None and y.quant is not None and out.quant is not None
        mx, my, (mult, shift) = add_multipliers(x.quant, y.quant, out.quant, head_room("int8"))
        if mx[0] == 0 or my[0] == 0:
            return "an operand's multiplier is flushed to zero"
        offset = abs(2 * out.quant.zp + 1) << max(-shift - 1, 0)
        # either operand is at most 255 / 2 * 2^20 in size, and one more for rounding
        if not 1 <= -shift <= MAX_EXP or mult < 1 << 30 or (256 << 20) + offset >= 1 << 31:
            return f"the output multiplier {mult} * 2^{shift - 31} is out of the fast range"
        if self.table and x.elements < _TABLE_ELEMENTS:
            return f"{x.elements} elements are too few for a table"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        x, y, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
        assert x.quant is not None and y.quant is not None and out.quant is not None
        mx, my, (mult, shift) = add_multipliers(x.quant, y.quant, out.quant, head_room("int8"))
        half, mul, q_half, q_mul, m = 0, 1, x.quant, y.quant, my
        if mx != _HALF:
            half, mul, q_half, q_mul, m = 1, 0, y.quant, x.quant, mx
        # a second exact half: the product is the value itself (multiplier 0), divided by two
        mul_mult, mul_exp = (0, 1) if m == _HALF else (int(wrap32(2 * m[0])), -m[1])
        act_min, act_max = nm.activation_range(node.attrs["activation"], out.quant, "int8")
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c",),
            header="ek_dsp.h",
            params_type="ek_add_dsp_params",
            params=initializer(
                {
                    "count": x.elements,
                    "half_offset": -q_half.zp << 19,
                    "mul_offset": -q_mul.zp << 20,
                    "mul_mult": mul_mult,
                    "mul_exp": mul_exp,
                    "out_mult": int(wrap32(2 * mult)),
                    "out_round": (2 * out.quant.zp + 1) << (-shift - 1),
                    "out_exp": -shift,
                    "act_min": act_min,
                    "act_max": act_max,
                }
            ),
            call=f"ek_{self.name}(&{{p}}, {{in{half}}}, {{in{mul}}}, {{out0}}"
            + (", {scratch});" if self.table else ");"),
            scratch_bytes=1024 if self.table else 0,
            inplace=((0, 0), (1, 0)),
        )


VARIANTS = [DspAdd(True, 20), DspAdd(False, 30)]
