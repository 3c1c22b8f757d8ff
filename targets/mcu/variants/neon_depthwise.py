"""DEPTHWISE_CONV_2D with multiplier 1 for 64-bit Arm cores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import Linear, const_data, reject_weights
from .dsp_conv import geometry, linear_layer
from .neon_common import (
    LANES,
    channel_consts,
    finish,
    initializer,
    reject_common,
    reject_shifts,
)
from .neon_conv import leaves_input, ring_row

MAX_ROWS = 16  #: ``EK_NEON_MAX_ROWS``
_FIELDS = (
    "in_h", "in_w", "in_c", "out_h", "out_w", "kernel_h", "kernel_w", "stride_h", "stride_w",
    "dilation_h", "dilation_w", "pad_top", "pad_left", "in_zp", "out_zp", "act_min", "act_max",
)  # fmt: skip


def _layer(node: Node, graph: Graph) -> Linear:
    """Weights as ``[channel, taps]``."""
    w = const_data(graph.tensor(node.inputs[1]))
    return linear_layer(node, graph, w.transpose(3, 0, 1, 2).reshape(w.shape[3], -1))


def _blocks(w: np.ndarray) -> np.ndarray:
    """``[taps, C]`` as int8 ``[block, taps, 16]``."""
    taps = len(w)
    w = np.pad(w, ((0, 0), (0, -w.shape[1] % LANES))).astype(np.int8)
    return w.reshape(taps, -1, LANES).transpose(1, 0, 2)


def _pack(w: np.ndarray) -> np.ndarray:
    return _blocks(w).reshape(-1)


def _pack_dot(w: np.ndarray) -> np.ndarray:
    """``[9, C]`` as int8 ``[block][early or late][row][channel][4]``."""
    rows = _blocks(w).reshape(-1, 3, 3, LANES).transpose(0, 1, 3, 2)  # block, row, channel, tap
    none = np.zeros((*rows.shape[:3], 1), np.int8)
    both = [np.concatenate(p, axis=3) for p in ((rows, none), (none, rows))]
    return np.stack(both, axis=1).reshape(-1)


@dataclass(frozen=True)
class NeonDepthwise:
    """form: ``any``, ``3x3`` or ``3x3_dot``."""

    form: str
    rank: int
    op: str = "DEPTHWISE_CONV_2D"

    @property
    def name(self) -> str:
        return f"depthwise_{self.form}_s8_neon"

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        feature = "dotprod" if self.form == "3x3_dot" else "neon"
        reason = reject_common(node, graph, target, feature) or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w = graph.tensor(node.inputs[0]), const_data(graph.tensor(node.inputs[1]))
        a = node.attrs
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if w.shape[3] != x.shape[3]:
            return f"the multiplier is {w.shape[3] // x.shape[3]}, not 1"
        if self.form == "any":
            if w.shape[1] > MAX_ROWS:
                return f"the kernel has {w.shape[1]} rows; at most {MAX_ROWS} are taken"
        elif w.shape[1:3] != (3, 3) or a["dilation"][1] != 1:
            return "the kernel is not 3x3 without dilation along rows"
        if self.form == "3x3_dot" and a["stride"][1] != 1:
            return "the stride along rows is not 1"
        if self.form == "3x3" and w.min() < -127:
            return "a weight is -128: two products of it do not fit 16 bits"
        return reject_shifts(_layer(node, graph))

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        w = const_data(graph.tensor(node.inputs[1]))
        _, kh, kw, c = w.shape
        f = geometry(node, graph, (kh, kw))
        copy = c % LANES != 0 or leaves_input(f)
        scratch = 0
        if copy:
            columns = (f["out_w"] - 1) * f["stride_w"] + (kw - 1) * f["dilation_w"] + 1
            scratch = ((kh - 1) * f["dilation_h"] + 1) * ring_row(columns, c)
        taps = w.reshape(kh * kw, c)
        packed = _pack_dot(taps) if self.form == "3x3_dot" else _pack(taps)
        fields: dict[str, object] = {k: f[k] for k in _FIELDS}
        layer = _layer(node, graph)
        fields["finish"] = finish(layer, f["act_min"], f["act_max"])
        fields |= {"copy": int(copy), "row": f"ek_neon_depthwise_{self.form}"}
        return KernelCall(
            variant=self.name,
            sources=("neon/depthwise_s8_neon.c", f"neon/depthwise_{self.form}_s8_neon.c"),
            header="ek_neon.h",
            params_type="ek_neon_depthwise_params",
            params=initializer(fields),
            call=(
                "ek_depthwise_s8_neon(&{p}, {in0}, {c.weights}, {c.bias}, {c.mult}, {c.shift}, "
                "{out0}, {scratch});"
            ),
            consts=(
                ConstArray("weights", "int8_t", packed, align=16),
                *channel_consts(layer),
            ),
            scratch_bytes=scratch,
            details={"copied": copy},
        )


VARIANTS = [NeonDepthwise("3x3_dot", 20), NeonDepthwise("3x3", 25), NeonDepthwise("any", 40)]
