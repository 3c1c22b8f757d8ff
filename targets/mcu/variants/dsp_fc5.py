"""FULLY_CONNECTED with one multiplier for cores with the DSP extension: five outputs a pass.

A CONV_2D whose kernel covers its whole input, unpadded, is one too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import halfword_bias, initializer, pack, reject_common, reject_weights
from .dsp_conv import scratch_limit
from .dsp_fc import covers_input, layer_of
from .dsp_line import Lines, fit


def stream(lines: Lines) -> np.ndarray:
    """The constants of ``ek_fc5_passes``: five outputs after five outputs, the last five last."""
    layer = lines.layer
    o = len(layer.w)
    rows = np.arange(o - o % 5)
    if o % 5:
        rows = np.concatenate([rows, np.arange(o - 5, o)])
    passes = len(rows) // 5
    bias = halfword_bias(layer)[rows].reshape(passes, 5)
    weights = pack(layer.w[rows], 5, True).view("<i4").reshape(passes, -1)
    return np.concatenate([bias, weights], axis=1).reshape(-1)


@dataclass(frozen=True)
class DspFullyConnectedFives:
    op: str
    rank: int
    name: str = "fully_connected_s8_fives_dsp"

    def _lines(self, node: Node, graph: Graph) -> Lines | str:
        y = graph.outs(node)[0]
        act = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        lines = fit(layer_of(node, graph), act, constants=False)
        if isinstance(lines, Lines):
            for values in (lines.m, lines.c, lines.d, lines.k):
                if np.any(values != values[0]):
                    return "the outputs have different multipliers"
            return lines.layer.halfword_reason() or lines
        return lines

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        if node.type == "CONV_2D":
            reason = covers_input(node, graph)
            if reason is not None:
                return reason
        o, k = layer_of(node, graph).w.shape
        if o < 5:
            return f"{o} outputs; at least 5 are needed"
        scratch, limit = -(-k // 4) * 8, scratch_limit(target)
        if limit is not None and scratch > limit:
            return f"it needs {scratch} bytes of scratch; at most {limit} are spent on it"
        lines = self._lines(node, graph)
        return lines if isinstance(lines, str) else None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        lines = self._lines(node, graph)
        assert isinstance(lines, Lines)
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        o, k = lines.layer.w.shape
        act_min, act_max = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        rows = x.elements // k
        fc = initializer(
            {
                "rows": rows,
                "in_c": k,
                "out_c": o,
                "out_zp": lines.layer.out_zp,
                "act_min": act_min,
                "act_max": act_max,
            }
        )
        line = ", ".join(f".{f} = {int(getattr(lines, f)[0])}" for f in ("m", "c", "d", "k"))
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c", "dsp/mac_s8_5x1_line_dsp.c"),
            header="ek_dsp_fc5.h",
            params_type="ek_fc5_params",
            params=f"{{ .fc = {fc}, {line} }}",
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, (const int8_t *)(const void *){{c.stream}}, "
                "{out0}, {scratch});"
            ),
            consts=(ConstArray("stream", "int32_t", stream(lines)),),
            scratch_bytes=-(-k // 4) * 8,
            inplace=((0, 0),) if rows == 1 and o <= k else (),
        )


VARIANTS = [
    DspFullyConnectedFives("FULLY_CONNECTED", 15),
    DspFullyConnectedFives("CONV_2D", 8),
]
