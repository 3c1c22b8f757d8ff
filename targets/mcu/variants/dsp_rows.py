"""CONV_2D for cores with the DSP extension whose windows are runs of words: kernels of one pixel, and
first layers of few channels. Two channels by three pixels at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import (
    const_data,
    halfword_bias,
    initializer,
    pack,
    reject_common,
    reject_weights,
    wrap32,
)
from .dsp_conv import geometry, linear_layer, scratch_limit
from .dsp_line import SHORT_SHIFT, Lines, fit

#: Most bytes of the padded copy: beyond, windows read row by row by other kernels take less RAM.
COPY_LIMIT = 8192


@dataclass(frozen=True)
class _Shape:
    """kernel: (height, width). words: of a run. copy: whether windows are read from a padded copy."""

    kernel: tuple[int, int]
    words: int
    copy: bool
    scratch: int


def _shape(node: Node, graph: Graph) -> _Shape:
    x, y, w = graph.tensor(node.inputs[0]), graph.outs(node)[0], graph.tensor(node.inputs[1])
    _, kh, kw, c = w.shape
    a = node.attrs
    pads, _ = nm.conv_padding(
        (x.shape[1], x.shape[2]), (kh, kw), a["stride"], a["padding"], a["dilation"]
    )
    words = -(-kw * c // 4)
    copy = any(pads) or kw * c % 4 != 0
    rows = (y.shape[1] - 1) * a["stride"][0] + kh
    pitch = ((y.shape[2] - 1) * a["stride"][1] + kw) * c
    return _Shape((kh, kw), words, copy, 24 * kh * words + (rows * pitch + 4 if copy else 0))


def padded_runs(w: np.ndarray, words: int) -> np.ndarray:
    """``[O, kh, kw, I]`` weights as ``[O, kh * words * 4]``: zeros behind each run."""
    o, kh, kw, c = w.shape
    runs = w.reshape(o, kh, kw * c)
    return np.pad(runs, ((0, 0), (0, 0), (0, 4 * words - kw * c))).reshape(o, -1)


def stream(lines: Lines, form: str) -> np.ndarray:
    """The constants of ``ek_conv_triples``, pair of channels after pair: int32."""
    layer = lines.layer
    pairs = len(layer.w) // 2
    bias = np.repeat(halfword_bias(layer), 1 if form == "compact" else 3).reshape(pairs, -1)
    weights = pack(layer.w, 2, True).view("<i4").reshape(pairs, -1)
    columns = [lines.m, lines.c, lines.d, lines.k][: {"compact": 1, "short": 2, "long": 4}[form]]
    quant = wrap32(np.stack(columns, axis=1)).reshape(pairs, -1)
    return np.concatenate([bias, weights, quant], axis=1).reshape(-1)


@dataclass(frozen=True)
class DspConvRows:
    """form: how outputs are requantized, ``short`` or ``compact`` (ReLU at zero point -128), or
    ``long``."""

    form: str
    rank: int
    op: str = "CONV_2D"

    @property
    def name(self) -> str:
        return f"conv2d_s8_rows_{self.form}_dsp"

    def _lines(self, node: Node, graph: Graph) -> Lines | str:
        y = graph.outs(node)[0]
        w = const_data(graph.tensor(node.inputs[1]))
        layer = linear_layer(node, graph, padded_runs(w, _shape(node, graph).words))
        act = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        lines = fit(layer, act, None if self.form == "long" else SHORT_SHIFT)
        if isinstance(lines, Lines):
            if self.form == "compact" and not lines.compact:
                return "its constants do not follow from the multipliers"
            reason = lines.layer.halfword_reason()
            if reason is not None:
                return reason
        return lines

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w = graph.tensor(node.inputs[0]), const_data(graph.tensor(node.inputs[1]))
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if w.shape[3] != x.shape[3]:
            return f"{x.shape[3] // w.shape[3]} groups; one is implemented"
        if w.shape[0] % 2:
            return f"{w.shape[0]} output channels: an odd number"
        if tuple(node.attrs["dilation"]) != (1, 1):
            return "the kernel is dilated"
        shape = _shape(node, graph)
        taps, used = 4 * shape.words, w.shape[2] * w.shape[3]
        if taps > used * 4 // 3 and taps - used > 1:
            return f"runs of {used} inputs fill too little of {taps} bytes"
        copied = shape.scratch - 24 * w.shape[1] * shape.words
        if copied > COPY_LIMIT:
            return f"its padded copy takes {copied} bytes; at most {COPY_LIMIT} are spent on it"
        limit = scratch_limit(target)
        if limit is not None and shape.scratch > limit:
            return f"it needs {shape.scratch} bytes of scratch; at most {limit} are spent on it"
        lines = self._lines(node, graph)
        return lines if isinstance(lines, str) else None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        lines, shape = self._lines(node, graph), _shape(node, graph)
        assert isinstance(lines, Lines)
        conv = initializer({**geometry(node, graph, shape.kernel), "groups": 1})
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        pointwise = shape.kernel == (1, 1) and not shape.copy and x.shape == y.shape
        return KernelCall(
            variant=self.name,
            sources=(
                f"dsp/{self.name}.c",
                f"dsp/mac_s8_2x3_{self.form}_dsp.c",
                "dsp/triple_columns_s8_dsp.c",
            ),
            header="ek_dsp_line.h",
            params_type="ek_conv_rows_params",
            params=f"{{ .conv = {conv}, .row_words = {shape.words}, .copy = {int(shape.copy)} }}",
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, (const int8_t *)(const void *){{c.stream}}, "
                "{out0}, {scratch});"
            ),
            consts=(ConstArray("stream", "int32_t", stream(lines, self.form)),),
            scratch_bytes=shape.scratch,
            inplace=((0, 0),) if pointwise else (),
            details={"copy": shape.copy, "constant_channels": int(np.sum(lines.m == 0))},
        )


VARIANTS = [DspConvRows("short", 16), DspConvRows("compact", 17), DspConvRows("long", 18)]
