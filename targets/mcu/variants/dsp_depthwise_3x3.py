"""DEPTHWISE_CONV_2D 3x3 with stride 1 for cores with the DSP extension: two rows by two columns at a time,
from pairs of input rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import Linear, const_data, initializer, reject_common, reject_weights, wrap32
from .dsp_conv import geometry, linear_layer, scratch_limit
from .dsp_line import SHORT_SHIFT, Lines, fit

GROUP_BYTES = 4096  #: ``EK_DEPTHWISE_GROUP_BYTES``


def _scratch_bytes(fields: dict[str, int], group_bytes: int) -> int:
    """``ek_dsp_depthwise_scratch_bytes``."""
    plane, channels = 12 * (fields["out_w"] + 2), fields["in_c"]
    group = max(4, min(group_bytes // plane // 4 * 4, -(-channels // 4) * 4))
    return group * plane + -(-fields["in_w"] * channels // 4) * 4


def table(lines: Lines, long: bool) -> np.ndarray:
    """``EK_DEPTHWISE_*_WORDS`` int32 words a channel. Weights of ``lines`` are ``[C, 9]``, row by row."""
    w = 256 * lines.layer.w.reshape(-1, 3, 3)  # [C, row, column]
    low, middle, high = (w[:, i] & 0xFFFF for i in range(3))
    pairs = np.stack([low | middle << 16, middle | high << 16], axis=2).reshape(-1, 6)
    bias = 256 * lines.layer.bias
    columns = [lines.m, lines.c, bias, bias, *([lines.k] if long else [])]
    rest = np.stack(columns, axis=1)
    return wrap32(np.concatenate([pairs, rest], axis=1)).reshape(-1)


@dataclass(frozen=True)
class DspDepthwise3x3:
    """form: how outputs are requantized, ``short``, ``compact`` (fewest constants), ``lean`` (least
    scratch) or ``long``, see ``ek_dsp_line.h``; negative sums have to end at the lower clamp in all of
    them."""

    form: str
    rank: int
    op: str = "DEPTHWISE_CONV_2D"

    @property
    def name(self) -> str:
        return f"depthwise_3x3_s8_{self.form}_dsp"

    def _scratch(self, fields: dict[str, int]) -> int:
        columns = _scratch_bytes(fields, 0 if self.form == "lean" else GROUP_BYTES)
        return columns + (40 * fields["in_c"] if self.form == "compact" else 0)

    def _lines(self, node: Node, graph: Graph) -> Lines | str:
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        assert x.quant is not None
        w = const_data(graph.tensor(node.inputs[1])).reshape(9, -1).T
        folded = linear_layer(node, graph, w)
        bias = folded.bias + x.quant.zp * folded.w.sum(axis=1)  # the kernel subtracts zp itself
        layer = Linear(folded.w, bias, folded.mult, folded.shift, folded.out_zp)
        act = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        shift = None if self.form == "long" else SHORT_SHIFT
        lines = fit(layer, act, shift, x.quant.zp, sign=False)
        if self.form == "compact" and isinstance(lines, Lines) and not lines.compact:
            return "its constants do not follow from the multipliers"
        return lines

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w, a = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), node.attrs
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if w.shape[3] != x.shape[3]:
            return f"the channel multiplier is {w.shape[3] // x.shape[3]}; 1 is implemented"
        if w.shape[1:3] != (3, 3) or tuple(a["stride"]) != (1, 1) or tuple(a["dilation"]) != (1, 1):
            return "the kernel is not 3x3 with stride and dilation 1"
        fields = geometry(node, graph, (3, 3))
        if fields["pad_left"] > 2 or fields["pad_top"] > 2:
            return "more than two columns or rows of padding"
        scratch, limit = self._scratch(fields), scratch_limit(target)
        if limit is not None and scratch > limit:
            return f"it needs {scratch} bytes of scratch; at most {limit} are spent on it"
        lines = self._lines(node, graph)
        return lines if isinstance(lines, str) else None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        lines = self._lines(node, graph)
        assert isinstance(lines, Lines)
        fields = {**geometry(node, graph, (3, 3)), "multiplier": 1}
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        compact = self.form == "compact"
        consts: tuple[ConstArray, ...]
        if compact:
            layer = lines.layer
            pairs = wrap32(np.stack([256 * layer.bias, lines.m], axis=1))
            consts = (
                ConstArray("weights", "int8_t", layer.w.T.reshape(-1).astype(np.int8), align=1),
                ConstArray("lines", "int32_t", pairs.reshape(-1)),
            )
        else:
            consts = (ConstArray("table", "int32_t", table(lines, self.form == "long")),)
        arrays = ", ".join(f"{{c.{c.name}}}" for c in consts)
        return KernelCall(
            variant=self.name,
            sources=(
                f"dsp/{self.name}.c",
                f"dsp/depthwise_rows_s8_{'long' if self.form == 'long' else 'short'}_dsp.c",
                "dsp/depthwise_pairs_s8_dsp.c",
            ),
            header="ek_dsp_depthwise.h",
            params_type="ek_depthwise_params",
            params=initializer(fields),
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {arrays}, {{out0}}, {{scratch}});",
            consts=consts,
            scratch_bytes=self._scratch(fields),
            inplace=((0, 0),) if x.shape == y.shape else (),
        )


VARIANTS = [
    DspDepthwise3x3("short", 20),
    DspDepthwise3x3("compact", 21),
    DspDepthwise3x3("long", 22),
    DspDepthwise3x3("lean", 23),
]
