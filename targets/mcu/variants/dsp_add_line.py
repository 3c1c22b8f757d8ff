"""ADD of two activations of one shape as one linear form, for cores with the DSP extension.

TFLite rounds three times on the way to a sum. For given scales there may still be one linear form with
the same result for every pair of bytes; whether there is one is tried on all 65,536 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.graph.reference import run_node
from edgekit.targets.schema import Target

from ..contract import KernelCall
from .dsp_common import initializer, reject_common

SHIFT = 20
_BYTES = np.arange(-128, 128, dtype=np.int64)
#: Slopes tried around the real ones, in units of 2^-20 over the whole range of a byte.
_OFFSETS = (0, 1, -1, 2, -2, 4, -4)


@cache
def _form(
    x: tuple[float, int], y: tuple[float, int], out: tuple[float, int], activation: str
) -> tuple[int, int, int] | None:
    """a, b, c for (scale, zero point) of the operands and the output; None: there are none."""
    shape = (256, 256)
    graph = Graph("add", {}, [], ("x", "y"), ("z",))
    for name, (s, zp) in (("x", x), ("y", y), ("z", out)):
        graph.add_tensor(Tensor(name, shape, "int8", QuantParams.per_tensor(s, zp)))
    node = graph.add_node("ADD", ["x", "y"], ["z"], {"activation": activation}, "add")
    byte = _BYTES.astype(np.int8)
    values = {"x": np.repeat(byte[:, None], 256, 1), "y": np.repeat(byte[None, :], 256, 0)}
    want = run_node(node, graph, values)[0].astype(np.int64)
    a0, b0 = (round(s / out[0] * 2 ** (SHIFT + 8)) for s in (x[0], y[0]))
    for da in _OFFSETS:
        for db in _OFFSETS:
            a, b = a0 + da, b0 + db
            if max(abs(a), abs(b)) >= 1 << 31:
                return None
            t = (a * _BYTES[:, None] >> 8) + (b * _BYTES[None, :] >> 8)
            low = np.where(want > -128, (want << SHIFT) - t, -(1 << 40)).max()
            high = np.where(want < 127, ((want + 1) << SHIFT) - 1 - t, 1 << 40).min()
            if low > high or low <= -(1 << 40) or high >= 1 << 40:
                continue
            c = int(low + high) // 2
            partial = np.abs((a * _BYTES >> 8) + c).max()
            if max(partial, np.abs(t + c).max(), abs(c)) < 1 << 31:
                return a, b, c
    return None


@dataclass(frozen=True)
class DspAddLine:
    name: str = "add_s8_line_dsp"
    op: str = "ADD"
    rank: int = 10

    def _constants(self, node: Node, graph: Graph) -> tuple[int, int, int] | None:
        x, y, out = (graph.tensor(n) for n in (*node.inputs, node.outputs[0]) if n is not None)
        assert x.quant is not None and y.quant is not None and out.quant is not None
        pairs = [(float(q.s), int(q.zp)) for q in (x.quant, y.quant, out.quant)]
        return _form(*pairs, node.attrs["activation"])

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        x, y = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1])
        if x.is_const or y.is_const:
            return "an operand is constant"
        if x.shape != y.shape:
            return f"the shapes {list(x.shape)} and {list(y.shape)} differ"
        if self._constants(node, graph) is None:
            return "no linear form gives the reference's bytes for all pairs of inputs"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        found = self._constants(node, graph)
        assert found is not None
        a, b, c = found
        fields = {"count": graph.tensor(node.inputs[0]).elements, "a": a, "b": b, "c": c}
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c",),
            header="ek_dsp_line.h",
            params_type="ek_add_line_params",
            params=initializer(fields),
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {{in1}}, {{out0}});",
            inplace=((0, 0), (1, 0)),
        )


VARIANTS = [DspAddLine()]
